//! From recipe to picture, the same for any number of threads.

use crate::common::{fails, microdit, text, train};
use std::path::Path;

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
    let processes = std::fs::read_to_string(a.join("run.json")).unwrap();
    let processes: serde_json::Value = serde_json::from_str(&processes).unwrap();
    assert_eq!(processes.as_array().map(Vec::len), Some(1));
    assert_eq!(processes[0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        processes[0]["recipe"]
            .as_str()
            .unwrap()
            .contains("batch: 4")
    );

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

/// The losses of a run's log.
fn losses(run: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["loss"].as_f64().unwrap()
    });
    lines.collect()
}

/// The same noise and the same batches: only the products are rounded.
#[test]
fn products_in_bf16_train_as_those_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let [wide, narrow] = ["F32", "Bf16"].map(|precision| {
        let run = folder.path().join(precision);
        let precision = format!("model.precision={precision}");
        let sets = [
            &*precision,
            "optimizer.lr=3e-3",
            "stages.masked.steps=80",
            "stages.masked.schedule.curve=Constant(warmup: 5)",
            "batch=16",
            "log_every=20",
        ];
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = train(&run, &more);
        assert!(output.status.success(), "{}", text(&output));
        losses(&run)
    });
    assert!(narrow[3] < 0.93 * narrow[0], "{narrow:?}");
    assert_ne!(wide, narrow, "nothing was rounded");
    for (wide, narrow) in wide.iter().zip(&narrow) {
        let error = (narrow / wide - 1.0).abs();
        // The loss falls fast here: a step sooner or later is a few percent.
        assert!(error < 0.2, "{wide} and {narrow}");
    }
}

#[test]
fn every_optimizer_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    for (name, method, lr) in [
        ("adamw", "AdamW", "3e-3"),
        ("lamb", "Lamb()", "3e-2"),
        ("muon", "Muon(momentum: 0.95)", "3e-3"),
    ] {
        let run = folder.path().join(name);
        let sets = [
            format!("optimizer.method={method}"),
            format!("optimizer.lr={lr}"),
            "optimizer.groups=[(kinds: [Moe], lr: 0.5), (kinds: [Norms, Biases], weight_decay: 0.0)]".into(),
            "stages.masked.steps=80".into(),
            "stages.masked.schedule.curve=Constant(warmup: 5)".into(),
            "batch=16".into(),
            "log_every=20".into(),
        ];
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = train(&run, &more);
        assert!(output.status.success(), "{}", text(&output));
        let losses = losses(&run);
        // The mean of twenty steps of sixteen samples is known to a few percent.
        assert!(losses[3] < 0.93 * losses[0], "{method}: {losses:?}");
    }
}
