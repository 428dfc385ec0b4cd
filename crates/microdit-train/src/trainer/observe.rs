//! What is seen of a run while it is trained: lines of the log, the loss on held-out samples, grids of pictures.

use super::steps::Trainer;
use crate::{
    checkpoint::{Progress, State},
    error::TrainError,
    evaluation::Evaluation,
    ledger::Settled,
    log::{Evaluated, Metrics},
    plan,
    recipe::Stage,
    sampling::Pipeline,
};
use microdit::{
    TrainBackend,
    ema::Ema,
    task::{Task, TrainTask},
};
use std::{collections::BTreeMap, time::Instant};

impl<B, T, R> Trainer<'_, B, T, R>
where
    B: TrainBackend,
    T: TrainTask<B>,
    R: FnMut(&Metrics),
{
    /// Measures the loss on held-out samples and draws the prompts, when that is due.
    pub(super) fn look(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
        evaluation: Option<&Evaluation<'_, B::InnerBackend>>,
    ) -> Result<(), TrainError> {
        if self.is_due(self.evaluates_every(), state) {
            self.evaluate(state, evaluation)?;
        }
        if self.is_due(self.recipe.run.sampling.every, state) {
            self.draw(stage, state);
        }
        Ok(())
    }

    /// Does what was due at the step the run was resumed at, and is not there: the run was stopped before it was done.
    pub(super) fn catch_up(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        let stage = &self.recipe.stages[state.progress.stage];
        let step = state.progress.step;
        let written = self.log.as_ref().is_none_or(|log| log.has_evaluation(step));
        if !written && self.is_due(self.evaluates_every(), state) {
            let (device, stop) = (&self.devices[0], self.session.stop);
            let evaluation = Evaluation::new(self.recipe, stage, device, stop)?;
            self.evaluate(state, evaluation.as_ref())?;
        }
        let drawn = self.run.samples_at(step).is_file();
        if !drawn && self.is_due(self.recipe.run.sampling.every, state) {
            self.draw(stage, state);
        }
        Ok(())
    }

    fn evaluates_every(&self) -> Option<u64> {
        let evaluation = self.recipe.run.evaluation.as_ref();
        evaluation.map(|config| config.every)
    }

    /// Whether something is due after the state's step, on the node that keeps the run directory.
    fn is_due(&self, every: Option<u64>, state: &State<B, T>) -> bool {
        let step = state.progress.step;
        let due = every.is_some_and(|every| step > 0 && step.is_multiple_of(every));
        due && self.log.is_some()
    }

    /// Writes down the loss on held-out samples, unless the run is asked to stop meanwhile.
    fn evaluate(
        &mut self,
        state: &State<B, T>,
        evaluation: Option<&Evaluation<'_, B::InnerBackend>>,
    ) -> Result<(), TrainError> {
        let (Some(log), Some(evaluation)) = (&mut self.log, evaluation) else {
            return Ok(());
        };
        let average = state.emas.first().and_then(Ema::average);
        let stop = self.session.stop;
        let Some(loss) = evaluation.loss(&state.task.valid(), stop) else {
            return Ok(());
        };
        let ema_loss = match average {
            Some(average) => match evaluation.loss(average, stop) {
                None => return Ok(()),
                loss => loss,
            },
            None => None,
        };
        log.evaluated(&Evaluated {
            step: state.progress.step,
            loss,
            ema_loss,
        })
    }

    /// Draws the prompts, unless the run is asked to stop meanwhile. A run does not end for want of a picture.
    fn draw(&mut self, stage: &Stage, state: &State<B, T>) {
        let average = state.emas.first().and_then(Ema::average);
        let task = average.cloned().unwrap_or_else(|| state.task.valid());
        if let Err(error) = self.draw_with(stage, task.denoiser(), state.progress.step) {
            tracing::warn!("no pictures of step {}: {error}", state.progress.step);
        }
    }

    fn draw_with(
        &mut self,
        stage: &Stage,
        denoiser: &<T::InnerModule as Task<B::InnerBackend>>::Denoiser,
        step: u64,
    ) -> Result<(), TrainError> {
        let (run, device) = (&self.recipe.run, &self.devices[0]);
        // Opened at the first grid, for runs without grids do not need them.
        let encoders = std::mem::take(&mut self.encoders);
        self.encoders = encoders.or_open(&run.encoders, device)?;
        let weights = format!("{}, step {step}", run.name);
        let pipeline = Pipeline::new(
            stage,
            denoiser.clone(),
            weights,
            &self.encoders,
            device.clone(),
        )?;
        let path = self.run.samples_at(step);
        pipeline.draw_sheet(&run.sampling, run.seed, &path, self.session.stop)?;
        Ok(())
    }

    /// Writes and reports a line of the log.
    pub(super) fn write_line(
        &mut self,
        stage: &Stage,
        progress: &Progress,
        lr: f64,
    ) -> Result<(), TrainError> {
        let steps = self.ledger.take()?;
        let images: usize = steps.iter().map(|step| step.images).sum();
        let sound: Vec<f32> = steps.iter().filter_map(Settled::sound_loss).collect();
        let images_per_second = images as f64 / self.since.elapsed().as_secs_f64();
        let budget = &self.recipe.run.budget;
        let usd = budget.usd_after(progress.seconds, self.device_count());
        let metrics = Metrics {
            step: progress.step,
            stage: stage.name.clone(),
            loss: sound.iter().sum::<f32>() / sound.len() as f32,
            grad_norm: steps.last().map_or(f32::NAN, |step| step.grad_norm),
            lr,
            images_per_second,
            images: progress.images,
            terms: mean_terms(&steps),
            broken: (steps.len() - sound.len()) as u64,
            hours: progress.seconds / 3600.0,
            mfu: self.session.gpu.as_ref().map(|gpu| {
                plan::flop_per_image(stage) * images_per_second
                    / (gpu.tflops * 1e12 * self.device_count() as f64)
            }),
            usd,
            usd_left: budget.usd.zip(usd).map(|(budget, spent)| budget - spent),
        };
        self.since = Instant::now();
        if let Some(log) = &mut self.log {
            log.metrics(&metrics)?;
            (self.report)(&metrics);
        }
        Ok(())
    }
}

/// The terms of the loss, averaged over the steps that were taken; none where it has one only.
fn mean_terms(steps: &[Settled]) -> BTreeMap<String, f32> {
    let sound = steps.iter().filter(|step| step.sound_loss().is_some());
    let mut terms = BTreeMap::<String, Vec<f32>>::new();
    for &(name, value) in sound.flat_map(|step| &step.terms) {
        terms.entry(name.to_owned()).or_default().push(value);
    }
    let mean = |(name, values): (String, Vec<f32>)| {
        let count = values.len() as f32;
        (name, values.into_iter().sum::<f32>() / count)
    };
    terms.into_iter().map(mean).collect()
}
