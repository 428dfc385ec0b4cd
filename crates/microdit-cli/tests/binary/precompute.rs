//! Shards of pictures to shards of latents: killed, shared, damaged, replaced.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    prepare::folder,
    workshop::{SHARDS, Workshop, cards, same},
};
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn cut_in_half(path: &str) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
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
    // A part that the last kill left behind is not a shard.
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
    // As Slurm gives it.
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
    fails(&rank, &["rank 2 is not below the world size, 2"]);
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
fn a_precomputation_knows_its_pictures_by_their_content() {
    let workshop = Workshop::new();
    // So long that its fingerprint does not cover all of it.
    let shard = workshop.path("pictures/2.tar");
    let mut long = tar::Builder::new(fs::File::create(&shard).unwrap());
    let golden = fs::File::open(root().join("tests/goldens/wds_clean.tar")).unwrap();
    for entry in tar::Archive::new(golden).entries().unwrap() {
        let entry = entry.unwrap();
        let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
        long.append_data(&mut header, path, entry).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(400_000);
    long.append_data(&mut header, "extra.bin", &[7; 400_000][..])
        .unwrap();
    long.finish().unwrap();
    workshop.precomputed("out", &[]);
    let before = workshop.files("out");
    let again = workshop.precomputed("out", &[]);
    assert!(
        again.contains("0 samples encoded") && again.contains("91 samples in 6 shards"),
        "{again}"
    );
    // A shard is replaced by one of the same name and length: one bit differs.
    let (mut bytes, untouched) = (fs::read(&shard).unwrap(), fs::read(&shard).unwrap());
    // At the very end of the content, which no fingerprint covers.
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let refused = |more: &[&str], parts: &[&str]| {
        fails(&workshop.precompute("out", more).output().unwrap(), parts);
        same(&workshop.files("out"), &before);
    };
    refused(
        &[],
        &[
            "other shards",
            "expected 2.tar",
            "SHA-256",
            "found 2.tar",
            "--update",
        ],
    );
    refused(&["--rank", "2", "--world-size", "3"], &["expected 2.tar"]);
    fs::write(&shard, &untouched).unwrap();
    // Other pictures under the same names.
    fs::rename(workshop.path("pictures"), workshop.path("A")).unwrap();
    fs::create_dir(workshop.path("pictures")).unwrap();
    for i in 0..SHARDS {
        let other = root().join("tests/goldens/wds_dirty.tar");
        fs::copy(other, workshop.path(&format!("pictures/{i}.tar"))).unwrap();
    }
    refused(&[], &["other shards", "0.tar", "found", "fingerprint"]);
    fs::remove_dir_all(workshop.path("pictures")).unwrap();
    fs::rename(workshop.path("A"), workshop.path("pictures")).unwrap();
    // Elsewhere, under other names, they are the same.
    fs::rename(
        workshop.path("pictures/0.tar"),
        workshop.path("pictures/9.tar"),
    )
    .unwrap();
    assert!(
        workshop
            .precomputed("out", &[])
            .contains("0 samples encoded")
    );
    fs::rename(
        workshop.path("pictures/9.tar"),
        workshop.path("pictures/0.tar"),
    )
    .unwrap();
    workshop.precomputed("out", &[]);
    same(&workshop.files("out"), &before);
    // Encoders are their weights and settings: under another name the same, with other content others.
    fs::rename(workshop.path("vae"), workshop.path("elsewhere")).unwrap();
    let paths = ["pictures", "out", "elsewhere", "clip"].map(|name| workshop.path(name));
    let [pictures, out, vae, clip] = &paths;
    let names = [
        "--out",
        out,
        "--vae",
        vae,
        "--text-encoder",
        clip,
        "--sizes",
        "32,64",
    ];
    let said = succeeds(&[&["data", "precompute", pictures][..], &names].concat());
    assert!(said.contains("0 samples encoded"), "{said}");
    fs::rename(workshop.path("elsewhere"), workshop.path("vae")).unwrap();
    let config = workshop.path("vae/config.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let mut other = json.clone();
    other["scaling_factor"] = 0.5.into();
    fs::write(&config, other.to_string()).unwrap();
    refused(&[], &["other settings", "VAE: expected vae with checksum"]);
}

#[test]
fn a_finished_precomputation_verifies_its_shards() {
    let workshop = Workshop::new();
    workshop.precomputed("out", &[]);
    let whole = workshop.files("out");
    let index = || microdit(&["data", "index", &workshop.path("out")]);
    let shard = |number: usize| workshop.path(&format!("out/00000{number}.tar"));
    fs::remove_file(shard(0)).unwrap();
    cut_in_half(&shard(1));
    let mut bytes = fs::read(shard(2)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(shard(2), bytes).unwrap();
    fs::write(workshop.path("out/000003.json"), "{").unwrap();
    fails(&index(), &["000003.json"]);
    fs::remove_file(workshop.path("out/000003.json")).unwrap();
    fails(&index(), &["1 of 6 sources are missing (3.tar)"]);
    fs::write(
        workshop.path("out/000003.json"),
        &whole[Path::new("000003.json")],
    )
    .unwrap();
    let damage = [
        "000000.tar is missing",
        "000001.tar has",
        "000002.tar has changed since it was written",
    ];
    fails(&index(), &damage);
    let said = workshop.precomputed("out", &[]);
    for part in damage {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert!(
        said.contains("made again") && said.contains("48 samples encoded"),
        "{said}"
    );
    same(&workshop.files("out"), &whole);
    succeeds(&["data", "index", &workshop.path("out")]);
}

#[test]
fn a_shard_that_was_cut_off_costs_its_rest_alone() {
    let workshop = Workshop::new();
    let shard = workshop.path("pictures/1.tar");
    let whole = fs::read(&shard).unwrap();
    cut_in_half(&shard);
    fs::write(workshop.path("pictures/3.tar"), "no tar at all").unwrap();
    let failed = |more: &[&str], parts: &[&str]| {
        let output = workshop.precompute("out", more).output().unwrap();
        fails(&output, parts);
        text(&output)
    };
    // Both are named, all else is there, and one call after the other says so.
    let parts = [
        "samples in 5 shards",
        "of 6 shards, 1 could not be used, 1 only up to a fault; all else is there",
        "1.tar: it was cut off",
        "3.tar: no usable sample",
        "--update",
    ];
    let said = failed(&[], &parts);
    assert!(!said.contains(" 0 samples encoded"), "{said}");
    failed(&[], &parts);
    let said = succeeds(&["data", "index", &workshop.path("out")]);
    assert!(
        said.contains("lacks 1.tar: it was cut off") && said.contains("lacks 3.tar"),
        "{said}"
    );
    let said = succeeds(&["data", "inspect", &workshop.path("out")]);
    assert!(said.contains("lacks 1.tar"), "{said}");
    // One is repaired, the other left out.
    let before = workshop.files("out");
    fs::write(&shard, whole).unwrap();
    fs::remove_file(workshop.path("pictures/3.tar")).unwrap();
    failed(&[], &["expected 1.tar", "--update"]);
    let said = workshop.precomputed("out", &["--update"]);
    assert!(
        said.contains("16 samples encoded") && said.contains("75 samples in 5 shards"),
        "{said}"
    );
    let after = workshop.files("out");
    for number in [0, 2, 4, 5] {
        let name = Path::new(&format!("00000{number}.tar")).to_owned();
        assert!(before[&name] == after[&name], "{}", name.display());
    }
    assert!(!after.contains_key(Path::new("000003.tar")));
    // Another is added: what is there stays.
    let sound = root().join("tests/goldens/wds_clean.tar");
    fs::copy(&sound, workshop.path("pictures/10.tar")).unwrap();
    failed(&[], &["10.tar", "is new", "--update"]);
    let said = workshop.precomputed("out", &["--update"]);
    assert!(
        said.contains("16 samples encoded") && said.contains("91 samples in 6 shards"),
        "{said}"
    );
    succeeds(&["data", "inspect", &workshop.path("out")]);

    // The same for `prepare`.
    let [card, _] = cards(workshop.folder.path());
    cut_in_half(&shard);
    let (source, out) = (workshop.path("pictures"), workshop.path("prepared"));
    let output = microdit(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    fails(
        &output,
        &["lacks a part of the source", "1.tar: it was cut off"],
    );
    let said = succeeds(&["data", "inspect", &out]);
    assert!(said.contains("lacks 1.tar"), "{said}");
}

#[test]
fn captions_the_encoder_does_not_read_to_their_end_are_counted() {
    let workshop = Workshop::new();
    let [_, directory] = cards(workshop.folder.path());
    let long = workshop.path("long");
    folder(Path::new(&long), &["a.png", "b.png", "c.png"]);
    // 75 words and the marks of start and end are all that is read.
    fs::write(format!("{long}/a.txt"), "fox ".repeat(75)).unwrap();
    fs::write(format!("{long}/b.txt"), "fox ".repeat(76)).unwrap();
    let pictures = workshop.path("pictures");
    fs::remove_dir_all(&pictures).unwrap();
    succeeds(&[
        "data", "prepare", &directory, "--source", &long, "--out", &pictures,
    ]);
    let cut = "1 captions were cut: the text encoder reads 77 tokens of each";
    let said = workshop.precomputed("out", &[]);
    assert!(
        said.contains("3 samples encoded") && said.contains(cut),
        "{said}"
    );
    // Of what is there already, too.
    let said = workshop.precomputed("out", &[]);
    assert!(
        said.contains("0 samples encoded") && said.contains(cut),
        "{said}"
    );
}
