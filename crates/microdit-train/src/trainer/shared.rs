//! What the trainer does where devices or ranks share the optimizer's state.

use super::steps::Trainer;
use crate::{
    checkpoint::{Checkpoint, State},
    collective::{Collective as _, Exchange, Outbox, Patience},
    error::TrainError,
    log::Metrics,
    recipe::Stage,
    sharding::{Sharding, Shares},
};
use microdit::{TrainBackend, ema::Ema, task::TrainTask};

impl<B, T, R> Trainer<'_, B, T, R>
where
    B: TrainBackend,
    T: TrainTask<B>,
    R: FnMut(&Metrics),
{
    /// Leaves every device what it keeps of the whole state with which a stage begins or resumes.
    pub(super) fn share(&mut self, stage: &Stage, state: State<B, T>) -> State<B, T> {
        let ranks = &self.meter;
        let (rank, world_size) = (ranks.rank(), ranks.world_size());
        self.shares = Shares::of(&state.task, world_size);
        if !stage.distributed.shard_optimizer || self.device_count() == 1 {
            return state;
        }
        let sharding = Sharding::new(&state.task, self.shares.clone(), rank, self.devices);
        let state = state.shared(&sharding);
        self.sharding = Some(sharding);
        // Ranks that write together have to agree on what is saved already: in a stage that is not shared, rank 0 alone knew. What a stage
        // begins or resumes with is on disk, but for an untrained network.
        if state.progress.step > 0 {
            self.saved = Some(state.progress.step);
        }
        state
    }

    /// The whole state with which a stage ends, as far as it is needed. All ranks take part.
    pub(super) fn unite(&mut self, state: State<B, T>) -> Result<State<B, T>, TrainError> {
        let Some(sharding) = self.sharding.take() else {
            return Ok(state);
        };
        let next = self.recipe.stages.get(state.progress.stage + 1);
        let slots = next.is_some_and(|next| next.hand_over.optimizer);
        let step = Some(state.progress.step);
        let stage = &self.recipe.stages[state.progress.stage];
        let patience = self.patience();
        let whole = state.united(&sharding, &self.exchange(stage, &patience), slots);
        whole.map_err(TrainError::lost(step))
    }

    /// How a stage's tensors are exchanged.
    pub(super) fn exchange<'b>(
        &'b self,
        stage: &Stage,
        patience: &'b Patience<'b>,
    ) -> Exchange<'b> {
        let bytes = stage.distributed.bucket_mib << 20;
        Exchange {
            ranks: &self.meter,
            patience,
            bucket: bytes / size_of::<f32>(),
        }
    }

    /// Where a rank of one device finds gradients segment by segment, they can leave for the others before all are there.
    pub(super) fn collect_in_parts(&mut self) {
        let leave = self.meter.world_size() > 1 && self.devices.len() == 1 && self.recomputes;
        self.outbox = leave.then(Outbox::new);
        self.in_parts = false;
    }

    /// Whether a probe will look at the averages after `step`, which then have to be whole.
    pub(super) fn will_look(&self, step: u64) -> bool {
        let mut probes = self.probes.iter();
        self.sharding.is_some() && probes.any(|probe| probe.looks() && probe.is_due(step))
    }

    /// The weights of all ranks after a step with the gradients called `names`.
    pub(super) fn united_weights(
        &self,
        stage: &Stage,
        task: T,
        names: &[String],
        step: u64,
    ) -> Result<T, TrainError> {
        let Some(sharding) = &self.sharding else {
            return Ok(task);
        };
        let patience = self.patience();
        let weights = sharding.weights::<B, T>(&self.exchange(stage, &patience), task, names);
        weights.map_err(TrainError::lost(Some(step)))
    }

    /// Whole copies of averages of which every rank keeps its share. All ranks take part.
    pub(super) fn united<'b>(
        &self,
        stage: &Stage,
        state: &State<B, T>,
        averages: impl Iterator<Item = &'b Ema<T::InnerModule>>,
    ) -> Result<Vec<Ema<T::InnerModule>>, TrainError>
    where
        T::InnerModule: 'b,
    {
        let patience = self.patience();
        let exchange = self.exchange(stage, &patience);
        let whole = |ema: &Ema<T::InnerModule>| match &self.sharding {
            Some(sharding) => ema.clone().try_map(|kept| {
                let whole = sharding.average(&exchange, state.task.valid(), &kept);
                whole.map_err(TrainError::lost(Some(state.progress.step)))
            }),
            None => Ok(ema.clone()),
        };
        averages.map(whole).collect()
    }

    /// Saves a state of which every rank keeps its share, with all of them, once the log is `synced`; rank 0 gets the checkpoint.
    pub(super) fn save_together(
        &mut self,
        state: &State<B, T>,
        synced: Result<(), TrainError>,
    ) -> Result<Option<Checkpoint>, TrainError> {
        let stage = &self.recipe.stages[state.progress.stage];
        let data = synced.and_then(|()| match self.log {
            Some(_) => self.identity(&state.progress).map(Some),
            None => Ok(None),
        });
        let beginning = self.beginning(&state.progress);
        let Some(sharding) = &self.sharding else {
            return Ok(None);
        };
        let patience = self.patience();
        let exchange = self.exchange(stage, &patience);
        let (checkpoints, config) = (self.run.checkpoints(), &self.recipe.run.checkpoints);
        state.save_together(&checkpoints, config, data, &beginning, sharding, &exchange)
    }
}
