//! What can be seen of a run while it is trained: lines of the log, and what its probes find.

use super::steps::Trainer;
use crate::{
    checkpoint::{Progress, State},
    error::TrainError,
    log::{Evaluated, Log, Metrics},
    probe::{Probe, View},
    recipe::Stage,
    step_log::Settled,
};
use microdit::{TrainBackend, ema::Ema, task::TrainTask};
use std::{collections::BTreeMap, sync::atomic::Ordering, time::Instant};

impl<B, T, R> Trainer<'_, B, T, R>
where
    B: TrainBackend,
    T: TrainTask<B>,
    R: FnMut(&Metrics),
{
    /// Has the probes read what they need for a stage.
    pub(super) fn enter(&mut self, stage: &Stage) -> Result<(), TrainError> {
        for probe in &mut self.probes {
            probe.enter(self.recipe, stage, self.session.stop)?;
        }
        Ok(())
    }

    /// Runs the probes that are due. If one of them `looks` at the averages, those are made whole by all ranks.
    pub(super) fn look(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
        looks: bool,
    ) -> Result<(), TrainError> {
        let first = state.emas.iter().take(1);
        let whole = match looks {
            true => self.united(stage, state, first)?,
            false => Vec::new(),
        };
        let average = match self.sharding {
            Some(_) => whole.first(),
            None => state.emas.first(),
        };
        self.run_probes(stage, state, average.and_then(Ema::average), |_, _| true)
    }

    /// Runs those that were due at the step the run was resumed at and have left nothing: it was stopped before they
    /// finished.
    pub(super) fn catch_up(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        let stage = &self.recipe.stages[state.progress.stage];
        let (run, step) = (self.run, state.progress.step);
        if step > 0 {
            self.enter(stage)?;
            let average = state.emas.first().and_then(Ema::average);
            self.run_probes(stage, state, average, |probe, log| {
                !log.has_evaluation(probe.name()) && !probe.is_done(run, step)
            })?;
        }
        Ok(())
    }

    /// Runs the probes that are due after the state's step and `wanted`.
    fn run_probes(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
        average: Option<&T::InnerModule>,
        wanted: impl Fn(&dyn Probe<B, T>, &Log) -> bool,
    ) -> Result<(), TrainError> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let step = state.progress.step;
        let due = |probe: &&mut Box<dyn Probe<B, T> + '_>| probe.is_due(step);
        // Made once, however many probes are due.
        let mut task = None;
        for probe in self.probes.iter_mut().filter(due) {
            if !wanted(&**probe, log) {
                continue;
            }
            let view = View {
                recipe: self.recipe,
                stage,
                run: self.run,
                step,
                task: task.get_or_insert_with(|| state.task.valid()),
                average,
                device: &self.devices[0],
                stop: self.session.stop,
            };
            match probe.run(&view)? {
                Some(numbers) => log.evaluated(&Evaluated {
                    step,
                    probe: probe.name(),
                    numbers,
                })?,
                None => {
                    let stopped = self.session.stop.load(Ordering::Relaxed);
                    self.looked_in_vain |= stopped && !probe.is_done(self.run, step);
                }
            }
            // A picture that is not shown does not end a run either.
            if let Some(png) = probe.picture(self.run, step)
                && let Err(error) = log.picture(step, probe.name(), &png)
            {
                tracing::warn!("TensorBoard does not get the picture of step {step}: {error}");
            }
        }
        Ok(())
    }

    /// Writes and reports a line of the log.
    pub(super) fn write_line(
        &mut self,
        stage: &Stage,
        progress: &Progress,
        lr: f64,
    ) -> Result<(), TrainError> {
        let steps = self.steps.take()?;
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
            non_finite: (steps.len() - sound.len()) as u64,
            hours: progress.seconds / 3600.0,
            mfu: self.session.gpu.as_ref().map(|gpu| {
                self.flop_per_image * images_per_second
                    / (gpu.tflops * 1e12 * self.device_count() as f64)
            }),
            usd,
            usd_left: budget.usd.zip(usd).map(|(budget, spent)| budget - spent),
        };
        self.since = Instant::now();
        match &mut self.log {
            Some(log) => {
                log.metrics(&metrics)?;
                (self.report)(&metrics);
            }
            None => self.unlogged = Some(metrics),
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
