//! A run through the library, without what a recipe's file allows.

use super::*;
use crate::{
    checkpoint::tests::tiny,
    probe::{Numbers, View},
    recipe::Stage,
};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{Dit, task::Denoise};
use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

type Tracked = Autodiff<Flex>;

/// Two steps of training, and six more with `lr`.
fn recipe(lr: f64, every: u64, max_non_finite_steps: u64) -> Recipe {
    let mut recipe = tiny(&[
        "batch=2",
        "log_every=1",
        "stages.masked.steps=2",
        "stages.unmasked.steps=6",
    ]);
    recipe.run.checkpoints.every = every;
    recipe.run.max_non_finite_steps = max_non_finite_steps;
    // Beyond what a recipe's file may say, and what an f32 holds: a step with finite gradients ruins the weights.
    recipe.stages[1].optimizer.lr = lr;
    recipe
}

type Trained = Outcome<Denoise<Flex, Dit<Flex>>>;

fn train(recipe: &Recipe, run: &RunDir) -> Result<Trained, TrainError> {
    let devices = [Default::default()];
    let session = Session {
        stop: &Arc::new(AtomicBool::new(false)),
        gpu: None,
        nodes: None,
    };
    let training = Training::open(recipe, run, &devices, true, &Stage::task::<Tracked>)?;
    training.run(&session, &"a test", |_| ())
}

/// However the run finds out, at a checkpoint, after non-finite steps or at its end, what was saved before is sound and can be resumed.
#[test]
fn weights_that_are_no_longer_finite_end_a_run_with_a_sound_checkpoint() {
    for (every, max_non_finite_steps, found_in, found_after) in [
        (1, 100, "model.safetensors", 3),
        (100, 2, "the network", 5),
        (100, 100, "model.safetensors", 8),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunDir::enter(&path, false).unwrap();
        let error = train(&recipe(1e39, every, max_non_finite_steps), &run).unwrap_err();
        let TrainError::NotFinite {
            what, count, step, ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((what.as_str(), *step), (found_in, found_after), "{error}");
        assert!(*count > 0);
        assert!(!path.join("weights.safetensors").exists());
        let newest = Checkpoint::newest(&run.checkpoints()).unwrap().unwrap();
        assert_eq!(newest.progress().step, 2);
        for file in fs::read_dir(newest.path()).unwrap() {
            let file = file.unwrap().path();
            if file
                .extension()
                .is_some_and(|extension| extension == "safetensors")
            {
                StateDict::read(&file).unwrap().check_finite().unwrap();
            }
        }
        drop(run);
        let run = RunDir::enter(&path, true).unwrap();
        let outcome = train(&recipe(1e-3, every, max_non_finite_steps), &run).unwrap();
        assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 8));
        let weights = StateDict::read(&path.join("weights.safetensors")).unwrap();
        weights.check_finite().unwrap();
    }
}

/// Counts how often it looks, and says at what.
struct Steps(Arc<AtomicU64>);

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for Steps {
    fn name(&self) -> &'static str {
        "steps"
    }

    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(4)
    }

    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let looks = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(view.stage.name, "unmasked");
        let looks = if view.step == 4 { looks as f64 } else { 0.5 };
        Ok(Some([("looks", looks)].into()))
    }
}

/// A metric of one's own runs when it is due, and again at a resume if what it found is not in the log.
#[test]
fn a_probe_looks_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let looks = Arc::new(AtomicU64::new(0));
    let devices = [Default::default()];
    let train = |recipe: &Recipe| {
        let run = RunDir::enter(&path, true).unwrap();
        let session = Session {
            stop: &Arc::new(AtomicBool::new(false)),
            gpu: None,
            nodes: None,
        };
        let training = Training::open(recipe, &run, &devices, true, &Stage::task::<Tracked>);
        let training = training.unwrap().with_probe(Steps(looks.clone()));
        training.run(&session, &"a test", |_| ()).unwrap()
    };
    let file = path.join("evaluation.jsonl");
    let lines = || fs::read_to_string(&file).unwrap();
    let at_4 = "{\"step\":4,\"probe\":\"steps\",\"looks\":1.0}\n";
    let at_8 = "{\"step\":8,\"probe\":\"steps\",\"looks\":0.5}\n";
    train(&recipe(1e-3, 100, 10));
    assert_eq!(
        (lines(), looks.load(Ordering::Relaxed)),
        (format!("{at_4}{at_8}"), 2)
    );
    // Two more steps, and the line of the step it resumes from is lost.
    let mut more = recipe(1e-3, 100, 10);
    more.stages[1].steps = 8;
    fs::write(&file, at_4).unwrap();
    train(&more);
    assert_eq!(
        (lines(), looks.load(Ordering::Relaxed)),
        (format!("{at_4}{at_8}"), 3)
    );
    more.stages[1].steps = 9;
    train(&more);
    assert_eq!(
        (lines(), looks.load(Ordering::Relaxed)),
        (format!("{at_4}{at_8}"), 3)
    );
}
