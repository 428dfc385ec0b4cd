//! The loss on held-out samples at eight noise levels, with the same samples and noise for every step of a run and for all runs of one
//! seed, so that their curves can be compared.

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
    task::{Draws, HELD_OUT_SIGMAS, Samples as _, Task, TrainTask},
};
use microdit_data::{Batch, Position};
use std::sync::atomic::{AtomicBool, Ordering};

/// The step whose randomness belongs to the evaluation: no run gets there.
const HELD_OUT_STEP: u64 = u64::MAX;

/// Where the held-out part of a generated dataset begins: no run gets there.
const HELD_OUT_SAMPLE: u64 = MAX_IMAGES;

/// The mean over the levels: its name and that of its standard error, and those of the first average's.
const MEANS: [[&str; 2]; 2] = [
    ["loss", "loss_standard_error"],
    ["ema_loss", "ema_loss_standard_error"],
];

/// Names of the losses at [`HELD_OUT_SIGMAS`], and of the first average's.
const LEVELS: [[&str; 2]; HELD_OUT_SIGMAS.len()] = [
    ["loss_at_0.067", "ema_loss_at_0.067"],
    ["loss_at_0.23", "ema_loss_at_0.23"],
    ["loss_at_0.45", "ema_loss_at_0.45"],
    ["loss_at_0.78", "ema_loss_at_0.78"],
    ["loss_at_1.3", "ema_loss_at_1.3"],
    ["loss_at_2.2", "ema_loss_at_2.2"],
    ["loss_at_4.3", "ema_loss_at_4.3"],
    ["loss_at_15", "ema_loss_at_15"],
];

/// The loss on held-out samples, without mask and with every caption, each sample at one of the
/// [fixed noise levels](HELD_OUT_SIGMAS): `loss_at_SIGMA` for each level, and their mean, `loss`, of the weights as trained;
/// the same with `ema_` before it of their first average. There are at least as many samples as levels. (MLPerf's
/// text-to-image benchmark validates so.) With at least two samples at every level the mean has its standard error beside it, as
/// another draw of samples and noise would scatter it: `loss_standard_error`. A student has no such loss.
pub struct HeldOutLoss {
    config: EvaluationConfig,
    /// Steps between evaluations in the stage that was entered.
    every: u64,
    /// The name of the stage that was entered, and its samples; none if it was asked to stop.
    entered: Option<(String, Batch)>,
}

impl HeldOutLoss {
    /// On samples as `config` says.
    pub fn new(config: EvaluationConfig) -> Self {
        Self {
            every: config.every,
            config,
            entered: None,
        }
    }

    /// The names of its losses: those of the weights as trained, and if they are `averaged`, of their first average.
    pub fn names(averaged: bool) -> impl Iterator<Item = &'static str> {
        let whiches = if averaged { 2 } else { 1 };
        let all = std::iter::once(MEANS.map(|[name, _]| name)).chain(LEVELS);
        all.flat_map(move |names| names.into_iter().take(whiches))
    }
}

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for HeldOutLoss {
    fn name(&self) -> &'static str {
        "held_out"
    }

    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    fn enter(
        &mut self,
        recipe: &Recipe,
        stage: &Stage,
        stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        self.every = stage.evaluate_every.unwrap_or(self.config.every);
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
        let seed = recipe.run.seed;
        let count = self.config.samples.max(LEVELS.len());
        let (shards, caption) = (shards.as_deref(), self.config.caption.as_deref());
        let mut loader = source::held_out(stage, shards, caption, seed, count, &start)?;
        let batch = loader.next_batch_or_stop(stop)?;
        self.entered = batch.map(|batch| (stage.name.clone(), batch));
        Ok(())
    }

    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let Some((_, batch)) = &self.entered else {
            return Ok(None);
        };
        // A student has no loss at a noise level.
        if view.stage.distill.is_some() {
            return Ok(None);
        }
        let seed = view.recipe.run.seed;
        let samples = StageBatch::new(view.stage, batch, view.device);
        let mut numbers = Numbers::new();
        for (which, task) in [Some(view.task), view.average].into_iter().enumerate() {
            let Some(task) = task else {
                continue;
            };
            let Some(levels) = levels(task, view.stage, &samples, seed, view.stop) else {
                return Ok(None);
            };
            let [mean, error] = MEANS[which];
            let count = levels.len() as f64;
            numbers.insert(
                mean,
                levels.iter().map(|level| level.mean).sum::<f64>() / count,
            );
            let variances = levels.iter().map(Level::variance_of_mean);
            if let Some(variance) = variances.sum::<Option<f64>>() {
                numbers.insert(error, variance.sqrt() / count);
            }
            let means = levels.iter().map(|level| level.mean);
            numbers.extend(
                LEVELS
                    .iter()
                    .zip(means)
                    .map(|(names, mean)| (names[which], mean)),
            );
        }
        Ok(Some(numbers))
    }
}

/// The losses of the samples at one noise level.
#[derive(Clone, Copy, Default)]
struct Level {
    count: f64,
    mean: f64,
    /// Sum of the squared distances from the mean, updated as Welford's method does.
    squares: f64,
}

impl Level {
    fn add(&mut self, loss: f64) {
        self.count += 1.0;
        let distance = loss - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (loss - self.mean);
    }

    /// Estimated from the scatter of at least two losses.
    fn variance_of_mean(&self) -> Option<f64> {
        (self.count > 1.0).then(|| self.squares / (self.count - 1.0) / self.count)
    }
}

/// The losses of `task` on a batch at each noise level, unless `stop` is set before they are known.
fn levels<B: DitBackend>(
    task: &impl Task<B>,
    stage: &Stage,
    batch: &StageBatch<'_, B>,
    seed: u64,
    stop: &AtomicBool,
) -> Option<[Level; LEVELS.len()]> {
    // Stages differ in their mask, and a dropped caption says nothing about captions.
    let draws = Draws {
        held_out: true,
        ..Draws::of_step(seed, HELD_OUT_STEP)
    };
    let count = batch.count();
    let part = stage.micro_batch.unwrap_or(stage.batch);
    let network = task.network();
    let mut levels = [Level::default(); LEVELS.len()];
    for start in (0..count).step_by(part) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let samples = start..(start + part).min(count);
        let prepared = task.prepare(batch, samples.clone(), &draws);
        let output = network.predict(task.inputs(&prepared));
        let losses = task.losses(&prepared, &output).total().into_data();
        for (sample, loss) in samples.zip(losses.iter::<f64>()) {
            levels[sample % LEVELS.len()].add(loss);
        }
    }
    Some(levels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StageTask, checkpoint::tests::tiny, run::RunDir, stage_task::Prepared};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use microdit::diffusion::Row;
    use std::collections::BTreeSet;

    type Tracked = Autodiff<Flex>;
    type Trained = StageTask<Tracked>;

    #[test]
    fn every_level_is_measured_on_its_samples() {
        let recipe = tiny(&[
            "evaluation=(every: 2, samples: 19)",
            "stages.masked.micro_batch=5",
        ]);
        let (stage, device, stop) = (
            &recipe.stages[0],
            Default::default(),
            AtomicBool::new(false),
        );
        let config = recipe.run.evaluation.clone().unwrap();
        let mut probe = HeldOutLoss::new(config);
        Probe::<Tracked, Trained>::enter(&mut probe, &recipe, stage, &stop).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::enter(&folder.path().join("run"), false).unwrap();
        let task = stage.task::<Flex>(0, &device).unwrap();
        let view: View<'_, Tracked, Trained> = View {
            recipe: &recipe,
            stage,
            run: &run,
            step: 2,
            task: &task,
            average: None,
            device: &device,
            stop: &stop,
        };
        let numbers = probe.run(&view).unwrap().unwrap();
        let (_, batch) = probe.entered.unwrap();
        let samples = StageBatch::<Flex>::new(stage, &batch, &device);
        let draws = Draws {
            held_out: true,
            ..Draws::of_step(recipe.run.seed, HELD_OUT_STEP)
        };
        let Prepared::Denoise(prepared) = task.prepare(&samples, 0..19, &draws) else {
            panic!("it learns to denoise");
        };
        let sigma = |row: &Row| row.level.sigma();
        let found: Vec<f64> = prepared.rows.iter().map(sigma).collect();
        let prepared = Prepared::Denoise(prepared);
        let output = task.denoiser().predict(task.inputs(&prepared));
        let losses = task.losses(&prepared, &output).total().into_data();
        let losses: Vec<f64> = losses.iter::<f64>().collect();
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        for (sigma, [name, _]) in HELD_OUT_SIGMAS.into_iter().zip(LEVELS) {
            let shown: f64 = name.rsplit('_').next().unwrap().parse().unwrap();
            assert!((shown / sigma - 1.0).abs() < 0.02, "{name} is {sigma}");
            let of_level = found
                .iter()
                .zip(&losses)
                .filter(|(found, _)| (*found / sigma - 1.0).abs() < 1e-9);
            let of_level: Vec<f64> = of_level.map(|(_, loss)| *loss).collect();
            assert!(of_level.len() >= 2);
            let mean = of_level.iter().sum::<f64>() / of_level.len() as f64;
            assert!((numbers[name] / mean - 1.0).abs() < 1e-5, "{name}");
            means.push(mean);
            let squares: f64 = of_level.iter().map(|loss| (loss - mean).powi(2)).sum();
            let size = of_level.len() as f64;
            variances.push(squares / (size * (size - 1.0)));
        }
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        assert!((numbers["loss"] / mean - 1.0).abs() < 1e-5);
        let error = variances.iter().sum::<f64>().sqrt() / means.len() as f64;
        assert!((numbers["loss_standard_error"] / error - 1.0).abs() < 1e-4);
        let names: BTreeSet<&str> = HeldOutLoss::names(false).collect();
        let [_, error] = MEANS[0];
        let losses = numbers.keys().copied().filter(|name| *name != error);
        assert_eq!(names, losses.collect());
        assert_eq!(HeldOutLoss::names(true).count(), 2 * names.len());
    }
}
