//! A run through the library, beyond what a recipe's file allows.

mod adapters;
mod distill;
mod terms;
mod unet;

use super::*;
use crate::{
    StageTask,
    checkpoint::tests::tiny,
    probe::{Numbers, View},
    recipe::{ActivationCheckpointing, Stage},
};
use burn::{
    module::{AutodiffModule, Module},
    tensor::TensorData,
};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{
    DitBackend,
    ema::{Decay, EmaConfig},
    net::{Inputs, Network, Output},
    nn::params::{Role, Roles},
    task::{Denoise, Draws, Losses, Noised, Samples, Task},
};
use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

type Tracked = Autodiff<Flex>;

/// Two steps of training, and six more with `lr`.
/// One training at a time. burn's autodiff holds a lock of its graph while it computes gradients, and a worker that waits for another in
/// there may begin a stranger's step, which asks for that lock: two trainings in one process can wait for each other for ever.
pub(super) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

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

type Trained = Outcome<StageTask<Flex>>;

fn train(recipe: &Recipe, run: &RunDir) -> Result<Trained, TrainError> {
    let devices = [Default::default()];
    let training = Training::open(recipe, run, &devices, true, &Stage::task::<Tracked>)?;
    training.run(&Session::alone(&Arc::default()), &"a test", |_| ())
}

/// Trains `recipe` to its end in `path`, asked to stop after each number of steps in `stops` and resumed; the networks of its newest
/// checkpoint.
fn with_stops<B: TrainBackend, T: TrainTask<B>>(
    path: &Path,
    recipe: &Recipe,
    stops: &[u64],
    devices: usize,
    build: &Build<B, T>,
) -> StateDict {
    let devices = vec![Default::default(); devices];
    for stop_after in stops.iter().copied().chain([u64::MAX]) {
        let run = RunDir::enter(path, true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let session = Session::alone(&stop);
        let training = Training::open(recipe, &run, &devices, true, build).unwrap();
        let ask = |metrics: &Metrics| stop.store(metrics.step >= stop_after, Ordering::Relaxed);
        let outcome = training.run(&session, &"a test", ask).unwrap();
        assert_eq!(outcome.steps, stop_after.min(recipe.steps()));
    }
    let newest = Checkpoint::newest(&path.join("checkpoints"))
        .unwrap()
        .unwrap();
    newest.read(&newest.trained()).unwrap()
}

/// How far two networks' weights are apart on average.
fn distance(one: &StateDict, other: &StateDict) -> f64 {
    let error = |(name, data): (&String, &TensorData)| -> (f64, usize) {
        let other = other.get(name).unwrap();
        let pairs = data.iter::<f64>().zip(other.iter::<f64>());
        (pairs.map(|(a, b)| (a - b).abs()).sum(), data.num_elements())
    };
    assert_eq!(one.len(), other.len());
    let errors = one.iter().map(error);
    let (sum, count) = errors.fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    sum / count as f64
}

/// However the run finds out, at a checkpoint, after non-finite steps or at its end, what was saved before is sound and can be resumed.
#[test]
fn weights_that_are_no_longer_finite_end_a_run_with_a_sound_checkpoint() {
    let _alone = alone();
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

/// A user's own metric runs when it is due, and again at a resume if what it found is not in the log.
#[test]
fn a_probe_looks_when_it_is_due() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let looks = Arc::new(AtomicU64::new(0));
    let devices = [Default::default()];
    let train = |recipe: &Recipe| {
        let run = RunDir::enter(&path, true).unwrap();
        let training = Training::open(recipe, &run, &devices, true, &Stage::task::<Tracked>);
        let training = training.unwrap().with_probe(Steps(looks.clone()));
        let stop = Arc::default();
        training
            .run(&Session::alone(&stop), &"a test", |_| ())
            .unwrap()
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

/// Trains the backbone's blocks alone.
#[derive(Module, Debug)]
struct Backbone<B: DitBackend> {
    whole: Denoise<B, Network<B>>,
}

impl<B: DitBackend> Roles for Backbone<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        self.whole.role(&path[1..], rank)
    }
}

impl<B: DitBackend> Task<B> for Backbone<B> {
    type Denoiser = Network<B>;
    type Prepared = Noised<B>;

    fn denoiser(&self) -> &Network<B> {
        self.whole.denoiser()
    }

    fn prepare(&self, batch: &impl Samples<B>, samples: Range<usize>, draws: &Draws) -> Noised<B> {
        self.whole.prepare(batch, samples, draws)
    }

    fn inputs(&self, noised: &Noised<B>) -> Inputs<B> {
        self.whole.inputs(noised)
    }

    fn losses(&self, noised: &Noised<B>, output: &Output<B>) -> Losses<B> {
        self.whole.losses(noised, output)
    }

    fn updates(&self, path: &[&str], step: u64) -> bool {
        // The last step moves nothing but the final layer.
        let moved = if step < 7 { "blocks" } else { "final_layer" };
        matches!(path, ["whole", "denoiser", part, ..] if *part == moved)
    }

    fn times(&self, samples: Range<usize>, draws: &Draws) -> Vec<f64> {
        self.whole.times(samples, draws)
    }
}

/// Weights, averages and the optimizer's state are touched where the task says so, whatever is recomputed, and over a
/// resume.
#[test]
fn a_step_moves_what_its_task_updates_and_nothing_else() {
    let _alone = alone();
    for activation_checkpointing in [ActivationCheckpointing::Off, ActivationCheckpointing::On] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut recipe = recipe(1e-3, 100, 10);
        for stage in &mut recipe.stages {
            stage.activation_checkpointing = activation_checkpointing;
            stage.ema = vec![EmaConfig {
                decay: Decay::Smoothing(0.7),
                start: 1,
                every: 1,
            }];
        }
        let build = |stage: &Stage, seed: u64, device: &_| {
            let network = stage.model.init::<Tracked>(seed, device)?;
            let whole = stage.denoise().init(network)?;
            Ok(Backbone { whole })
        };
        let stop = Arc::default();
        let session = Session::alone(&stop);
        for steps in [3, 6] {
            recipe.stages[1].steps = steps;
            let run = RunDir::enter(&path, true).unwrap();
            let devices = [Default::default(); 2];
            let training = Training::open(&recipe, &run, &devices, true, &build).unwrap();
            training.run(&session, &"a test", |_| ()).unwrap();
        }
        let initial = build(&recipe.stages[0], recipe.run.seed, &Default::default());
        let initial = StateDict::from_module(&initial.unwrap().valid()).into_reference();
        for file in ["weights.safetensors", "ema.safetensors"] {
            let trained = StateDict::read(&path.join(file)).unwrap();
            let moved = initial
                .iter()
                .filter(|(name, data)| trained.get(name) != Some(data));
            let parts = moved.map(|(name, _)| name.split('.').next().unwrap());
            let parts: BTreeSet<&str> = parts.collect();
            assert_eq!(parts, ["blocks", "final_layer"].into(), "{file}");
        }
        let newest = Checkpoint::newest(&path.join("checkpoints"))
            .unwrap()
            .unwrap();
        let kept = StateDict::read(&newest.path().join("optimizer.safetensors")).unwrap();
        let parts = kept.iter().map(|(name, _)| name.split('.').nth(3).unwrap());
        let parts: BTreeSet<&str> = parts.collect();
        assert_eq!(parts, ["blocks", "final_layer"].into());
    }
}
