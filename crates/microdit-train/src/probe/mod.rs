//! What is measured and drawn with a network while it is trained.

mod held_out;
mod sample_grid;

pub use crate::log::{Numbers, STANDARD_ERROR};
pub use held_out::HeldOutLoss;
pub use sample_grid::SampleGrid;

use crate::{
    error::TrainError,
    recipe::{Recipe, Stage},
    run::RunDir,
};
use microdit::{TrainBackend, task::TrainTask};
use std::{path::PathBuf, sync::atomic::AtomicBool};

/// Something that looks at a network now and then. It owns what it compares with, and is shown the network in a
/// [`View`]. Only the process that keeps the run directory has probes.
pub trait Probe<B: TrainBackend, T: TrainTask<B>>: Send {
    /// What the logs call it; no two probes of a run have the same name.
    fn name(&self) -> &'static str;

    /// Whether it is due after `step` finished steps, which are at least 1, in the stage entered last.
    fn is_due(&self, step: u64) -> bool;

    /// Whether it looks at the networks at all. Where devices share the averages, those are made whole for it, if it says that it is due
    /// before the step is taken.
    fn looks(&self) -> bool {
        true
    }

    /// Whether `run` already has its result of `step`. Probes that give numbers need not know: the log does.
    fn is_done(&self, _run: &RunDir, _step: u64) -> bool {
        false
    }

    /// The PNG it drew into `run` at `step`, if it draws one; TensorBoard shows it under the probe's name.
    fn picture(&self, _run: &RunDir, _step: u64) -> Option<PathBuf> {
        None
    }

    /// Reads what it needs for a stage, before the stage is begun or resumed.
    ///
    /// # Errors
    /// Whatever should end the run before it trains in vain.
    fn enter(
        &mut self,
        _recipe: &Recipe,
        _stage: &Stage,
        _stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        Ok(())
    }

    /// Looks. The numbers go into `evaluation.jsonl` and, as `NAME/NUMBER`, to TensorBoard; none if it was asked to stop,
    /// or has nothing to say.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError>;
}

/// A run as a probe sees it, between two steps.
pub struct View<'a, B: TrainBackend, T: TrainTask<B>> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The stage that is trained.
    pub stage: &'a Stage,
    /// The run directory.
    pub run: &'a RunDir,
    /// Finished steps.
    pub step: u64,
    /// The networks as trained.
    pub task: &'a T::InnerModule,
    /// The first average of them, where there is one, and it is whole.
    pub average: Option<&'a T::InnerModule>,
    /// Where they are.
    pub device: &'a B::Device,
    /// Set when the run is to end: a probe should then stop soon.
    pub stop: &'a AtomicBool,
}

impl<'a, B: TrainBackend, T: TrainTask<B>> View<'a, B, T> {
    /// The networks to draw with: averaged ones, where there are.
    pub fn drawn_with(&self) -> &'a T::InnerModule {
        self.average.unwrap_or(self.task)
    }
}

/// The probes a recipe asks for.
pub(crate) fn of_recipe<B: TrainBackend, T: TrainTask<B>>(
    recipe: &Recipe,
) -> Vec<Box<dyn Probe<B, T>>> {
    let mut probes: Vec<Box<dyn Probe<B, T>>> = Vec::new();
    if let Some(config) = &recipe.run.evaluation {
        probes.push(Box::new(HeldOutLoss::new(config.clone())));
    }
    if let Some(every) = recipe.run.sampling.every {
        probes.push(Box::new(SampleGrid::<B>::new(every)));
    }
    probes
}
