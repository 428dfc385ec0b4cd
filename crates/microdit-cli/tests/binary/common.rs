//! What the tests of the binary share.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Trains the quickstart on shards.
pub(crate) const WEB_DATASET: &str =
    "data=WebDataset(image_size: 32, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 15))";

/// `--set` for what shrinks a bundled recipe to seconds.
pub(crate) fn small<'a>() -> impl Iterator<Item = &'a str> {
    let sets = [
        "model.dim=32",
        "model.depth=2",
        "model.mixer.dim=32",
        "model.mixer.depth=1",
        "batch=4",
        "log_every=1",
        "stages.masked.steps=3",
        "stages.unmasked.steps=2",
        "sampling.steps=2",
        "sampling.count=1",
    ];
    sets.into_iter().flat_map(|set| ["--set", set])
}

/// Runs the binary in the workspace.
pub(crate) fn microdit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("the binary starts")
}

/// What it said, in one line.
pub(crate) fn text(output: &Output) -> String {
    // Errors are wrapped to the terminal's width: compare them as one line.
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all)
        .split_whitespace()
        .filter(|word| *word != "│")
        .collect::<Vec<_>>()
        .join(" ")
}

/// The quickstart, small enough for a test, with further arguments.
pub(crate) fn train(run: &Path, more: &[&str]) -> Output {
    let run = run.to_string_lossy();
    let start = ["train", "recipes/quickstart.ron", "--run", &run];
    let arguments: Vec<&str> = start
        .into_iter()
        .chain(small())
        .chain(more.iter().copied())
        .collect();
    microdit(&arguments)
}

/// Runs the binary to a good end; what it said, in one line.
#[track_caller]
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = microdit(arguments);
    let said = text(&output);
    assert!(output.status.success(), "microdit {arguments:?}: {said}");
    said
}

/// It failed without a panic, and its message has these parts.
#[track_caller]
pub(crate) fn fails(output: &Output, parts: &[&str]) {
    let text = text(output);
    assert!(!output.status.success(), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}
