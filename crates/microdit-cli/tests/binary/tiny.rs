//! A run of a second or so with everything a run writes, and its results.

use crate::common::{root, text};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Two stages, averages, an evaluation, grids, and checkpoints within and at the end of stages.
const RECIPE: &str = r#"(
    name: "tiny",
    seed: 0,
    model: (
        input_size: 16, patch_size: 4, in_channels: 3, dim: 16, depth: 2, head_dim: 8, multiple_of: 8,
        caption_channels: 8,
        qkv_width: Linear(from: 0.5, to: 1.0), ffn_width: Linear(from: 0.5, to: 4.0),
        mixer: (dim: 16, depth: 1),
        moe: (experts: 4, capacity: 2.0, every: 2),
    ),
    diffusion: Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2),
    data: Shapes(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6)),
    caption_drop: 0.1,
    batch: 4,
    optimizer: (lr: 2e-3, weight_decay: 0.01, clip_norm: 1.0),
    stages: [
        (name: "masked", steps: 8, masking: Deferred(ratio: 0.5)),
        (name: "unmasked", steps: 6, hand_over: (optimizer: true), ema: [(decay: Smoothing(0.9))]),
    ],
    sampling: (prompts: ["a large red circle on a white background"], count: 1, steps: 2, guidance: 2.0, every: 6),
    evaluation: (every: 4, samples: 5),
    log_every: 1,
    checkpoints: (every: 5),
)"#;

/// Trains it on shards.
pub(crate) const WEB_DATASET: &str =
    "data=WebDataset(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6))";

/// Steps of that run.
pub(crate) const STEPS: u64 = 14;

/// Writes the recipe beside the run `run`; its path.
pub(crate) fn recipe(run: &Path) -> PathBuf {
    let path = run.with_extension("ron");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, RECIPE).unwrap();
    path
}

/// Arguments that train the recipe into `run`.
pub(crate) fn arguments(run: &Path, more: &[&str]) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let start = [
        "train".into(),
        path(&recipe(run)),
        "--run".into(),
        path(run),
    ];
    let more = more.iter().map(|argument| (*argument).to_owned());
    start.into_iter().chain(more).collect()
}

/// The command that trains the recipe into `run`.
pub(crate) fn command(run: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command
        .args(arguments(run, more))
        .current_dir(root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs to the end; what it said.
#[track_caller]
pub(crate) fn finish(run: &Path, more: &[&str]) -> String {
    let output = command(run, more).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Sends a signal.
pub(crate) fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Names of checkpoints.
pub(crate) fn checkpoints(run: &Path) -> Vec<String> {
    names(&run.join("checkpoints"))
}

/// Names in a directory, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// All results of a run, without what depends on the time.
pub(crate) fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut results = BTreeMap::new();
    for name in names(run) {
        let file = run.join(&name);
        let timeless = match name.as_str() {
            "lock" | "run.json" | "recipe.ron" => continue,
            // Drawn from the log, with its timings.
            "report.html" => continue,
            "checkpoints" => continue,
            "metrics.jsonl" => metrics(run).join("\n").into_bytes(),
            _ if name.starts_with("events.") => continue,
            _ => fs::read(file).unwrap(),
        };
        results.insert(name, timeless);
    }
    for checkpoint in checkpoints(run) {
        let folder = run.join("checkpoints").join(&checkpoint);
        for name in names(&folder) {
            if name != "state.json" {
                let bytes = fs::read(folder.join(&name)).unwrap();
                results.insert(format!("{checkpoint}/{name}"), bytes);
            }
        }
    }
    results
}

/// Checks that two runs have the same results.
#[track_caller]
pub(crate) fn assert_same(found: &Path, expected: &Path, context: &str) {
    if let Some(difference) = difference(found, expected) {
        panic!("{context}: {difference}");
    }
}

/// What differs between the results of two runs.
pub(crate) fn difference(found: &Path, expected: &Path) -> Option<String> {
    let (found, expected) = (results(found), results(expected));
    let absent = expected.keys().find(|name| !found.contains_key(*name));
    let surplus = found.keys().find(|name| !expected.contains_key(*name));
    let other = expected
        .keys()
        .find(|name| found.get(*name) != expected.get(*name));
    absent
        .map(|name| format!("{name} is not there"))
        .or(surplus.map(|name| format!("{name} should not be there")))
        .or(other.map(|name| format!("{name} differs")))
}

/// Lines of the log without their timings.
pub(crate) fn metrics(run: &Path) -> Vec<String> {
    let timeless = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["images_per_second", "hours"] {
            line[key].take();
        }
        line.to_string()
    };
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    log.lines().map(timeless).collect()
}
