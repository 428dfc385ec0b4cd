//! The real binary, from recipe to picture, and its answers to bad input.

mod common;

use common::{root, small};
use std::{
    path::Path,
    process::{Command, Output},
};

fn microdit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("the binary starts")
}

fn text(output: &Output) -> String {
    // Errors are wrapped to the terminal's width: compare them as one line.
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all)
        .split_whitespace()
        .filter(|word| *word != "│")
        .collect::<Vec<_>>()
        .join(" ")
}

/// The quickstart, small enough for a test, with further arguments.
fn train(run: &Path, more: &[&str]) -> Output {
    let run = run.to_string_lossy();
    let start = ["train", "recipes/quickstart.ron", "--run", &run];
    let arguments: Vec<&str> = start
        .into_iter()
        .chain(small())
        .chain(more.iter().copied())
        .collect();
    microdit(&arguments)
}

#[track_caller]
fn fails(output: &Output, parts: &[&str]) {
    let text = text(output);
    assert!(!output.status.success(), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_run_trains_draws_and_is_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let first = train(&a, &["--set", "data.threads=1"]);
    assert!(first.status.success(), "{}", text(&first));
    let second = train(&b, &["--set", "data.threads=3"]);
    assert!(second.status.success(), "{}", text(&second));
    for file in ["weights.safetensors", "ema.safetensors", "samples.png"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert_eq!(
            read(&a),
            read(&b),
            "{file} depends on the number of threads"
        );
    }
    assert_ne!(
        std::fs::read(a.join("weights.safetensors")).unwrap(),
        std::fs::read(a.join("ema.safetensors")).unwrap()
    );
    let log = std::fs::read_to_string(a.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 5, "{log}");

    fails(&train(&a, &[]), &["already holds a run", "--run"]);

    let run = a.to_string_lossy();
    let draw = |seed: &str, name: &str| {
        let out = folder.path().join(name);
        let output = microdit(&[
            "sample",
            "--run",
            &run,
            "--prompt",
            "a red circle",
            "--count",
            "2",
            "--steps",
            "2",
            "--guidance",
            "5",
            "--seed",
            seed,
            "--out",
            &out.to_string_lossy(),
        ]);
        assert!(output.status.success(), "{}", text(&output));
        std::fs::read(out).unwrap()
    };
    let zero = draw("0", "0.png");
    assert_eq!(zero, draw("0", "0again.png"), "seed 0 is a seed");
    assert_ne!(zero, draw("1", "1.png"));

    // The checkpoint of another shape.
    let recipe = a.join("recipe.ron");
    let wider = std::fs::read_to_string(&recipe)
        .unwrap()
        .replacen("dim: 32", "dim: 64", 1);
    std::fs::write(&recipe, wider).unwrap();
    fails(
        &microdit(&["sample", "--run", &run]),
        &["ema.safetensors does not fit", "misshapen", "expected"],
    );
}

#[test]
fn bad_recipes_name_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").to_string_lossy().into_owned();
    fails(
        &microdit(&["train", "no/such.ron", "--run", &run]),
        &["no/such.ron", "No such file"],
    );
    let quickstart = std::fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap();
    for (from, to, parts) in [
        (
            "batch: 32",
            "bach: 32",
            &["bad.ron:24", "bach", "did you mean `batch`?"][..],
        ),
        (
            "dataset: Shapes",
            "dataset: ImageNet",
            &["bad.ron:", "ImageNet", "WebDataset"],
        ),
        ("batch: 32", "batch: \"many\"", &["bad.ron:"]),
        (
            "patch_size: 4",
            "patch_size: 5",
            &["model.input_size", "patch_size 5"],
        ),
        (
            "ratio: 0.75",
            "ratio: 1.5",
            &["stages.masked.masking", "0..1"],
        ),
    ] {
        let path = folder.path().join("bad.ron");
        let broken = quickstart.replacen(from, to, 1);
        assert_ne!(broken, quickstart, "the recipe no longer has `{from}`");
        std::fs::write(&path, broken).unwrap();
        fails(
            &microdit(&["train", &path.to_string_lossy(), "--run", &run]),
            parts,
        );
        assert!(
            !Path::new(&run).exists(),
            "a bad recipe leaves no run behind"
        );
    }
    fails(
        &train(Path::new(&run), &["--set", "stages.0.step=1"]),
        &["--set stages.0.step=1", "`step`", "did you mean `steps`?"],
    );
}

#[test]
fn bad_data_is_an_error_and_a_bad_sample_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let web = |shards: &str, name: &str| {
        let set = format!("data.shards={shards}");
        train(
            &folder.path().join(name),
            &["--set", "data.dataset=WebDataset", "--set", &set],
        )
    };
    fails(
        &web("no/such.tar", "missing"),
        &["no/such.tar", "no such shard"],
    );
    let empty = folder.path().join("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    fails(
        &web(&empty.to_string_lossy(), "empty"),
        &["empty.tar", "no usable sample"],
    );
    fails(
        &microdit(&["train", "recipes/cifar10.ron"]),
        &["data.shards", "--set data.shards=PATH"],
    );
    let dirty = web("tests/goldens/wds_dirty.tar", "dirty");
    let said = text(&dirty);
    assert!(dirty.status.success(), "{said}");
    assert!(
        said.contains("has no image") && said.contains("cannot be decoded"),
        "{said}"
    );
    fails(
        &microdit(&["sample", "--run", &folder.path().to_string_lossy()]),
        &["holds no run", "recipe.ron"],
    );
}
