//! When and where a trainer leaves its state: checkpoints, snapshots, and what a run that failed can still save.

use super::steps::Trainer;
use crate::{
    checkpoint::{Beginning, Progress, State},
    collective::Collective as _,
    error::TrainError,
    log::{Log, Metrics},
    recipe::Stage,
    run::RunDir,
    source::DataIdentity,
};
use microdit::{TrainBackend, task::TrainTask};

impl<B, T, R> Trainer<'_, B, T, R>
where
    B: TrainBackend,
    T: TrainTask<B>,
    R: FnMut(&Metrics),
{
    /// Says what an error costs that ended the run, where that is more than the error itself says.
    pub(super) fn tell(&self, error: &TrainError) {
        if self.sharding.is_some() && matches!(error, TrainError::RanksLost { .. }) {
            tracing::warn!(
                "shares of the optimizer's state are lost with other ranks: the run resumes from its newest checkpoint"
            );
        }
    }

    /// Saves the state a run had when it failed. Where other ranks are lost, rank 0 may be among them: then its directory is free,
    /// and the first to come saves in its place.
    pub(super) fn rescue(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
        error: &TrainError,
    ) -> Result<(), TrainError> {
        self.settle(state)?;
        if self.log.is_none() && matches!(error, TrainError::RanksLost { .. }) {
            let run = match RunDir::enter(self.run.path(), true) {
                Err(TrainError::RunBusy(_)) => return Ok(()),
                entered => entered?,
            };
            let mut log = Log::open(run.path(), state.progress.step)?;
            let line = self.unlogged.take();
            if let Some(line) = line.filter(|line| log.last() < Some(line.step)) {
                log.metrics(&line)?;
            }
            (self.log, self.taken) = (Some(log), Some(run));
            self.keep_snapshot(stage, state)?;
        }
        self.save(state)
    }

    /// Takes the numbers of the pending steps to the host. Too many in a row that were not finite end the run; if the network
    /// itself is not finite, the error says so instead.
    pub(super) fn settle(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        self.steps.settle().map_err(|error| match error {
            TrainError::NonFiniteSteps { .. } => state.check_weights().err().unwrap_or(error),
            error => error,
        })
    }

    /// Keeps a snapshot of the averages whose length is chosen afterwards, where one is due. It comes before the checkpoint of the same
    /// step, so that no run resumes from behind one that was not written.
    pub(super) fn keep_snapshot(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
    ) -> Result<(), TrainError> {
        let takes_part = self.log.is_some() || self.sharding.is_some();
        let Some(config) = stage.post_hoc_ema.filter(|_| takes_part) else {
            return Ok(());
        };
        let Progress {
            stage: number,
            stage_step,
            step,
            ..
        } = state.progress;
        if !stage_step.is_multiple_of(config.every) && stage_step != stage.steps {
            return Ok(());
        }
        self.settle(state)?;
        let steps = [stage_step, step];
        if self.sharding.is_none() {
            return self.run.save_snapshot(number, steps, &state.post_hoc);
        }
        let whole = self.united(stage, state, state.post_hoc.iter())?;
        match self.log {
            Some(_) => self.run.save_snapshot(number, steps, &whole),
            None => Ok(()),
        }
    }

    /// Saves the state, unless the newest checkpoint is of this step already.
    pub(super) fn save(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        if self.saved == Some(state.progress.step) {
            return Ok(());
        }
        let synced = self.log.as_ref().map_or(Ok(()), Log::sync);
        let saved = if self.sharding.is_some() && self.meter.world_size() > 1 {
            self.save_together(state, synced)?
        } else if self.log.is_some() {
            synced?;
            let data = self.identity(&state.progress)?;
            let (checkpoints, config) = (self.run.checkpoints(), &self.recipe.run.checkpoints);
            let beginning = self.beginning(&state.progress);
            Some(state.save_of(&checkpoints, config, Some(&data), &beginning)?)
        } else {
            return Ok(());
        };
        self.saved = Some(state.progress.step);
        if let Some(saved) = saved {
            tracing::info!("state saved in {}", saved.path().display());
            self.newest = Some(saved);
        }
        Ok(())
    }

    /// What the stage began with, as its checkpoints before say it.
    pub(super) fn beginning(&self, progress: &Progress) -> Beginning {
        let before = self.newest.as_ref();
        let before = before.filter(|before| before.progress().stage == progress.stage);
        match before {
            // What is read at every resume may have been changed, where that was allowed.
            Some(before) => {
                let mut beginning = before.beginning().clone();
                beginning.origins.extend(self.origins.clone());
                beginning
            }
            None => Beginning {
                origins: self.origins.clone(),
                ..Beginning::default()
            },
        }
    }

    /// What identifies the data of the stage, read now if they were not there when the process began.
    pub(super) fn identity(&mut self, progress: &Progress) -> Result<DataIdentity, TrainError> {
        let stage = &self.recipe.stages[progress.stage];
        let known = self.data[progress.stage];
        let identity = known.map_or_else(|| DataIdentity::of(stage), Ok)?;
        self.data[progress.stage] = Some(identity);
        Ok(identity)
    }
}
