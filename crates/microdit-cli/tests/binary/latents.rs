//! From collected pictures to pictures drawn by a network trained on their latents.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    encoders,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Shards of pictures in these tests, 16 samples each.
pub(crate) const SHARDS: usize = 6;

/// A directory with small encoders and shards of pictures, the last of them with damaged samples.
pub(crate) struct Workshop {
    pub(crate) folder: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        encoders::vae(&folder.path().join("vae"));
        encoders::clip(&folder.path().join("clip"));
        fs::create_dir(folder.path().join("pictures")).unwrap();
        for i in 0..SHARDS {
            let name = if i + 1 == SHARDS {
                "wds_dirty.tar"
            } else {
                "wds_clean.tar"
            };
            let shard = folder.path().join(format!("pictures/{i}.tar"));
            fs::copy(root().join("tests/goldens").join(name), shard).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// The command that makes latents of the pictures in `out`.
    pub(crate) fn precompute(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command
            .args([
                "data",
                "precompute",
                &self.path("pictures"),
                "--out",
                &self.path(out),
            ])
            .args([
                "--vae",
                &self.path("vae"),
                "--text-encoder",
                &self.path("clip"),
            ])
            .args(["--sizes", "32,64", "--batch", "3"])
            .args(more)
            .env_remove("SLURM_PROCID")
            .env_remove("SLURM_NTASKS")
            .current_dir(root());
        command
    }

    #[track_caller]
    pub(crate) fn precomputed(&self, out: &str, more: &[&str]) -> String {
        let output = self.precompute(out, more).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    /// Files in a directory by name.
    pub(crate) fn files(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        files
            .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
            .collect()
    }
}

/// Same names, same content.
#[track_caller]
pub(crate) fn same(one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>) {
    assert!(
        one.keys().eq(other.keys()),
        "{:?} and {:?}",
        one.keys(),
        other.keys()
    );
    for (name, content) in one {
        assert!(other[name] == *content, "{} differs", name.display());
    }
}

#[test]
fn a_killed_precomputation_ends_as_if_nothing_had_happened() {
    let workshop = Workshop::new();
    let said = workshop.precomputed("whole", &[]);
    // Of the 16 samples of the last shard, five are damaged.
    assert!(said.contains("91 samples in 6 shards"), "{said}");
    for lack in [
        "an image that cannot be decoded",
        "an image file that is truncated",
        "no image",
        "no caption",
        "an empty caption",
    ] {
        assert!(said.contains(&format!("left out 1: {lack}")), "{said}");
    }
    // Killed later and later, until it ends by itself.
    let mut kills = 0;
    for shards in 1..=SHARDS {
        let mut child = workshop
            .precompute("killed", &[])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sidecar = workshop.path(&format!("killed/{:06}.json", shards - 1));
        let begun = Instant::now();
        while !Path::new(&sidecar).exists() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(7 * shards as u64));
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills >= SHARDS - 1, "only {kills} kills hit");
    workshop.precomputed("killed", &[]);
    // A part that the last kill left behind is no shard.
    let mut killed = workshop.files("killed");
    killed.retain(|name, _| name.extension().is_none_or(|extension| extension != "part"));
    same(&killed, &workshop.files("whole"));
}

#[test]
fn several_processes_make_what_one_makes() {
    let workshop = Workshop::new();
    workshop.precomputed("one", &[]);
    let said = workshop.precomputed("many", &["--rank", "1", "--world-size", "2"]);
    assert!(said.contains("3 of 3 shards of rank 1 are there"), "{said}");
    let index = microdit(&["data", "index", &workshop.path("many")]);
    fails(
        &index,
        &[
            "3 of 6 sources are missing (0.tar, 2.tar, 4.tar)",
            "run the same precompute command",
        ],
    );
    // As Slurm says it.
    let output = workshop
        .precompute("many", &[])
        .env("SLURM_PROCID", "0")
        .env("SLURM_NTASKS", "2")
        .output();
    assert!(output.unwrap().status.success());
    succeeds(&["data", "index", &workshop.path("many")]);
    same(&workshop.files("many"), &workshop.files("one"));
}

#[test]
fn other_settings_do_not_mix() {
    let workshop = Workshop::new();
    workshop.precomputed("out", &["--rank", "0", "--world-size", "6"]);
    let other = workshop
        .precompute("out", &["--seed", "5"])
        .output()
        .unwrap();
    fails(
        &other,
        &[
            "precompute.json",
            "other settings",
            "seed: expected 18, found 5",
        ],
    );
    let size = workshop
        .precompute("new", &["--sizes", "30"])
        .output()
        .unwrap();
    fails(&size, &["30", "multiple of 8"]);
    let twice = workshop
        .precompute("new", &["--sizes", "32,64,32"])
        .output()
        .unwrap();
    fails(&twice, &["size 32 is listed twice"]);
    let rank = workshop
        .precompute("new", &["--rank", "2", "--world-size", "2"])
        .output()
        .unwrap();
    fails(&rank, &["--rank 2 must be below --world-size 2"]);
    let (pictures, out, vae) = (
        workshop.path("pictures"),
        workshop.path("new"),
        workshop.path("vae"),
    );
    let tower = microdit(&[
        "data",
        "precompute",
        &pictures,
        "--out",
        &out,
        "--vae",
        &vae,
        "--text-encoder",
        &vae,
    ]);
    fails(
        &tower,
        &["no weights in this directory", "model.safetensors"],
    );
}

#[test]
fn latents_are_inspected_trained_on_and_drawn() {
    let workshop = Workshop::new();
    workshop.precomputed("latents", &[]);
    let sheet = workshop.path("sheet.png");
    let vae = workshop.path("vae");
    let said = succeeds(&[
        "data",
        "inspect",
        &workshop.path("latents"),
        "--sheet",
        &sheet,
        "--samples",
        "9",
        "--vae",
        &vae,
    ]);
    for part in [
        "members caption.npy, latent-32.npy, latent-64.npy, txt",
        "samples 91",
        "sizes [4, 4, 4] (91), [4, 8, 8] (91)",
        "captions [77, 64] (91)",
        "damaged 0",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    // Nine pictures of 32 pixels, two pixels apart.
    assert_eq!(image::open(&sheet).unwrap().width(), 3 * 34 + 2);
    // A shard that changes after it was written is found.
    let shard = workshop.path("latents/000002.tar");
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    fails(
        &microdit(&["data", "inspect", &workshop.path("latents")]),
        &[
            "shard 000002.tar: its checksum is not that of the index",
            "1 shards are broken, of 6 that are there",
        ],
    );

    let recipe = workshop.path("latents.ron");
    fs::write(&recipe, RECIPE).unwrap();
    let run = workshop.path("run");
    let shards = format!("data.shards={:?}", workshop.path("latents"));
    let encoders = format!("encoders=(vae: {vae:?}, text: {:?})", workshop.path("clip"));
    let said = succeeds(&[
        "train", &recipe, "--run", &run, "--set", &shards, "--set", &encoders,
    ]);
    assert!(said.contains("2 pictures"), "{said}");
    for picture in ["samples.png", "samples-00000002.png"] {
        assert!(Path::new(&run).join(picture).is_file(), "{picture}");
    }
    // Prompts from a file, with another text encoder than the recipe's, one by one.
    let prompts = workshop.path("prompts.txt");
    fs::write(&prompts, "a red square\n\na café at night\n").unwrap();
    let (out, singles) = (workshop.path("drawn.png"), workshop.path("singles"));
    let said = succeeds(&[
        "sample",
        "--run",
        &run,
        "--prompts",
        &prompts,
        "--out",
        &out,
        "--singles",
        &singles,
        "--seed",
        "7",
    ]);
    assert!(said.contains("2 pictures"), "{said}");
    let second = fs::read(Path::new(&singles).join("00001.png")).unwrap();
    let holds = |part: &str| {
        second
            .windows(part.len())
            .any(|window| window == part.as_bytes())
    };
    assert!(holds("a café at night") && holds("seed"));
    assert_eq!(image::open(&out).unwrap().height(), 2 * 34 + 2);
    // The published architectures need another text encoder.
    let (clip, weights) = (
        workshop.path("clip"),
        workshop.path("run/weights.safetensors"),
    );
    let output = microdit(&[
        "sample",
        "--weights",
        &weights,
        "--vae",
        &vae,
        "--text-encoder",
        &clip,
        "--prompt",
        "x",
    ]);
    fails(
        &output,
        &["the text encoder has 64 channels; the network was trained with 1024"],
    );
}

/// A small network for latents of the golden VAE and states of the golden text tower.
const RECIPE: &str = r#"(
    name: "latents",
    seed: 1,
    model: (
        input_size: 4, patch_size: 1, in_channels: 4, dim: 32, depth: 2, head_dim: 16, multiple_of: 16, caption_channels: 64,
        qkv_width: Constant(1.0), ffn_width: Constant(1.0),
    ),
    diffusion: Edm(sigma_data: 0.2, p_mean: -0.6, p_std: 1.2),
    data: (dataset: Latents, image_size: 32),
    codec: Latents,
    captions: Precomputed(tokens: 77, drop: 0.1),
    batch: 8,
    stages: [(name: "only", steps: 3)],
    sampling: (prompts: ["a red circle", "a blue square"], steps: 2, every: 2),
)"#;

#[test]
fn latents_the_reference_wrote_are_inspected_in_place() {
    let folder = tempfile::tempdir().unwrap();
    encoders::vae(&folder.path().join("vae"));
    let (vae, sheet) = (folder.path().join("vae"), folder.path().join("sheet.png"));
    let (vae, sheet) = (vae.to_string_lossy(), sheet.to_string_lossy());
    for shards in ["tests/goldens/mds_plain", "tests/goldens/mds_zstd"] {
        let said = succeeds(&[
            "data",
            "inspect",
            shards,
            "--sheet",
            &sheet,
            "--samples",
            "4",
            "--vae",
            &vae,
        ]);
        for part in [
            "members caption, caption_latents, latents_256",
            "shards 3",
            "samples 24",
            "sizes [1024] (24)",
            "captions [224] (24)",
            "damaged 0",
        ] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        // Four pictures of 16 x 8 pixels.
        assert_eq!(image::open(&*sheet).unwrap().width(), 2 * 130 + 2);
    }
}

#[test]
fn pictures_are_filtered_cleaned_shrunk_and_packed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    for (name, width, height) in [
        ("large", 90, 60),
        ("small", 9, 90),
        ("narrow", 400, 40),
        ("other", 50, 50),
        ("plain", 50, 50),
    ] {
        image::RgbImage::new(width, height)
            .save(pictures.join(format!("{name}.png")))
            .unwrap();
    }
    fs::write(pictures.join("broken.jpg"), b"no picture").unwrap();
    let captions = [
        ("large", "A CAT on a sofa, see https://cats.com"),
        ("small", "a cat"),
        ("narrow", "a cat"),
        ("other", "a dog in the park"),
        ("plain", "cat"),
        ("broken", "a cat in a basket"),
        ("../gone", "a cat elsewhere"),
    ];
    let rows: String = captions
        .iter()
        .map(|(name, caption)| {
            let extension = if *name == "broken" { "jpg" } else { "png" };
            format!(
                "{}\n",
                serde_json::json!({"file_name": format!("{name}.{extension}"), "text": caption})
            )
        })
        .collect();
    fs::write(pictures.join("captions.jsonl"), rows).unwrap();
    let card = path("cats.ron");
    fs::write(
        &card,
        r#"(
            name: "cats", source: "here", licence: "CC0", size: "six", get: "draw them",
            layout: Folder(()), clean: true, max_side: 30,
            filters: (min_side: 20, max_aspect: 4.0, caption_length: (4, 100), mentions: ["cat", "cats"]),
        )"#,
    )
    .unwrap();
    let source = path("pictures");
    let out = path("shards");
    let said = succeeds(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    for part in [
        "1 samples in 1 shards",
        "left out 1: an image that is too small",
        "left out 1: an image that is too narrow",
        "left out 1: a caption without any of the words",
        "left out 1: a caption that is too short",
        "left out 1: an image that cannot be decoded",
        "left out 1: a path that leads out of the directory",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("shards.json")).unwrap()).unwrap();
    assert_eq!(index["samples"], 1);
    assert_eq!(index["shards"][0]["samples"], 1);
    let said = succeeds(&["data", "inspect", &out]);
    // 90 x 60, its shorter side shrunk to 30; "a cat on a sofa, see".
    assert!(
        said.contains("sizes 45 x 30 (1)") && said.contains("20 to 20 characters"),
        "{said}"
    );
    // A directory in use is left alone.
    let again = microdit(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    fails(&again, &["is not empty"]);
    // The same captions as tables of other kinds, beside it; the Parquet file was written by PyArrow.
    let table = path("table.csv");
    fs::write(
        &table,
        "file_name,text\nplain.png,\"a cat, plain\"\nother.png,a dog\n",
    )
    .unwrap();
    let parquet = root().join("tests/goldens/captions.parquet");
    for (name, table) in [
        ("csv", table),
        ("parquet", parquet.to_string_lossy().into_owned()),
    ] {
        let out = path(name);
        let said = succeeds(&[
            "data",
            "prepare",
            &card,
            "--source",
            &source,
            "--out",
            &out,
            "--captions",
            &table,
        ]);
        assert!(said.contains("1 samples in 1 shards"), "{name}: {said}");
        assert!(
            said.contains("left out 1: a caption without any of the words"),
            "{name}: {said}"
        );
    }
}

#[test]
fn every_dataset_is_described() {
    for entry in fs::read_dir(root().join("datasets")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ron") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let card = path.to_string_lossy();
        // The golden shards stand in for what is collected.
        let source = root().join("tests/goldens/wds_clean.tar");
        let (source, out) = (source.to_string_lossy(), out.to_string_lossy());
        let output = microdit(&[
            "data", "prepare", &card, "--source", &source, "--out", &out, "--limit", "5",
        ]);
        let said = text(&output);
        // Its pictures are smaller than some datasets want them.
        let none = ["Not a directory", "no sample was written, of 5"];
        let read = output.status.success() || none.iter().any(|part| said.contains(part));
        assert!(read, "{card}: {said}");
    }
}
