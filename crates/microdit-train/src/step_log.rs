//! The numbers of the steps: on the device until they are needed, so that a step never waits for the host, then on the
//! host, where non-finite ones are detected.

use crate::{error::TrainError, log::JsonLines, recipe::Recipe, run::RunDir};
use burn::tensor::{Tensor, backend::Backend};
use serde::Serialize;
use std::path::PathBuf;

/// A step whose numbers are still on the device.
pub(crate) struct Pending<B: Backend> {
    pub(crate) step: u64,
    pub(crate) keys: Vec<String>,
    /// Noise levels by the family's time.
    pub(crate) times: Vec<f64>,
    /// The loss, and its terms where there are several.
    pub(crate) losses: Tensor<B, 1>,
    pub(crate) terms: Vec<&'static str>,
    pub(crate) grad_norm: Tensor<B, 1>,
}

/// The numbers of a step on the host.
pub(crate) struct Settled {
    pub(crate) images: usize,
    loss: f32,
    /// Its terms where there are several.
    pub(crate) terms: Vec<(&'static str, f32)>,
    pub(crate) grad_norm: f32,
}

impl Settled {
    /// The loss, if the step was taken.
    pub(crate) fn sound_loss(&self) -> Option<f32> {
        (self.loss.is_finite() && self.grad_norm.is_finite()).then_some(self.loss)
    }
}

/// A line of `non_finite.jsonl`: enough to recompute the step.
#[derive(Serialize)]
struct NonFinite<'a> {
    step: u64,
    seed: u64,
    loss: f32,
    grad_norm: f32,
    keys: &'a [String],
    times: &'a [f64],
}

/// Steps since the last line of the log.
pub(crate) struct StepLog<B: Backend> {
    pending: Vec<Pending<B>>,
    settled: Vec<Settled>,
    /// Non-finite steps in a row.
    in_a_row: u64,
    /// The newest of them.
    last: u64,
    /// How many of them end the run.
    limit: u64,
    seed: u64,
    /// Where their batches are written.
    file: PathBuf,
    /// Whether it is this rank that writes them.
    keeps: bool,
}

impl<B: Backend> StepLog<B> {
    pub(crate) fn new(recipe: &Recipe, run: &RunDir, keeps: bool) -> Self {
        Self {
            pending: Vec::new(),
            settled: Vec::new(),
            in_a_row: 0,
            last: 0,
            limit: recipe.run.max_non_finite_steps,
            seed: recipe.run.seed,
            file: run.non_finite(),
            keeps,
        }
    }

    pub(crate) fn push(&mut self, step: Pending<B>) {
        self.pending.push(step);
    }

    /// The steps since the last call.
    pub(crate) fn take(&mut self) -> Result<Vec<Settled>, TrainError> {
        self.settle()?;
        Ok(std::mem::take(&mut self.settled))
    }

    /// Reads the numbers of the pending steps, all at once so that a step never waits for the host, and records the
    /// batches of those that were skipped.
    pub(crate) fn settle(&mut self) -> Result<(), TrainError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let numbers = pending
            .iter()
            .flat_map(|step| [step.losses.clone(), step.grad_norm.clone()])
            .collect();
        let numbers: Vec<f32> = Tensor::cat(numbers, 0).into_data().iter().collect();
        let mut numbers = numbers.into_iter();
        for step in pending {
            let mut next = || numbers.next().expect("as many numbers as were asked for");
            let loss = next();
            let terms = step.terms.iter().map(|&name| (name, next())).collect();
            let grad_norm = next();
            let settled = Settled {
                images: step.keys.len(),
                loss,
                terms,
                grad_norm,
            };
            if settled.sound_loss().is_some() {
                self.in_a_row = 0;
            } else {
                self.in_a_row += 1;
                self.last = step.step;
            }
            if settled.sound_loss().is_none() && self.keeps {
                JsonLines::append_to(self.file.clone())?.push(&NonFinite {
                    step: step.step,
                    seed: self.seed,
                    loss,
                    grad_norm,
                    keys: &step.keys,
                    times: &step.times,
                })?;
                tracing::warn!(
                    "step {} is left out: loss {loss}, gradient norm {grad_norm}; its batch is in {}",
                    step.step,
                    self.file.display()
                );
            }
            self.settled.push(settled);
            self.check(self.limit)?;
        }
        Ok(())
    }

    /// Checks that one of the last `steps` was taken: a stage without any has trained nothing, whatever the recipe
    /// tolerates.
    pub(crate) fn check(&self, steps: u64) -> Result<(), TrainError> {
        if self.in_a_row < steps {
            return Ok(());
        }
        Err(TrainError::NonFiniteSteps {
            steps: self.in_a_row,
            last: self.last,
            batches: self.file.clone(),
        })
    }
}
