//! The training loop: recipe in, run directory out.

use crate::{
    encode::{CaptionEncoder, Codec},
    error::TrainError,
    optim::AdamW,
    recipe::{CaptionConfig, Dataset, Recipe, Stage},
    run::{Metrics, RunDir},
};
use burn::{
    module::AutodiffModule,
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};
use microdit::{
    Dit, DitBackend, TokenMask,
    ema::Ema,
    rng::{Purpose, Stream},
};
use microdit_data::{Batch, Loader, Shapes, Shards, Source};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A finished or stopped run.
pub struct Outcome<B: DitBackend> {
    /// The weights to sample from: averaged if the recipe asks for it.
    pub dit: Dit<B>,
    /// Finished steps.
    pub steps: u64,
    /// Whether it was stopped before the recipe's last step.
    pub stopped: bool,
}

/// Trains `recipe` into `run`. `report` is told of every line of the log; setting `stop` ends the run after the
/// current step, with its weights saved.
///
/// # Errors
/// Unreadable data, a loss that is not finite, files that cannot be written.
pub fn train<B>(
    recipe: &Recipe,
    run: &RunDir,
    device: &B::Device,
    stop: &AtomicBool,
    mut report: impl FnMut(&Metrics),
) -> Result<Outcome<B::InnerBackend>, TrainError>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let mut loader = Loader::new(
        source(recipe)?,
        microdit_data::LoaderConfig {
            seed: recipe.seed,
            start: 0,
            batch: recipe.batch,
            image_size: recipe.data.image_size,
            threads: recipe.data.threads,
        },
    )?;
    let mut log = run.log()?;
    let mut dit = recipe.model.init::<B>(recipe.seed, device)?;
    let mut adamw = AdamW::new(recipe.optimiser);
    let mut ema = recipe.ema.map(Ema::<Dit<B::InnerBackend>>::new);
    let loss = Loss::new(recipe, device);
    let mut step = 0;
    'stages: for stage in &recipe.stages {
        for stage_step in 0..stage.steps {
            let window = Window::open(&loss, stage, recipe.log_every.min(stage.steps - stage_step));
            let _ = window;
            let _ = stage_step;
            if stop.load(Ordering::Relaxed) {
                break 'stages;
            }
            step += 1;
        }
    }
    let _ = (&mut loader, &mut log, &mut dit, &mut adamw, &mut ema, &mut report, step);
    unreachable!()
}
