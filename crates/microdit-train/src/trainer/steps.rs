//! The training loop: one stage after the other, step by step, with the state saved as it goes.

use super::Session;
use crate::{
    batch::Reader,
    checkpoint::{Checkpoint, Progress, State},
    collective::{self, Agreed, Meter, Outbox, Patience, Summed, Summing, Traffic, Trained},
    error::TrainError,
    log::{Log, Metrics},
    parallel::{Job, gradients, share},
    plan,
    probe::Probe,
    recipe::{Recipe, Stage},
    run::RunDir,
    sealed::Files,
    sharding::{Sharding, Shares},
    source::{self, DataIdentity},
    step::Computed,
    step_log::{Pending, StepLog},
};
use microdit::{
    TrainBackend,
    task::{Draws, TrainTask},
};
use microdit_data::{Batch, Loader, Position};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// What was found when the run was opened.
pub(super) struct Opened<'a, B: TrainBackend, T: TrainTask<B>> {
    /// The checkpoint it resumes from.
    pub(super) newest: Option<Checkpoint>,
    /// What the data of the stages are, as far as that is known.
    pub(super) data: Vec<Option<DataIdentity>>,
    /// Checksums of the files of weights it begins with, where it does not resume.
    pub(super) origins: Files,
    /// What looks at the network now and then.
    pub(super) probes: Vec<Box<dyn Probe<B, T> + 'a>>,
}

/// A run that is being trained.
pub(super) struct Trainer<'a, B: TrainBackend, T: TrainTask<B>, R> {
    pub(super) recipe: &'a Recipe,
    pub(super) run: &'a RunDir,
    pub(super) devices: &'a [B::Device],
    pub(super) session: &'a Session<'a>,
    pub(super) report: R,
    /// None on a rank that does not keep the run directory.
    pub(super) log: Option<Log>,
    /// The last line that such a rank would have logged.
    pub(super) unlogged: Option<Metrics>,
    /// The directory, once such a rank has taken it over.
    pub(super) taken: Option<RunDir>,
    started: Instant,
    /// When the last sum over the ranks was known, and how long the step to it had taken.
    summed: Option<(Instant, Duration)>,
    /// The ranks, with what is sent to them counted.
    pub(super) meter: Meter<'a>,
    traffic: Traffic,
    /// The same over all stages.
    whole_traffic: Traffic,
    /// Which rank adds up which gradient.
    pub(super) shares: Shares,
    /// Whether the stage computes activations again in the backward pass.
    pub(super) recomputes: bool,
    /// Where gradients are collected, if they are found in parts and other ranks wait for them.
    pub(super) outbox: Option<Outbox<B::InnerBackend>>,
    /// Whether all ranks have one, which they know after a step of the stage.
    pub(super) in_parts: bool,
    /// What an image of the stage costs.
    pub(super) flop_per_image: f64,
    /// Whose part of the state is here, while a stage's is shared.
    pub(super) sharding: Option<Sharding<B::InnerBackend>>,
    /// The step of the newest checkpoint; where the state is not shared, rank 0 alone keeps it up.
    pub(super) saved: Option<u64>,
    /// Seconds the run had taken before.
    before: f64,
    pub(super) steps: StepLog<B::InnerBackend>,
    /// What looks at the network now and then.
    pub(super) probes: Vec<Box<dyn Probe<B, T> + 'a>>,
    /// Whether a probe was asked to stop before it found anything.
    pub(super) looked_in_vain: bool,
    /// When the last line of the log was written.
    pub(super) since: Instant,
    /// The newest checkpoint, which was verified when it was loaded or written.
    pub(super) newest: Option<Checkpoint>,
    /// What the data of the stages are, as far as that is known.
    pub(super) data: Vec<Option<DataIdentity>>,
    /// Checksums of the files of weights that the stage began with in this process.
    pub(super) origins: Files,
}

impl<'a, B, T, R> Trainer<'a, B, T, R>
where
    B: TrainBackend,
    T: TrainTask<B>,
    R: FnMut(&Metrics),
{
    /// A trainer of a run that has come as far as `progress` says.
    pub(super) fn new(
        recipe: &'a Recipe,
        run: &'a RunDir,
        devices: &'a [B::Device],
        session: &'a Session<'a>,
        report: R,
        progress: &Progress,
        opened: Opened<'a, B, T>,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            recipe,
            run,
            devices,
            session,
            report,
            log: match session.keeps() {
                true => Some(Log::open(run.path(), progress.step)?),
                false => None,
            },
            unlogged: None,
            taken: None,
            started: Instant::now(),
            summed: None,
            meter: Meter::new(session.ranks),
            traffic: Traffic::default(),
            whole_traffic: Traffic::default(),
            shares: Shares::default(),
            recomputes: false,
            outbox: None,
            in_parts: false,
            flop_per_image: 0.0,
            sharding: None,
            saved: opened.newest.as_ref().map(|newest| newest.progress().step),
            before: progress.seconds,
            steps: StepLog::new(recipe, run, session.keeps()),
            probes: match session.keeps() {
                true => opened.probes,
                false => Vec::new(),
            },
            looked_in_vain: false,
            since: Instant::now(),
            newest: opened.newest,
            data: opened.data,
            origins: opened.origins,
        })
    }

    /// The newest checkpoint.
    pub(super) fn newest(&self) -> Option<&Checkpoint> {
        self.newest.as_ref()
    }

    /// What was exchanged with other ranks, if there are some.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        (self.whole_traffic.steps > 0).then_some(self.whole_traffic)
    }

    /// Runs what is left of a stage, or of it until the run is asked to stop.
    pub(super) fn stage(&mut self, mut state: State<B, T>) -> Result<State<B, T>, TrainError> {
        let stage = &self.recipe.stages[state.progress.stage];
        if state.progress.stage_step >= stage.steps {
            return Ok(state);
        }
        let every = self.recipe.run.checkpoints.every;
        self.enter(stage)?;
        let mut loader = self.loader(&state.progress)?;
        let device = &self.devices[0];
        let reader = Reader::<B::InnerBackend>::of(self.recipe, stage, device)?;
        state = self.share(stage, state);
        let gib = self.session.gpu.as_ref().map(|gpu| gpu.gib);
        self.flop_per_image = plan::flop_per_image(stage);
        self.recomputes = plan::checkpoints_activations(stage, self.device_count(), gib);
        self.collect_in_parts();
        self.since = Instant::now();
        while state.progress.stage_step < stage.steps {
            let _awake = B::keep_awake();
            let sent = self.meter.sent();
            let summed = self.trained(stage, &state, &mut loader, &reader);
            let ((batch, computed), Agreed { looks, .. }) = match summed {
                Ok(Some(summed)) => summed,
                Ok(None) => break,
                Err(error) => {
                    // Data or other ranks are lost between two steps: the state is sound.
                    let lost = matches!(error, TrainError::RanksLost { .. });
                    let shares_lost = lost && self.sharding.is_some();
                    if state.progress.step > 0
                        && !shares_lost
                        && let Err(second) = self.rescue(stage, &state, &error)
                    {
                        tracing::warn!("the state cannot be saved: {second}");
                    }
                    if !lost {
                        // The end of one of them may end the others before they have saved it.
                        let _ = self.session.ranks.barrier(&self.patience());
                    }
                    return Err(error);
                }
            };
            let lr = stage.optimizer.lr
                * stage
                    .schedule
                    .multiplier(state.progress.stage_step, stage.steps);
            state = self.step(stage, state, &batch, computed, lr)?;
            self.traffic.sent += self.meter.sent() - sent;
            let Progress {
                step, stage_step, ..
            } = state.progress;
            let last = stage_step == stage.steps;
            if step.is_multiple_of(self.recipe.run.log_every) || last {
                self.settle(&state)?;
                self.write_line(stage, &state.progress, lr)?;
            }
            self.look(stage, &state, looks)?;
            self.keep_snapshot(stage, &state)?;
            // The end of the stage is saved by the caller.
            if step.is_multiple_of(every) && !last {
                self.settle(&state)?;
                self.save(&state)?;
            }
        }
        let traffic = std::mem::take(&mut self.traffic);
        if traffic.steps > 0 {
            tracing::info!("stage {}: {traffic}", stage.name);
            self.whole_traffic = self.whole_traffic.plus(traffic);
        }
        if let Some(skipped) = loader.skipped() {
            tracing::warn!("stage {}: {skipped}", stage.name);
        }
        self.settle(&state)?;
        if state.progress.stage_step == stage.steps {
            self.steps.check(stage.steps)?;
        }
        Ok(state)
    }

    /// The next batch, and this rank's part in its loss and gradients; none if the run is asked to stop before they are
    /// known.
    fn gradients(
        &self,
        state: &State<B, T>,
        stage: &Stage,
        loader: &mut Loader,
        reader: &Reader<B::InnerBackend>,
        outbox: Option<&mut Outbox<B::InnerBackend>>,
    ) -> Result<Option<Trained<B::InnerBackend>>, TrainError> {
        if self.must_stop() {
            return Ok(None);
        }
        let stop = &**self.session.stop;
        let Some(batch) = loader.next_batch_or_stop(stop)? else {
            return Ok(None);
        };
        let step = state.progress.step;
        let size = batch.keys.len();
        let ranks = self.session.ranks;
        let samples = share(0..size, ranks.rank(), ranks.world_size());
        // The same on all ranks: a launcher that ends the job with the first of them cuts off what another has to say.
        if size < ranks.world_size() {
            return Err(TrainError::MoreRanksThanSamples {
                batch: size,
                ranks: ranks.world_size(),
            });
        }
        let stage_step = state.progress.stage_step;
        let embeddings = reader.embeddings(&batch, stage, samples.clone(), stage_step)?;
        let batch = reader.read(batch, stage, samples.clone())?;
        let job = Job {
            activation_checkpointing: self.recomputes,
            stage,
            batch: &batch,
            dropped: reader.dropped.as_deref(),
            embeddings: embeddings.as_ref(),
            samples,
            draws: Draws::of_step(self.recipe.run.seed, step).in_stage(stage_step),
            stop: Some(stop),
        };
        let computed = gradients(&state.task, &job, self.devices, outbox);
        Ok(computed.map(|computed| (batch, computed)))
    }

    /// The same over all ranks, and what they agreed on; none if one of them is asked to stop.
    fn trained(
        &mut self,
        stage: &Stage,
        state: &State<B, T>,
        loader: &mut Loader,
        reader: &Reader<B::InnerBackend>,
    ) -> Result<Option<Summed<B::InnerBackend>>, TrainError> {
        let (mut traffic, mut outbox) = (self.traffic, self.outbox.take());
        let step = state.progress.step;
        let patience = self.patience();
        let summing = Summing {
            exchange: self.exchange(stage, &patience),
            shares: &self.shares,
            precision: stage.distributed.gradients,
            keeps_own: self.sharding.is_some(),
            own: Agreed {
                looks: self.will_look(step + 1),
                in_parts: outbox.is_some(),
            },
        };
        let summed = match &mut outbox {
            Some(outbox) if self.in_parts => {
                collective::sum_in_parts(&summing, step, outbox, &mut traffic, |outbox| {
                    self.gradients(state, stage, loader, reader, Some(outbox))
                })
            }
            outbox => {
                let own = self.gradients(state, stage, loader, reader, outbox.as_mut());
                collective::sum(&summing, step, own, &mut traffic)
            }
        }?;
        (self.traffic, self.outbox) = (traffic, outbox);
        self.in_parts = matches!(&summed, Some((_, agreed)) if agreed.in_parts);
        let now = Instant::now();
        let before = self.summed.map_or(self.since, |(before, _)| before);
        self.summed = Some((now, now - before));
        Ok(summed)
    }

    /// How long other ranks are waited for. Once this one is asked to stop, those that are alive need a step, or two, to hear
    /// of it.
    pub(super) fn patience(&self) -> Patience<'_> {
        let own = self.session.patience();
        let grace = self
            .summed
            .map_or(own.grace, |(_, step)| 2 * step + Duration::from_millis(500));
        Patience { grace, ..own }
    }

    fn must_stop(&self) -> bool {
        self.session.stop.load(Ordering::Relaxed) || self.is_spent()
    }

    /// Whether nothing is left of the budget.
    pub(super) fn is_spent(&self) -> bool {
        let budget = &self.recipe.run.budget;
        budget.is_spent(self.seconds(), self.device_count())
    }

    /// Devices of all ranks, assuming that each has as many as this one.
    pub(super) fn device_count(&self) -> usize {
        self.devices.len() * self.session.ranks.world_size()
    }

    /// Time the run has taken so far.
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn loader(&self, progress: &Progress) -> Result<Loader, TrainError> {
        let stage = &self.recipe.stages[progress.stage];
        let (start, seed) = (self.start(stage, progress), self.recipe.run.seed);
        source::loader(stage, seed, &start)
    }

    /// A position means nothing in other data.
    fn start(&self, stage: &Stage, progress: &Progress) -> Position {
        let before = progress
            .stage
            .checked_sub(1)
            .map(|i| &self.recipe.stages[i]);
        let same = before.is_none_or(|before| before.reads_what(stage));
        if same || progress.stage_step > 0 {
            progress.position.clone()
        } else {
            Position::default()
        }
    }

    /// One step of the optimizer, of which every rank takes its part.
    fn step(
        &mut self,
        stage: &Stage,
        state: State<B, T>,
        batch: &Batch,
        computed: Computed<B::InnerBackend>,
        lr: f64,
    ) -> Result<State<B, T>, TrainError> {
        let State {
            mut progress,
            task,
            mut optimizer,
            mut emas,
            mut post_hoc,
        } = state;
        let draws = Draws::of_step(self.recipe.run.seed, progress.step);
        let times = task.times(0..batch.keys.len(), &draws);
        let loss = computed.loss();
        let Computed {
            losses,
            terms,
            grads,
        } = computed;
        let names = grads.names();
        let grads = match &self.sharding {
            Some(sharding) => grads.placed(|path, grad| sharding.place(path, grad)),
            None => grads,
        };
        let (task, grad_norm) = optimizer.step::<B, _>(task, grads, &loss, lr);
        let began = Instant::now();
        let task = self.united_weights(stage, task, &names, progress.step)?;
        self.traffic.took += began.elapsed();
        self.steps.push(Pending {
            step: progress.step + 1,
            keys: batch.keys.clone(),
            times,
            losses,
            terms,
            grad_norm,
        });
        progress = Progress {
            stage: progress.stage,
            stage_step: progress.stage_step + 1,
            step: progress.step + 1,
            images: progress.images + batch.keys.len() as u64,
            position: batch.next.clone(),
            optimizer_steps: optimizer.steps(),
            seconds: self.seconds(),
        };
        if !(emas.is_empty() && post_hoc.is_empty()) {
            let live = task.valid();
            let sharding = self.sharding.as_ref();
            let is_here =
                |path: &[&str]| sharding.is_none_or(|sharding| sharding.owns(&path.join(".")));
            let moved = |path: &[&str]| task.updates(path, draws.step) && is_here(path);
            for ema in emas.iter_mut().chain(&mut post_hoc) {
                let begun = ema.average().is_some();
                ema.update(&live, progress.stage_step, moved);
                // It begins as a copy of all weights.
                if let (false, Some(sharding)) = (begun, sharding) {
                    *ema = ema.clone().map(|average| sharding.kept(average));
                }
            }
        }
        Ok(State {
            progress,
            task,
            optimizer,
            emas,
            post_hoc,
        })
    }
}
