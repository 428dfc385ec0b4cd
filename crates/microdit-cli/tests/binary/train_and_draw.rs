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
