//! The examples run: a user's own network and loss are trained by the public trainer, with two replicas, a log, a grid of
//! pictures, and a resume that changes no bit.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// An example, which cargo builds beside the tests.
fn example(name: &str, run: &Path, settings: &[&str]) -> Command {
    let tests = std::env::current_exe().expect("a test has a path");
    let folder = tests.ancestors().nth(2).expect("target/PROFILE/deps");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = folder.join("examples").join(name);
    let small = [
        "batch=4",
        "log_every=1",
        "model.dim=32",
        "model.depth=2",
        "model.mixer.dim=32",
        "model.mixer.depth=1",
        "stages.masked.steps=6",
        "stages.masked.schedule.curve=Constant()",
        "stages.unmasked.steps=3",
        "checkpoints.every=2",
        "sampling.every=6",
        "sampling.steps=2",
        "sampling.count=1",
        "evaluation=(every: 3, samples: 4)",
    ];
    let mut command = Command::new(program);
    command.current_dir(root).arg(run);
    command.args(small.iter().chain(settings));
    command
}

fn trained(name: &str, run: &Path, settings: &[&str]) {
    let output = example(name, run, settings).output();
    let output = output.expect("the example is built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

fn last_weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("weights.safetensors")).expect("final weights")
}

fn is_trained_and_resumed(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
    trained(name, &once, &[]);
    for file in [
        "weights.safetensors",
        "metrics.jsonl",
        "evaluation.jsonl",
        "samples-00000006.png",
    ] {
        assert!(once.join(file).is_file(), "{name} leaves no {file}");
    }
    // TensorBoard is given the grid, as it is.
    let grid = fs::read(once.join("samples-00000006.png")).unwrap();
    let mut entries = fs::read_dir(&once).unwrap().map(|entry| entry.unwrap());
    let events = entries.find(|entry| entry.file_name().to_string_lossy().starts_with("events"));
    let events = fs::read(events.expect("an event file").path()).unwrap();
    let holds = |part: &[u8]| events.windows(part.len()).any(|found| found == part);
    assert!(holds(&grid) && holds(b"sample_grid"), "{name}");
    // Killed after its first checkpoint, and resumed.
    let mut killed = example(name, &twice, &[])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let saved =
        || fs::read_dir(twice.join("checkpoints")).is_ok_and(|mut saved| saved.next().is_some());
    while !saved() && killed.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(
        !twice.join("weights.safetensors").exists(),
        "{name} was killed too late"
    );
    trained(name, &twice, &[]);
    assert!(last_weights(&once) == last_weights(&twice), "{name}");
    // With every block computed twice, the gradients are the same up to rounding.
    let again = folder.path().join("recomputed");
    trained(name, &again, &["activation_checkpointing=On"]);
    let losses = |run: &Path| -> Vec<f64> {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let line = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let loss = |line| line_loss(&line);
        text.lines().map(line).map(loss).collect()
    };
    for (plain, recomputed) in losses(&once).iter().zip(losses(&again)) {
        assert!((plain / recomputed - 1.0).abs() < 1e-4, "{name}");
    }
    (folder, once)
}

fn line_loss(line: &serde_json::Value) -> f64 {
    line["loss"].as_f64().expect("a line has a loss")
}

#[test]
fn a_network_of_ones_own_is_trained() {
    is_trained_and_resumed("custom_denoiser");
}

#[test]
fn a_loss_of_ones_own_is_trained_and_logged_by_its_terms() {
    let (_folder, run) = is_trained_and_resumed("custom_objective");
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let term = |name: &str| line["terms"][name].as_f64().expect("a term of the loss");
        let sum = term("denoise") - 0.05 * term("contrast");
        assert!((line_loss(&line) / sum - 1.0).abs() < 1e-5, "{line}");
    }
}
