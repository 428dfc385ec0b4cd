//! Latents are inspected, trained on, and drawn from.

use crate::{
    common::{fails, microdit, succeeds},
    encoders,
    workshop::Workshop,
};
use std::{fs, path::Path};

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
            "1 of 6 shards are broken",
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
    // Its weights name the encoders, too, and draw the same without the run.
    let weights = workshop.path("run/weights.safetensors");
    let again = workshop.path("again.png");
    let drawing = [
        "--prompts",
        &prompts,
        "--steps",
        "2",
        "--seed",
        "7",
        "--out",
        &again,
    ];
    succeeds(&[&["sample", "--weights", &weights], &drawing[..]].concat());
    let pixels = |path: &str| image::open(path).unwrap().into_rgb8();
    assert!(pixels(&again) == pixels(&out));
}

/// A small network for latents of the golden VAE and states of the golden text tower.
pub(crate) const RECIPE: &str = r#"(
    name: "latents",
    seed: 1,
    model: (
        input_size: 4, patch_size: 1, in_channels: 4, dim: 32, depth: 2, head_dim: 16, multiple_of: 16, caption_channels: 64,
        qkv_width: Constant(1.0), ffn_width: Constant(1.0),
    ),
    diffusion: Edm(sigma_data: 0.2, p_mean: -0.6, p_std: 1.2),
    data: Latents(image_size: 32, tokens: 77),
    caption_drop: 0.1,
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
