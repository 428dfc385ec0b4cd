//! The loss on held-out samples, always with the same noise, so that curves can be compared across steps and runs.

use crate::{
    batch::StageBatch,
    error::TrainError,
    recipe::{EvaluationConfig, MAX_IMAGES, Recipe, Stage},
    source,
};
use burn::tensor::backend::Backend;
use microdit::{
    DitBackend,
    net::Denoiser as _,
    task::{Draws, Task},
};
use microdit_data::{Batch, Position};
use std::sync::atomic::{AtomicBool, Ordering};

/// The step whose randomness belongs to the evaluation: no run gets there.
const HELD_OUT_STEP: u64 = u64::MAX;

/// Where the held-out part of a generated dataset begins: no run gets there.
const HELD_OUT_SAMPLE: u64 = MAX_IMAGES;

/// Held-out samples of a stage.
pub(crate) struct Evaluation<'a, B: Backend> {
    stage: Stage,
    seed: u64,
    batch: Batch,
    device: &'a B::Device,
}

impl<'a, B: DitBackend> Evaluation<'a, B> {
    /// Reads the samples, if the recipe asks for an evaluation and `stop` is not set meanwhile.
    pub(crate) fn new(
        recipe: &Recipe,
        stage: &Stage,
        device: &'a B::Device,
        stop: &AtomicBool,
    ) -> Result<Option<Self>, TrainError> {
        let Some(EvaluationConfig {
            samples, shards, ..
        }) = &recipe.run.evaluation
        else {
            return Ok(None);
        };
        let seed = recipe.run.seed;
        let start = match shards {
            Some(_) => Position::default(),
            None => Position {
                drawn: HELD_OUT_SAMPLE,
                ..Position::default()
            },
        };
        let lists: Vec<(&str, f64)> = shards.iter().map(|shards| (shards.as_str(), 1.0)).collect();
        let mut loader = source::loader(stage, &lists, seed, *samples, &start)?;
        let Some(batch) = loader.next_batch_or_stop(stop)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            stage: stage.clone(),
            seed,
            batch,
            device,
        }))
    }

    /// Mean loss of `task`, unless `stop` is set before it is known.
    pub(crate) fn loss(&self, task: &impl Task<B>, stop: &AtomicBool) -> Option<f32> {
        let batch = StageBatch::new(&self.stage, &self.batch, self.device);
        // Stages differ in their mask, and a caption that is dropped says nothing about captions.
        let draws = Draws {
            seed: self.seed,
            step: HELD_OUT_STEP,
            held_out: true,
        };
        let count = self.batch.keys.len();
        let part = self.stage.micro_batch.unwrap_or(self.stage.batch);
        let mut sum = 0.0;
        for start in (0..count).step_by(part) {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let samples = start..(start + part).min(count);
            let prepared = task.prepare(&batch, samples, &draws);
            let output = task.denoiser().predict(task.inputs(&prepared));
            let losses = task.losses(&prepared, &output).total();
            losses
                .into_data()
                .iter::<f32>()
                .for_each(|loss| sum += loss);
        }
        Some(sum / count as f32)
    }
}
