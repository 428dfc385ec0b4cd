//! Drawn pictures are compared with held-out ones while a run is trained: by the same numbers as afterwards, and not at all where
//! something is missing.

use crate::{
    common::{fails, microdit, succeeds},
    eval::{dinov2, labelled},
    tiny::{WEB_DATASET, arguments, finish},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// What the log has of the comparison, by steps.
fn logged(run: &Path) -> BTreeMap<u64, Value> {
    let log = fs::read_to_string(run.join("evaluation.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines = lines.filter(|line: &Value| line["probe"] == "feature_distance");
    lines
        .map(|line| (line["step"].as_u64().unwrap(), line))
        .collect()
}

#[test]
fn a_run_logs_what_its_evaluation_finds_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [train, test, cache] = ["train.tar", "test.tar", "cache"].map(path);
    labelled(Path::new(&train), 256);
    labelled(Path::new(&test), 140);
    let run = folder.path().join("run");
    let sets = [
        format!("data.shards={train}"),
        format!("evaluation.shards={test}"),
        "evaluation.every=7".to_owned(),
        format!(
            "evaluation.feature_distance=(samples: 24, network: Classifier(shards: {train:?}))"
        ),
    ];
    let mut words = vec!["--cache", &cache, "--set", WEB_DATASET];
    words.extend(sets.iter().flat_map(|set| ["--set", set]));
    finish(&run, &words);
    let found = logged(&run);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [7, 14]);
    // Trained on, and looked at, in between.
    assert_ne!(found[&7]["fd-classifier"], found[&14]["fd-classifier"]);
    // TensorBoard has them too.
    let mut events = Vec::new();
    for entry in fs::read_dir(&run).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("events.") {
            events.extend(fs::read(path).unwrap());
        }
    }
    let tag = b"feature_distance/fd-classifier";
    assert!(events.windows(tag.len()).any(|part| part == tag));
    let run_path = run.to_str().unwrap();
    let metrics = ["fd-classifier", "kd-classifier", "class-accuracy"];
    succeeds(&[
        "eval",
        "--run",
        run_path,
        "--classifier",
        &train,
        "--cache",
        &cache,
        "--samples",
        "24",
        "--metrics",
        &metrics.join(","),
    ]);
    let record: Value = serde_json::from_slice(&fs::read(run.join("eval.json")).unwrap()).unwrap();
    let rows = record["results"].as_array().unwrap();
    for metric in metrics {
        let row = rows.iter().find(|row| row["metric"] == metric).unwrap();
        assert_eq!(row["value"], found[&14][metric], "{metric}: {row}");
    }
}

#[test]
fn what_is_missing_is_said_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let network = path("dinov2");
    dinov2(Path::new(&network));
    let labelled_shards = path("train.tar");
    labelled(Path::new(&labelled_shards), 20);
    let run = folder.path().join("run");
    let refuses = |distance: &str, parts: &[&str]| {
        let set = format!("evaluation.feature_distance=({distance})");
        let words = arguments(&run, &["--set", &set, "--cache", &path("cache")]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        fails(&microdit(&words), parts);
        assert!(!run.exists(), "{distance} left a trace");
    };
    refuses(
        "samples: 1, network: Published(\"x\")",
        &["samples: must be at least 2 and at most 1048576, not 1"],
    );
    refuses("samples: 9, network: Published(\"no/such\")", &["no/such"]);
    refuses(
        "samples: 9, network: Published(\"dinov2-base\")",
        &["microdit fetch dinov2-base"],
    );
    // Fewer pictures than features have no covariance.
    refuses(
        &format!("samples: 9, network: Published({network:?}), reference_samples: 20"),
        &["the reference: 20 pictures, at least 49 are needed"],
    );
    refuses(
        &format!("samples: 9, network: Published({network:?}), reference: \"no/such.tar\""),
        &["no/such.tar"],
    );
    refuses(
        &format!("samples: 9, network: Classifier(shards: {labelled_shards:?})"),
        &[
            "accuracy is not known",
            "the reference is shapes",
            "evaluation.feature_distance.reference",
        ],
    );
    refuses(
        &format!("samples: 9, network: Published({network:?}), prompts: \"no/prompts.txt\""),
        &["no/prompts.txt"],
    );
}
