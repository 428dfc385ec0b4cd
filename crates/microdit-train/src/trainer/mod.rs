//! Training: recipe in, run directory out.
//!
//! A run is opened first, which reads, and changes nothing but what a killed process left: an error there, or the end of
//! the process, leaves the run as it was. Then it is trained.

mod observe;
#[cfg(test)]
mod part_tests;
#[cfg(test)]
mod rank_tests;
mod saving;
mod shared;
#[cfg(test)]
mod shared_tests;
mod steps;
#[cfg(test)]
mod tests;

use crate::{
    begin::{in_network, require_weights},
    checkpoint::{Checkpoint, Progress, State},
    collective::{Alone, Collective, Facts, Patience, Traffic, agree},
    error::TrainError,
    plan::Gpu,
    probe::{self, Probe},
    recipe::{Change, Recipe, Stage},
    resume::{accept, check_own_recipe, next_stage},
    run::{Metrics, RunDir},
    sealed::Files,
    source::{DataIdentity, Inputs},
    stage_start::{Build, fresh, hand_over},
};
use microdit::{
    Precision, TrainBackend, ema::Ema, task::TrainTask, weights::StateDict, worker_pool,
};
use microdit_data::Position;
use serde::Serialize;
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use steps::{Opened, Trainer};

/// A run that ended without an error.
#[derive(Debug)]
pub struct Outcome<T> {
    /// The task with the weights to sample from: averaged where the recipe asks for it.
    pub task: T,
    /// Finished steps.
    pub steps: u64,
    /// How it ended.
    pub ending: Ending,
    /// What this rank exchanged with others, if there are some.
    pub traffic: Option<Traffic>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At the recipe's last step.
    Finished,
    /// Before it, because it was asked to; its state is saved.
    Stopped,
    /// Before it, because its budget is spent; its state is saved.
    Spent,
    /// There was nothing left to do.
    AlreadyFinished,
}

/// What a run is given from the outside.
#[derive(Debug)]
pub struct Session<'a> {
    /// Set to end the run with the state of its last finished step saved.
    pub stop: &'a Arc<AtomicBool>,
    /// The kind of device it runs on, if its peak rate is known.
    pub gpu: Option<Gpu>,
    /// The ranks it is split over, [`Alone`] if there is one process; rank 0 keeps the run directory.
    pub ranks: &'a dyn Collective,
    /// How long a rank may keep the others waiting.
    pub rank_timeout: Duration,
    /// What the program was built from, which is to be the same on all ranks.
    pub version: &'a str,
}

/// How long other ranks may take once this one is asked to stop, unless it is known how long a step takes.
const GRACE: Duration = Duration::from_secs(5);

impl<'a> Session<'a> {
    /// A session of one process, which ends when `stop` is set.
    pub fn alone(stop: &'a Arc<AtomicBool>) -> Self {
        Self {
            stop,
            gpu: None,
            ranks: &Alone,
            rank_timeout: Duration::MAX,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether this process keeps the run directory.
    fn keeps(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// How long others are waited for.
    fn patience(&self) -> Patience<'_> {
        Patience {
            stop: self.stop,
            timeout: self.rank_timeout,
            grace: GRACE,
        }
    }
}

/// A run that is ready to be trained.
pub struct Training<'a, B: TrainBackend, T: TrainTask<B>> {
    recipe: &'a Recipe,
    run: &'a RunDir,
    devices: &'a [B::Device],
    build: &'a Build<B, T>,
    start: Start<B, T>,
    /// The checkpoint it resumes from.
    newest: Option<Checkpoint>,
    /// What identifies the data of the stages, as far as they are there.
    data: Vec<Option<DataIdentity>>,
    /// Checksums of the files of weights it begins with, where it does not resume.
    origins: Files,
    changes: Vec<Change>,
    probes: Vec<Box<dyn Probe<B, T> + 'a>>,
}

/// Trains `recipe` in the directory `path`, from where it stopped, on `devices`; `build` and `report` as in [`Training`].
///
/// # Errors
/// As [`RunDir::enter`], [`Training::open`] and [`Training::run`].
pub fn train<B: TrainBackend, T: TrainTask<B>>(
    recipe: &Recipe,
    path: impl AsRef<Path>,
    devices: &[B::Device],
    build: &Build<B, T>,
    report: impl FnMut(&Metrics) + Send,
) -> Result<Outcome<T::InnerModule>, TrainError> {
    let run = RunDir::enter(path.as_ref(), true)?;
    let training = Training::open(recipe, &run, devices, false, build)?;
    training.run(&Session::alone(&Arc::default()), &"train", report)
}

/// What the run begins with.
enum Start<B: TrainBackend, T: TrainTask<B>> {
    /// The weights to sample from, of a run that is finished after this many steps.
    Finished(Box<T::InnerModule>, u64),
    Ready(Box<State<B, T>>),
}

impl<B: TrainBackend, T: TrainTask<B>> Start<B, T> {
    /// What `run` drew with when it finished after `steps`.
    fn finished(
        recipe: &Recipe,
        run: &RunDir,
        build: &Build<B, T>,
        device: &B::Device,
        steps: u64,
    ) -> Result<Self, TrainError> {
        let stage = recipe.last_stage().without_clip();
        let untrained = build(&stage, recipe.run.seed, device)?.valid();
        let weights = StateDict::read(&run.drawable()?)?.into_reference();
        let finished = weights.load_part_into(untrained, device, in_network)?;
        Ok(Self::Finished(Box::new(finished), steps))
    }
}

impl<'a, B: TrainBackend, T: TrainTask<B>> Training<'a, B, T> {
    /// Makes `recipe` ready to be trained in `run`, from its newest checkpoint if it has one, on `devices`, of which each
    /// computes a share of every batch. A run that was begun with another recipe or other data is accepted if
    /// `allow_changes`, or if the change does not affect its weights. `build` makes what is trained:
    /// [`Stage::task`](crate::recipe::Stage::task), or one of your own.
    ///
    /// # Errors
    /// Data, encoders or checkpoints that cannot be read or do not fit, and changes that are not allowed.
    ///
    /// # Panics
    /// If there are no devices.
    pub fn open(
        recipe: &'a Recipe,
        run: &'a RunDir,
        devices: &'a [B::Device],
        allow_changes: bool,
        build: &'a Build<B, T>,
    ) -> Result<Self, TrainError> {
        assert!(!devices.is_empty(), "training needs a device");
        let inputs = Inputs::look_at(recipe)?;
        check_own_recipe(run, allow_changes)?;
        let newest = Checkpoint::newest(&run.checkpoints())?;
        let finished = run.finished();
        let mut origins = Files::new();
        let opened = |start, newest, data, origins, changes| Self {
            recipe,
            run,
            devices,
            build,
            start,
            newest,
            data,
            origins,
            changes,
            probes: probe::of_recipe(recipe),
        };
        let Some(checkpoint) = newest else {
            let start = match finished {
                Some(finished) if finished.step() >= recipe.steps() => {
                    Start::finished(recipe, run, build, &devices[0], finished.step())?
                }
                Some(finished) => {
                    return Err(TrainError::NoCheckpoint {
                        directory: run.path().to_owned(),
                        steps: finished.step(),
                    });
                }
                None => {
                    require_weights(recipe, 0)?;
                    let state = fresh(recipe, build, &devices[0])?;
                    // Now, because files may be moved or changed once they are read.
                    origins = recipe.stages[0].origins()?;
                    Start::Ready(Box::new(state))
                }
            };
            let data = match start {
                Start::Ready(_) => inputs.require(0, recipe)?,
                Start::Finished(..) => Vec::new(),
            };
            return Ok(opened(start, None, data, origins, Vec::new()));
        };
        let progress = checkpoint.progress();
        let stage = recipe.stages.get(progress.stage);
        let stage = stage.ok_or(TrainError::StageGone(progress.stage))?;
        let accepted = accept(recipe, run, &checkpoint, &inputs, allow_changes)?;
        if progress.stage_step > stage.steps {
            tracing::warn!(
                "stage {} has {} finished steps, more than the {} the recipe asks for: it counts as finished",
                stage.name,
                progress.stage_step,
                stage.steps
            );
        }
        let has_result = finished.is_some_and(|finished| finished.step() == progress.step);
        if has_result && is_complete(recipe, progress) {
            let start = Start::finished(recipe, run, build, &devices[0], progress.step)?;
            return Ok(opened(start, None, Vec::new(), origins, Vec::new()));
        }
        let mut state = checkpoint.load(
            stage,
            build(stage, recipe.run.seed, &devices[0])?,
            &devices[0],
        )?;
        require_weights(recipe, progress.stage + 1)?;
        if !accepted.same_data {
            tracing::warn!("the data differ from those before: they start from their beginning");
            state.progress.position = Position::default();
        }
        let origins = stage.origins_read_again()?;
        let data = inputs.require(next_stage(recipe, progress), recipe)?;
        let start = Start::Ready(Box::new(state));
        let changes = accepted.changes;
        Ok(opened(start, Some(checkpoint), data, origins, changes))
    }

    /// Has `probe` look at the network too, besides those the recipe asks for.
    #[must_use]
    pub fn with_probe(mut self, probe: impl Probe<B, T> + 'a) -> Self {
        self.probes.push(Box::new(probe));
        self
    }

    /// Whether the run is finished already: there is nothing left to do.
    pub fn is_finished(&self) -> bool {
        matches!(self.start, Start::Finished(..))
    }

    /// What the recipe changes for a run that was begun with another one.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Finished steps of a run that is resumed.
    pub fn resumes_after(&self) -> Option<u64> {
        let newest = self.newest.as_ref();
        newest.map(|checkpoint| checkpoint.progress().step)
    }

    /// What all ranks of a session have to agree on.
    fn facts(&self, session: &Session<'_>) -> Facts {
        let start = match (&self.start, &self.newest) {
            (Start::Finished(_, steps), _) => format!("finished after step {steps}"),
            (Start::Ready(_), Some(newest)) => newest.identity(),
            (Start::Ready(_), None) => "none".to_owned(),
        };
        let own = [
            ("version", session.version.to_owned()),
            ("world size", session.ranks.world_size().to_string()),
            ("checkpoint", start),
        ];
        let own = own.map(|(name, fact)| (name.to_owned(), fact));
        let stages = self.recipe.stages.iter().zip(&self.data);
        let data = stages.map(|(stage, data)| {
            let identity = data.map_or_else(|| "not there".to_owned(), |data| data.to_string());
            (format!("data of stage {}", stage.name), identity)
        });
        let mut facts = self.recipe.decisive(false);
        // Not for the weights, but for what the ranks say to each other.
        facts.extend(self.recipe.stages.iter().map(|stage| {
            let key = format!("stages.{}.distributed", stage.name);
            (key, format!("{:?}", stage.distributed))
        }));
        facts.extend(own.into_iter().chain(data));
        facts
    }

    /// Steps the run will have when it is finished: those it has, and those its stages still ask for.
    pub fn steps(&self) -> u64 {
        let state = match &self.start {
            Start::Finished(_, steps) => return *steps,
            Start::Ready(state) => state,
        };
        let Progress {
            stage,
            stage_step,
            step,
            ..
        } = state.progress;
        let stages = self.recipe.stages[stage..].iter();
        let asked: u64 = stages.map(|stage| stage.steps).fold(0, u64::saturating_add);
        let done = stage_step.min(self.recipe.stages[stage].steps);
        step.saturating_add(asked - done)
    }

    /// Trains it. `process` is added to `run.json`, and `report` gets every line of the log.
    ///
    /// # Errors
    /// Unreadable data, weights that are no longer finite, too many steps in a row without a finite gradient, files that
    /// cannot be written, ranks that differ, fail or are lost.
    pub fn run(
        self,
        session: &Session<'_>,
        process: &(impl Serialize + Sync),
        report: impl FnMut(&Metrics) + Send,
    ) -> Result<Outcome<T::InnerModule>, TrainError> {
        worker_pool::enter(|| self.run_in_pool(session, process, report))
    }

    fn run_in_pool(
        self,
        session: &Session<'_>,
        process: &impl Serialize,
        report: impl FnMut(&Metrics),
    ) -> Result<Outcome<T::InnerModule>, TrainError> {
        let (recipe, run) = (self.recipe, self.run);
        if session.ranks.world_size() > 1 {
            agree(session.ranks, &self.facts(session), &session.patience())?;
        }
        let mut state = match self.start {
            Start::Ready(state) => *state,
            Start::Finished(task, steps) => {
                return Ok(Outcome {
                    task: *task,
                    steps,
                    ending: Ending::AlreadyFinished,
                    traffic: None,
                });
            }
        };
        if session.keeps() {
            if !is_complete(recipe, &state.progress) {
                run.set_aside()?;
            }
            run.begin(recipe)?;
            run.describe(process)?;
            if let Some(newest) = &self.newest {
                newest.prune(&run.checkpoints(), &recipe.run.checkpoints)?;
            }
        }
        let resumed = self.newest.is_some();
        let opened = Opened {
            newest: self.newest,
            data: self.data,
            origins: self.origins,
            probes: self.probes,
        };
        let mut trainer = Trainer::new(
            recipe,
            run,
            self.devices,
            session,
            report,
            &state.progress,
            opened,
        )?;
        if resumed {
            trainer.catch_up(&state)?;
        }
        let narrow = |stage: &Stage| stage.model.precision() == Precision::Bf16;
        if let Some(advice) = B::bf16_advice().filter(|_| recipe.stages.iter().any(narrow)) {
            tracing::warn!("{advice}");
        }
        loop {
            let stepped = trainer.stage(state);
            let saved = stepped.and_then(|state| trainer.save(&state).map(|()| state));
            state = saved.inspect_err(|error| trainer.tell(error))?;
            let unfinished = state.progress.stage_step < recipe.stages[state.progress.stage].steps;
            state = trainer.unite(state)?;
            // What was not measured of the last step is measured when the run is resumed there.
            let ends = is_complete(recipe, &state.progress);
            if unfinished || (ends && trainer.looked_in_vain) {
                let ending = match trainer.is_spent() {
                    true => Ending::Spent,
                    false => Ending::Stopped,
                };
                return Ok(outcome(state, ending, trainer.traffic()));
            }
            match recipe.stages.get(state.progress.stage + 1) {
                Some(stage) => {
                    let task = (self.build)(stage, recipe.run.seed, &self.devices[0])?;
                    state = hand_over(state, stage, task, &self.devices[0])?;
                    trainer.origins = stage.origins()?;
                }
                None => break,
            }
        }
        if let Some(checkpoint) = trainer.newest().filter(|_| session.keeps()) {
            run.finish(recipe, &state, checkpoint)?;
        }
        Ok(outcome(state, Ending::Finished, trainer.traffic()))
    }
}

/// Whether the recipe asks for no more steps.
fn is_complete(recipe: &Recipe, progress: &Progress) -> bool {
    next_stage(recipe, progress) >= recipe.stages.len()
}

fn outcome<B: TrainBackend, T: TrainTask<B>>(
    state: State<B, T>,
    ending: Ending,
    traffic: Option<Traffic>,
) -> Outcome<T::InnerModule> {
    let average = state.emas.into_iter().next().and_then(Ema::into_average);
    Outcome {
        task: average.unwrap_or_else(|| state.task.valid()),
        steps: state.progress.step,
        ending,
        traffic,
    }
}
