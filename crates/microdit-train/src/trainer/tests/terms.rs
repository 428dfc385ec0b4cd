//! A student whose loss has a CLIP term and regression besides, through the trainer.

use super::{
    adapters::{adapted, lora},
    *,
};
use crate::{
    recipe::{ClipLoss, Distillation, Regression},
    schedule::Schedule,
};
use microdit::nn::lora::LoraConfig;
use microdit_encoders::write_random;
use std::path::PathBuf;

/// Steps before the student's stage.
const BEFORE: u64 = 5;

/// Five steps that open the network's gates, and six of a student with adapters. Its terms end within the stage, one after the other.
fn recipe_of(clip: Option<PathBuf>, regression: bool) -> Recipe {
    let mut recipe = adapted(|stage| {
        stage.lora = Some(LoraConfig {
            dropout: 0.0,
            ..lora()
        });
        stage.distill = Some(Distillation {
            guidance: 2.0,
            critic: Some(LoraConfig {
                rank: 3,
                dropout: 0.0,
                ..lora()
            }),
            clip: clip.clone().map(|model| ClipLoss {
                model,
                decoder: None,
                tau: 1.0,
                weight: 4.0,
                until: Some(3),
            }),
            regression: regression.then_some(Regression {
                weight: 2.0,
                until: Some(4),
            }),
            ..Distillation::default()
        });
    });
    for stage in &mut recipe.stages {
        stage.batch = 4;
        stage.micro_batch = Some(3);
    }
    recipe
}

fn run(path: &Path, recipe: &Recipe, stops: &[u64], devices: usize) -> StateDict {
    with_stops::<Tracked, _>(path, recipe, stops, devices, &Stage::task::<Tracked>)
}

/// The steps whose line of the log has the term.
fn logged(path: &Path, term: &str) -> Vec<u64> {
    let log = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let lines = log.lines().enumerate();
    let with = lines.filter(|(_, line)| line.contains(&format!("\"{term}\"")));
    with.map(|(i, _)| i as u64 + 1).collect()
}

/// Each term moves the student, while it has a weight; with both, a run resumes bit for bit wherever it stopped, and comes out alike over
/// replicas and recomputation. Their networks are in no checkpoint.
#[test]
fn terms_move_the_student_over_resumes_and_replicas() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [clip, _] = write_random::<Flex>(folder.path(), 4, 0).unwrap();
    let both = recipe_of(Some(clip.clone()), true);
    let once = run(&at("once"), &both, &[], 1);
    assert_eq!(logged(&at("once"), "clip"), [6, 7, 8]);
    assert_eq!(logged(&at("once"), "regression"), [6, 7, 8, 9]);
    assert_eq!(logged(&at("once"), "vsd"), [6, 7, 8, 9, 10, 11]);
    assert!(once.iter().all(|(name, _)| !name.contains("embedder")));
    // Either alone is another run, and neither is a third.
    let mut others = vec![once.clone()];
    for (name, clip, regression) in [
        ("clip", Some(clip), false),
        ("regression", None, true),
        ("neither", None, false),
    ] {
        let other = run(&at(name), &recipe_of(clip, regression), &[], 1);
        for known in &others {
            assert!(distance(known, &other) > 0.0, "{name}");
        }
        others.push(other);
    }
    // While both count, after one has ended, and after both.
    let stops = [BEFORE, BEFORE + 2, BEFORE + 3, BEFORE + 5];
    let often = run(&at("often"), &both, &stops, 1);
    for (name, data) in once.iter() {
        assert_eq!(often.get(name), Some(data), "{name}");
    }
    let mut recomputed = both.clone();
    for stage in &mut recomputed.stages {
        stage.activation_checkpointing = ActivationCheckpointing::On;
    }
    let two = run(&at("two"), &recomputed, &[], 2);
    // Six steps of 1e-3; rounding moves few weights by a step, where a gradient is almost 0.
    let apart = distance(&once, &two);
    assert!(apart < 1e-4, "{apart}");
}

/// A run knows the networks of its terms again, and misses them.
#[test]
fn networks_of_terms_that_have_changed_are_noticed() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let [clip, _] = write_random::<Flex>(folder.path(), 4, 0).unwrap();
    let mut recipe = recipe_of(Some(clip.clone()), false);
    recipe.stages[1].schedule = Schedule::default();
    recipe.stages[1].steps = 2;
    run(&path, &recipe, &[], 1);
    recipe.stages[1].steps = 3;
    let open = |insist: bool| {
        let run = RunDir::enter(&path, true).unwrap();
        let devices = [Default::default()];
        let opened = Training::open(&recipe, &run, &devices, insist, &Stage::task::<Tracked>);
        opened.map(|_| ()).map_err(|error| error.to_string())
    };
    let key = "stages.unmasked.distill.clip.model: ";
    // The recipe was changed behind the run's back, which is noticed too, but later.
    let changed = || {
        let error = open(false).err().unwrap_or_default();
        error.contains("is not the file the stage began with")
    };
    assert!(!changed());
    write_random::<Flex>(folder.path(), 4, 1).unwrap();
    assert!(changed());
    assert!(open(false).is_err_and(|error| error.contains(key)));
    open(true).unwrap();
    write_random::<Flex>(folder.path(), 4, 0).unwrap();
    assert!(!changed());
    fs::remove_dir_all(&clip).unwrap();
    let error = open(true).unwrap_err();
    assert!(
        error.contains(key) && error.contains("no such file or directory"),
        "{error}"
    );
    // What was accepted is what the run goes on with, and a finished run needs none of it.
    write_random::<Flex>(folder.path(), 4, 1).unwrap();
    {
        let run = RunDir::enter(&path, true).unwrap();
        let devices = [Default::default()];
        let opened = Training::open(&recipe, &run, &devices, true, &Stage::task::<Tracked>);
        let stop = Arc::default();
        let trained = opened
            .unwrap()
            .run(&Session::alone(&stop), &"a test", |_| ());
        trained.unwrap();
    }
    assert!(!changed());
    fs::remove_dir_all(&clip).unwrap();
    open(true).unwrap();
}
