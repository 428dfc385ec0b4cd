//! A run through the library, without what a recipe's file allows.

use super::*;
use crate::checkpoint::tests::tiny;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{Dit, task::Denoise};
use std::fs;

type Tracked = Autodiff<Flex>;

/// Two steps of training, and six more with `lr`.
fn recipe(lr: f64, every: u64, max_broken_steps: u64) -> Recipe {
    let mut recipe = tiny(&[
        "batch=2",
        "log_every=1",
        "stages.masked.steps=2",
        "stages.unmasked.steps=6",
    ]);
    recipe.run.checkpoints.every = every;
    recipe.run.max_broken_steps = max_broken_steps;
    // Beyond what a recipe's file may say, and what an f32 holds: a step with finite gradients ruins the weights.
    recipe.stages[1].optimiser.lr = lr;
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

/// However the run finds out, at a checkpoint, after broken steps or at its end, what was saved before is sound and can be resumed.
#[test]
fn weights_that_are_no_longer_finite_end_a_run_with_a_sound_checkpoint() {
    for (every, max_broken_steps, found_in, found_after) in [
        (1, 100, "model.safetensors", 3),
        (100, 2, "the network", 5),
        (100, 100, "model.safetensors", 8),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunDir::enter(&path, false).unwrap();
        let error = train(&recipe(1e39, every, max_broken_steps), &run).unwrap_err();
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
        let outcome = train(&recipe(1e-3, every, max_broken_steps), &run).unwrap();
        assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 8));
        let weights = StateDict::read(&path.join("weights.safetensors")).unwrap();
        weights.check_finite().unwrap();
    }
}
