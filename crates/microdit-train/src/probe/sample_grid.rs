//! The prompts of the recipe, drawn on a sheet.

use super::{Numbers, Probe, View};
use crate::{
    encoders::Encoders,
    error::TrainError,
    recipe::{Recipe, Stage},
    run::RunDir,
    sampling::{Pipeline, Surroundings},
};
use microdit::{
    TrainBackend,
    task::{Task as _, TrainTask},
};
use std::{path::PathBuf, sync::atomic::AtomicBool};

/// Draws the recipe's prompts with the first average of the weights, or as trained if there is none.
pub struct SampleGrid<B: TrainBackend> {
    /// Steps between grids, unless a stage says otherwise.
    default: u64,
    /// The same in the stage that was entered.
    every: u64,
    encoders: Encoders<B::InnerBackend>,
    /// The step of the newest grid that was drawn.
    drawn: Option<u64>,
}

impl<B: TrainBackend> SampleGrid<B> {
    /// Steps between grids, at least 1, in stages without a `draw_every`.
    pub fn new(every: u64) -> Self {
        Self {
            default: every,
            every,
            encoders: Encoders::default(),
            drawn: None,
        }
    }

    fn draw<T: TrainTask<B>>(&mut self, view: &View<'_, B, T>) -> Result<(), TrainError> {
        let (run, device) = (&view.recipe.run, view.device);
        // Opened at the first grid, which may never be due.
        self.encoders = std::mem::take(&mut self.encoders).or_open(&run.encoders, device)?;
        let denoiser = view.drawn_with().network();
        let weights = format!("{}, step {}", run.name, view.step);
        let device = device.clone();
        let pipeline = Pipeline::new(
            Surroundings::of_stage(view.stage),
            denoiser,
            weights,
            &self.encoders,
            device,
        )?;
        let path = view.run.samples_at(view.step);
        let settings = pipeline.usual(run.sampling.clone());
        pipeline.draw_sheet(&settings, run.seed, &path, view.stop)?;
        Ok(())
    }
}

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for SampleGrid<B> {
    fn name(&self) -> &'static str {
        "sample_grid"
    }

    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    fn enter(
        &mut self,
        _recipe: &Recipe,
        stage: &Stage,
        _stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        self.every = stage.draw_every.unwrap_or(self.default);
        Ok(())
    }

    fn is_done(&self, run: &RunDir, step: u64) -> bool {
        run.samples_at(step).is_file()
    }

    fn picture(&self, run: &RunDir, step: u64) -> Option<PathBuf> {
        // Not that of an attempt before, whose step it is again.
        let drawn = (self.drawn == Some(step)).then(|| run.samples_at(step));
        drawn.filter(|path| path.is_file())
    }

    /// A picture that cannot be drawn does not end a run: what went wrong is a warning.
    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        match self.draw(view) {
            Ok(()) => self.drawn = Some(view.step),
            Err(error) => tracing::warn!(
                "the sample grid of step {} was not drawn: {error}",
                view.step
            ),
        }
        Ok(None)
    }
}
