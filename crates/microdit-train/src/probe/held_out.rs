//! The loss on held-out samples, always with the same noise, so that curves can be compared across steps and runs.

use super::{Numbers, Probe, View};
use crate::{
    batch::StageBatch,
    error::TrainError,
    recipe::{EvaluationConfig, MAX_IMAGES, Recipe, Stage},
    source,
};
use microdit::{
    DitBackend, TrainBackend,
    net::Denoiser as _,
    task::{Draws, Samples as _, Task, TrainTask},
};
use microdit_data::{Batch, Position};
use std::sync::atomic::{AtomicBool, Ordering};

/// The step whose randomness belongs to the evaluation: no run gets there.
const HELD_OUT_STEP: u64 = u64::MAX;

/// Where the held-out part of a generated dataset begins: no run gets there.
const HELD_OUT_SAMPLE: u64 = MAX_IMAGES;

/// The mean loss on held-out samples, without mask and with every caption: `loss` of the weights as trained, and `ema_loss`
/// of their first average.
pub struct HeldOutLoss {
    config: EvaluationConfig,
    /// The name of the stage that was entered, and its samples; none if it was asked to stop meanwhile.
    entered: Option<(String, Batch)>,
}

impl HeldOutLoss {
    /// On samples as `config` says.
    pub fn new(config: EvaluationConfig) -> Self {
        let entered = None;
        Self { config, entered }
    }
}

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for HeldOutLoss {
    fn name(&self) -> &'static str {
        "held_out"
    }

    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.config.every)
    }

    fn enter(
        &mut self,
        recipe: &Recipe,
        stage: &Stage,
        stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        if matches!(&self.entered, Some((name, _)) if *name == stage.name) {
            return Ok(());
        }
        let shards = &self.config.shards;
        let start = match shards {
            Some(_) => Position::default(),
            None => Position {
                drawn: HELD_OUT_SAMPLE,
                ..Position::default()
            },
        };
        let lists: Vec<(&str, f64)> = shards.iter().map(|shards| (shards.as_str(), 1.0)).collect();
        let (seed, count) = (recipe.run.seed, self.config.samples);
        let mut loader = source::loader(stage, &lists, seed, count, &start)?;
        let batch = loader.next_batch_or_stop(stop)?;
        self.entered = batch.map(|batch| (stage.name.clone(), batch));
        Ok(())
    }

    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let Some((_, batch)) = &self.entered else {
            return Ok(None);
        };
        let seed = view.recipe.run.seed;
        let samples = StageBatch::new(view.stage, batch, view.device);
        let mut numbers = Numbers::new();
        for (name, task) in [("loss", Some(view.task)), ("ema_loss", view.average)] {
            let Some(task) = task else {
                continue;
            };
            let Some(loss) = mean_loss(task, view.stage, &samples, seed, view.stop) else {
                return Ok(None);
            };
            numbers.insert(name, loss);
        }
        Ok(Some(numbers))
    }
}

/// Mean loss of `task` on a batch, unless `stop` is set before it is known.
fn mean_loss<B: DitBackend>(
    task: &impl Task<B>,
    stage: &Stage,
    batch: &StageBatch<'_, B>,
    seed: u64,
    stop: &AtomicBool,
) -> Option<f64> {
    // Stages differ in their mask, and a caption that is dropped says nothing about captions.
    let draws = Draws {
        seed,
        step: HELD_OUT_STEP,
        held_out: true,
    };
    let count = batch.count();
    let part = stage.micro_batch.unwrap_or(stage.batch);
    let mut sum = 0.0;
    for start in (0..count).step_by(part) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let samples = start..(start + part).min(count);
        let prepared = task.prepare(batch, samples, &draws);
        let output = task.denoiser().predict(task.inputs(&prepared));
        let losses = task.losses(&prepared, &output).total().into_data();
        sum += losses.iter::<f64>().sum::<f64>();
    }
    Some(sum / count as f64)
}
