//! The training loop: one stage after the other, step by step, with the state saved as it goes.

use super::Session;
use crate::{
    checkpoint::{Checkpoint, Progress, State},
    error::TrainError,
    log::{Log, Metrics},
    nodes::{Agreed, Nodes},
    parallel::{Job, gradients},
    plan,
    probe::Probe,
    recipe::{Recipe, Stage},
    run::RunDir,
    source::{self, DataIdentity},
    step::Computed,
    step_log::{Pending, StepLog},
};
use burn::tensor::backend::AutodiffBackend;
use microdit::{
    TrainBackend,
    task::{Draws, TrainTask},
};
use microdit_data::{Batch, Loader, Position};
use std::{sync::atomic::Ordering, time::Instant};

/// A batch, and what all nodes made of it.
type Trained<B> = (Batch, Agreed<<B as AutodiffBackend>::InnerBackend>);

/// What was found when the run was opened.
pub(super) struct Opened<'a, B: TrainBackend, T: TrainTask<B>> {
    /// The checkpoint it resumes from.
    pub(super) newest: Option<Checkpoint>,
    /// What the data of the stages are, as far as that is known.
    pub(super) data: Vec<Option<DataIdentity>>,
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
    /// None on a node that does not keep the run directory.
    pub(super) log: Option<Log>,
    started: Instant,
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
    newest: Option<Checkpoint>,
    /// What the data of the stages are, as far as that is known.
    data: Vec<Option<DataIdentity>>,
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
            started: Instant::now(),
            before: progress.seconds,
            steps: StepLog::new(recipe, run),
            probes: match session.keeps() {
                true => opened.probes,
                false => Vec::new(),
            },
            looked_in_vain: false,
            since: Instant::now(),
            newest: opened.newest,
            data: opened.data,
        })
    }

    /// The newest checkpoint.
    pub(super) fn newest(&self) -> Option<&Checkpoint> {
        self.newest.as_ref()
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
        self.since = Instant::now();
        while state.progress.stage_step < stage.steps {
            let stop = self.must_stop();
            let _awake = B::keep_awake();
            if stop && self.session.nodes.is_none() {
                break;
            }
            let (batch, agreed) = match self.gradients(&state, stage, &mut loader, stop) {
                Ok(Some(computed)) => computed,
                Ok(None) => break,
                Err(error) => {
                    // Data or other nodes are lost between two steps: the state is sound.
                    if state.progress.step > 0
                        && let Err(second) = self.settle(&state).and_then(|()| self.save(&state))
                    {
                        tracing::warn!("the state cannot be saved: {second}");
                    }
                    return Err(error);
                }
            };
            let stop = agreed.stop;
            let lr = stage.optimizer.lr
                * stage
                    .schedule
                    .multiplier(state.progress.stage_step, stage.steps);
            state = self.step(state, &batch, agreed, lr);
            let Progress {
                step, stage_step, ..
            } = state.progress;
            let last = stage_step == stage.steps;
            if step.is_multiple_of(self.recipe.run.log_every) || last {
                self.settle(&state)?;
                self.write_line(stage, &state.progress, lr)?;
            }
            self.look(stage, &state)?;
            self.keep_snapshot(stage, &state)?;
            // The end of the stage is saved by the caller.
            if step.is_multiple_of(every) && !last {
                self.settle(&state)?;
                self.save(&state)?;
            }
            if stop && self.session.nodes.is_some() {
                break;
            }
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

    /// Takes the numbers of the pending steps to the host. Too many in a row that were not finite end the run; if the network
    /// itself is not finite, the error says so instead.
    fn settle(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        self.steps.settle().map_err(|error| match error {
            TrainError::NonFiniteSteps { .. } => state.check_weights().err().unwrap_or(error),
            error => error,
        })
    }

    /// Keeps a snapshot of the averages whose length is chosen afterwards, where one is due. It comes before the checkpoint of the same
    /// step, so that no run resumes from behind one that was not written.
    fn keep_snapshot(&mut self, stage: &Stage, state: &State<B, T>) -> Result<(), TrainError> {
        let Some(config) = stage.post_hoc_ema.filter(|_| self.session.keeps()) else {
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
        self.run
            .save_snapshot(number, [stage_step, step], &state.post_hoc)
    }

    /// Saves the state, unless the newest checkpoint is of this step already.
    pub(super) fn save(&mut self, state: &State<B, T>) -> Result<(), TrainError> {
        let saved = self.newest.as_ref().map(|newest| newest.progress().step);
        let Some(log) = &self.log else {
            return Ok(());
        };
        if saved == Some(state.progress.step) {
            return Ok(());
        }
        log.sync()?;
        let data = self.identity(&state.progress)?;
        let (checkpoints, config) = (self.run.checkpoints(), &self.recipe.run.checkpoints);
        let saved = state.save(&checkpoints, config, Some(&data))?;
        tracing::info!("state saved in {}", saved.path().display());
        self.newest = Some(saved);
        Ok(())
    }

    /// What identifies the data of the stage, read now if they were not there when the process began.
    fn identity(&mut self, progress: &Progress) -> Result<DataIdentity, TrainError> {
        let stage = &self.recipe.stages[progress.stage];
        let known = self.data[progress.stage];
        let identity = known.map_or_else(|| DataIdentity::of(stage), Ok)?;
        self.data[progress.stage] = Some(identity);
        Ok(identity)
    }

    /// The next batch, its loss and gradients over all nodes, and whether this step is to be the last; none if the run is
    /// asked to stop before they are known.
    fn gradients(
        &self,
        state: &State<B, T>,
        stage: &Stage,
        loader: &mut Loader,
        stop: bool,
    ) -> Result<Option<Trained<B>>, TrainError> {
        // Nodes stop at one step, which they agree on.
        let asked = match self.session.nodes {
            Some(_) => None,
            None => Some(&**self.session.stop),
        };
        let batch = match asked {
            Some(asked) => loader.next_batch_or_stop(asked)?,
            None => Some(loader.next_batch()?),
        };
        let Some(batch) = batch else {
            return Ok(None);
        };
        let step = state.progress.step;
        let size = batch.keys.len();
        let samples = match self.session.nodes {
            Some(nodes) => nodes.share(size),
            None => 0..size,
        };
        if samples.is_empty() {
            let message = format!("a batch of {size} has no sample for every node");
            return Err(TrainError::Nodes(message));
        }
        let gib = self.session.gpu.as_ref().map(|gpu| gpu.gib);
        let job = Job {
            activation_checkpointing: plan::checkpoints_activations(
                stage,
                self.device_count(),
                gib,
            ),
            stage,
            batch: &batch,
            samples,
            draws: Draws::of_step(self.recipe.run.seed, step),
            stop: asked,
        };
        let Some(computed) = gradients(&state.task, &job, self.devices) else {
            return Ok(None);
        };
        let agreed = match self.session.nodes {
            Some(nodes) => nodes.sum(computed, step, stop)?,
            None => Agreed { computed, stop },
        };
        Ok(Some((batch, agreed)))
    }

    fn must_stop(&self) -> bool {
        self.session.stop.load(Ordering::Relaxed) || self.is_spent()
    }

    /// Whether nothing is left of the budget.
    pub(super) fn is_spent(&self) -> bool {
        let budget = &self.recipe.run.budget;
        budget.is_spent(self.seconds(), self.device_count())
    }

    /// Devices of all nodes, assuming that each has as many as this one.
    pub(super) fn device_count(&self) -> usize {
        self.devices.len() * self.session.nodes.map_or(1, Nodes::count)
    }

    /// Time the run has taken so far.
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn loader(&self, progress: &Progress) -> Result<Loader, TrainError> {
        let stage = &self.recipe.stages[progress.stage];
        let (start, seed) = (self.start(stage, progress), self.recipe.run.seed);
        source::loader(stage, &stage.data.lists(), seed, stage.batch, &start)
    }

    /// A position means nothing in other data.
    fn start(&self, stage: &Stage, progress: &Progress) -> Position {
        let before = progress
            .stage
            .checked_sub(1)
            .map(|i| &self.recipe.stages[i].data);
        let same = before.is_none_or(|before| {
            (before.kind(), before.lists()) == (stage.data.kind(), stage.data.lists())
        });
        if same || progress.stage_step > 0 {
            progress.position.clone()
        } else {
            Position::default()
        }
    }

    /// One step of the optimizer.
    fn step(
        &mut self,
        state: State<B, T>,
        batch: &Batch,
        agreed: Agreed<B::InnerBackend>,
        lr: f64,
    ) -> State<B, T> {
        let State {
            mut progress,
            task,
            mut optimizer,
            mut emas,
            mut post_hoc,
        } = state;
        let draws = Draws::of_step(self.recipe.run.seed, progress.step);
        let times = task.times(0..batch.keys.len(), &draws);
        let loss = agreed.computed.loss();
        let Computed {
            losses,
            terms,
            grads,
        } = agreed.computed;
        let (task, grad_norm) = optimizer.step::<B, _>(task, grads, &loss, lr);
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
            let moved = |path: &[&str]| task.updates(path, draws.step);
            emas.iter_mut()
                .chain(&mut post_hoc)
                .for_each(|ema| ema.update(&live, progress.stage_step, moved));
        }
        State {
            progress,
            task,
            optimizer,
            emas,
            post_hoc,
        }
    }
}
