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
use microdit_data::{Batch, Loader, LoaderConfig, Shapes, Shards, Source};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A finished or stopped run.
#[derive(Debug)]
pub struct Outcome<B: DitBackend> {
    /// The weights to sample from: averaged where the recipe asks for it.
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
    let mut loader = Loader::new(source(recipe)?, loader_config(recipe));
    let mut log = run.log()?;
    let mut dit = recipe.model.init::<B>(recipe.seed, device)?;
    let mut adamw = AdamW::<B::InnerBackend>::new(recipe.optimiser);
    let mut ema = recipe.ema.map(Ema::<Dit<B::InnerBackend>>::new);
    let objective = Objective::new(recipe, device);
    let total = recipe.steps();
    let mut step = 0;
    let mut losses: Option<Tensor<B::InnerBackend, 1>> = None;
    let (mut since, mut summed) = (Instant::now(), 0);
    'stages: for stage in &recipe.stages {
        let base = stage.lr.unwrap_or(recipe.optimiser.lr);
        for stage_step in 0..stage.steps {
            if stop.load(Ordering::Relaxed) {
                break 'stages;
            }
            let batch = loader.next_batch()?;
            let loss = objective.loss(&dit, &batch, stage, step);
            let value = loss.clone().inner();
            let grads = loss.backward();
            let lr = base * stage.schedule.multiplier(stage_step);
            let (updated, grad_norm) = adamw.step::<B, _>(dit, &grads, lr);
            dit = updated;
            step += 1;
            if let Some(ema) = &mut ema {
                ema.update(&dit.valid(), step);
            }
            // Losses stay on the device until a line is due, so that a step never waits for the host.
            losses = Some(match losses.take() {
                Some(sum) => sum + value,
                None => value,
            });
            summed += 1;
            if step.is_multiple_of(recipe.log_every)
                || step == total
                || stage_step + 1 == stage.steps
            {
                let loss = scalar(losses.take()) / summed as f32;
                let metrics = Metrics {
                    step,
                    stage: stage.name.clone(),
                    loss,
                    grad_norm: scalar(Some(grad_norm)),
                    lr,
                    images_per_second: (summed * recipe.batch) as f64
                        / since.elapsed().as_secs_f64(),
                    images: step * recipe.batch as u64,
                };
                run.append(&mut log, &metrics)?;
                report(&metrics);
                if !loss.is_finite() {
                    return Err(TrainError::NotFinite { step, loss });
                }
                (since, summed) = (Instant::now(), 0);
            }
        }
    }
    let raw = dit.valid();
    run.save(&run.weights(), &raw, step)?;
    let averaged = ema.and_then(Ema::into_average);
    if let Some(average) = &averaged {
        run.save(&run.ema(), average, step)?;
    }
    Ok(Outcome {
        dit: averaged.unwrap_or(raw),
        steps: step,
        stopped: step < total,
    })
}

fn scalar<B: DitBackend>(value: Option<Tensor<B, 1>>) -> f32 {
    value.map_or(f32::NAN, |value| {
        value.into_data().iter::<f32>().next().unwrap_or(f32::NAN)
    })
}

fn source(recipe: &Recipe) -> Result<Source, TrainError> {
    Ok(match recipe.data.dataset {
        Dataset::Shapes => Source::Shapes(Shapes {
            size: recipe.data.image_size,
        }),
        Dataset::WebDataset => {
            let shards = recipe.data.shards.as_deref().unwrap_or_default();
            Source::Shards(Shards::open(shards)?)
        }
    })
}

fn loader_config(recipe: &Recipe) -> LoaderConfig {
    LoaderConfig {
        seed: recipe.seed,
        batch: recipe.batch,
        image_size: recipe.data.image_size,
        threads: recipe.data.threads,
    }
}

/// From a batch to its loss, with all randomness keyed by (seed, step, sample).
struct Objective<'a, B: DitBackend> {
    recipe: &'a Recipe,
    captions: CaptionEncoder,
    codec: Codec,
    device: &'a B::Device,
}

impl<'a, B: DitBackend> Objective<'a, B> {
    fn new(recipe: &'a Recipe, device: &'a B::Device) -> Self {
        Self {
            recipe,
            captions: CaptionEncoder::new(recipe),
            codec: Codec::new(recipe),
            device,
        }
    }

    fn loss(&self, dit: &Dit<B>, batch: &Batch, stage: &Stage, step: u64) -> Tensor<B, 1> {
        let recipe = self.recipe;
        let size = batch.keys.len();
        let draw = |purpose, count| -> Vec<f32> {
            (0..size as u64)
                .flat_map(|i| Stream::new(recipe.seed, purpose, step, i).normal(count))
                .collect()
        };
        let clean: Tensor<B, 4> = self.codec.encode(&batch.pixels, size, self.device);
        let shape = clean.dims();
        let noise = TensorData::new(draw(Purpose::Noise, shape[1..].iter().product()), shape);
        let noise = Tensor::from_data(noise, self.device);
        let sigma: Vec<f32> = draw(Purpose::Sigma, 1)
            .into_iter()
            .map(|normal| recipe.diffusion.sigma(normal))
            .collect();
        let tokens = recipe.model.tokens();
        let mask = TokenMask::draw(stage.masking, tokens, recipe.seed, step, size, self.device);
        let captions =
            self.captions.encode(&batch.captions, self.device) * self.kept_captions(size, step);
        recipe
            .diffusion
            .loss(
                clean,
                noise,
                &sigma,
                recipe.model.patch_size,
                mask.as_ref(),
                |x, t| dit.forward_tokens(x, t, captions, mask.as_ref()),
            )
            .mean()
    }

    /// 0 where a sample's caption is dropped, 1 elsewhere: `[batch, 1, 1]`.
    fn kept_captions(&self, size: usize, step: u64) -> Tensor<B, 3> {
        let CaptionConfig::HashedWords { drop, .. } = self.recipe.captions;
        let keep: Vec<f32> = (0..size as u64)
            .map(|i| {
                let draw =
                    Stream::new(self.recipe.seed, Purpose::CaptionDrop, step, i).uniform(1)[0];
                f32::from(f64::from(draw) >= drop)
            })
            .collect();
        Tensor::from_data(TensorData::new(keep, [size, 1, 1]), self.device)
    }
}
