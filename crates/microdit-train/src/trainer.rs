//! The training loop: recipe in, run directory out.

use crate::{
    beginnings::{fresh, hand_over},
    checkpoint::{Checkpoint, Progress, State, save_network},
    encoders::Encoders,
    error::TrainError,
    evaluation::Evaluation,
    ledger::{Ledger, Pending, Settled},
    nodes::{Agreed, Nodes},
    objective::Objective,
    parallel::gradients,
    plan::{self, Gpu},
    recipe::{Recipe, Stage},
    run::{Evaluated, Log, Metrics, RunDir},
    sampling::Painter,
    source,
};
use burn::{module::AutodiffModule, tensor::backend::AutodiffBackend};
use microdit::{Dit, DitBackend, ema::Ema};
use microdit_data::{Batch, Loader, Position};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A run that ended in order.
#[derive(Debug)]
pub struct Outcome<B: DitBackend> {
    /// The weights to sample from: averaged where the recipe asks for it.
    pub dit: Dit<B>,
    /// Finished steps.
    pub steps: u64,
    /// How it ended.
    pub ending: Ending,
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

/// What a run is told from outside.
#[derive(Debug)]
pub struct Session<'a> {
    /// Set to end the run after the current step, with its state saved.
    pub stop: &'a AtomicBool,
    /// The kind of device it runs on, if its peak rate is known.
    pub gpu: Option<Gpu>,
    /// The machines it is split over; the first of them keeps the run directory.
    pub nodes: Option<&'a Nodes>,
}

impl Session<'_> {
    /// Whether this process keeps the run directory.
    fn keeps(&self) -> bool {
        self.nodes.is_none_or(Nodes::is_first)
    }
}

/// Trains `recipe` into `run`, from its newest checkpoint if it has one, on `devices`, of which each computes a share of
/// every batch. `report` is told of every line of the log.
///
/// # Errors
/// Unreadable data, too many steps in a row without a finite gradient, lost nodes, files that cannot be written.
///
/// # Panics
/// If there are no devices.
pub fn train<B>(
    recipe: &Recipe,
    run: &RunDir,
    devices: &[B::Device],
    session: &Session<'_>,
    report: impl FnMut(&Metrics),
) -> Result<Outcome<B::InnerBackend>, TrainError>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    assert!(!devices.is_empty(), "training needs a device");
    let device = &devices[0];
    let mut state = match Checkpoint::newest(&run.checkpoints())? {
        Some(checkpoint) => {
            let stage = recipe.stages.get(checkpoint.progress().stage);
            let stage = stage.ok_or(TrainError::StageGone(checkpoint.progress().stage))?;
            checkpoint.load::<B>(stage, recipe.run.seed, device)?
        }
        None => fresh(recipe, device)?,
    };
    if state.progress.step >= recipe.steps() && run.weights().is_file() {
        return Ok(outcome(state, Ending::AlreadyFinished));
    }
    let mut trainer = Trainer {
        recipe,
        run,
        devices,
        session,
        report,
        log: match session.keeps() {
            true => Some(run.log(state.progress.step)?),
            false => None,
        },
        started: Instant::now(),
        before: state.progress.seconds,
        ledger: Ledger::new(recipe, run),
        encoders: Encoders::default(),
        since: Instant::now(),
    };
    loop {
        state = trainer.stage(state)?;
        let next = state.progress.stage + 1;
        let unfinished = state.progress.stage_step < recipe.stages[state.progress.stage].steps;
        trainer.save(&state)?;
        if unfinished {
            let ending = match trainer.is_spent() {
                true => Ending::Spent,
                false => Ending::Stopped,
            };
            return Ok(outcome(state, ending));
        }
        match recipe.stages.get(next) {
            Some(stage) => state = hand_over(state, stage, recipe.run.seed, device)?,
            None => break,
        }
    }
    if session.keeps() {
        save_network(&run.weights(), &state.dit.valid())?;
        if let Some(average) = state.emas.first().and_then(Ema::average) {
            save_network(&run.ema(), average)?;
        }
    }
    Ok(outcome(state, Ending::Finished))
}

fn outcome<B>(state: State<B>, ending: Ending) -> Outcome<B::InnerBackend>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let average = state.emas.into_iter().next().and_then(Ema::into_average);
    Outcome {
        dit: average.unwrap_or_else(|| state.dit.valid()),
        steps: state.progress.step,
        ending,
    }
}

struct Trainer<'a, B, R>
where
    B: AutodiffBackend,
    B::InnerBackend: DitBackend,
{
    recipe: &'a Recipe,
    run: &'a RunDir,
    devices: &'a [B::Device],
    session: &'a Session<'a>,
    report: R,
    /// None on a node that does not keep the run directory.
    log: Option<Log>,
    started: Instant,
    /// Seconds the run had taken before.
    before: f64,
    ledger: Ledger<B::InnerBackend>,
    /// What pictures need, opened when there are some to draw.
    encoders: Encoders<B::InnerBackend>,
    /// When the last line of the log was written.
    since: Instant,
}

impl<B, R> Trainer<'_, B, R>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
    R: FnMut(&Metrics),
{
    /// Runs what is left of a stage, or of it until the run is asked to stop.
    fn stage(&mut self, mut state: State<B>) -> Result<State<B>, TrainError> {
        let stage = &self.recipe.stages[state.progress.stage];
        let every = self.recipe.run.checkpoints.every;
        let objective = Objective::<B>::new(stage, self.recipe.run.seed, &self.devices[0]);
        let evaluation = Evaluation::<B::InnerBackend>::new(self.recipe, stage, &self.devices[0])?;
        let mut loader = self.loader(stage, &state.progress)?;
        self.since = Instant::now();
        while state.progress.stage_step < stage.steps {
            let stop = self.must_stop();
            let _awake = B::awake();
            if stop && self.session.nodes.is_none() {
                break;
            }
            let (batch, agreed) = match self.gradients(&state, stage, &mut loader, stop) {
                Ok(computed) => computed,
                Err(error) => {
                    // Data or other nodes are lost between two steps: the state is sound.
                    if state.progress.step > 0
                        && let Err(second) = self.save(&state)
                    {
                        tracing::warn!("the state cannot be saved: {second}");
                    }
                    return Err(error);
                }
            };
            let stop = agreed.stop;
            let lr = stage.optimiser.lr * stage.schedule.multiplier(state.progress.stage_step);
            state = self.step(state, &objective, &batch, agreed, lr);
            let Progress {
                step, stage_step, ..
            } = state.progress;
            let last = stage_step == stage.steps;
            if step.is_multiple_of(self.recipe.run.log_every) || last {
                self.write_line(stage, &state.progress, lr)?;
            }
            self.look(stage, &state, evaluation.as_ref())?;
            // The end of the stage is saved by the caller.
            if step.is_multiple_of(every) && !last {
                self.ledger.settle()?;
                self.save(&state)?;
            }
            if stop && self.session.nodes.is_some() {
                break;
            }
        }
        self.ledger.settle()?;
        Ok(state)
    }

    fn save(&self, state: &State<B>) -> Result<(), TrainError> {
        if self.session.keeps() {
            let folder = state.save(&self.run.checkpoints(), &self.recipe.run.checkpoints)?;
            tracing::info!("state saved in {}", folder.display());
        }
        Ok(())
    }

    /// The next batch, its loss and gradients over all nodes, and whether this step is to be the last.
    fn gradients(
        &self,
        state: &State<B>,
        stage: &Stage,
        loader: &mut Loader,
        stop: bool,
    ) -> Result<(Batch, Agreed<B::InnerBackend>), TrainError> {
        let batch = loader.next_batch()?;
        let (seed, step) = (self.recipe.run.seed, state.progress.step);
        let size = batch.keys.len();
        let samples = match self.session.nodes {
            Some(nodes) => nodes.share(size),
            None => 0..size,
        };
        if samples.is_empty() {
            let message = format!("a batch of {size} has no sample for every node");
            return Err(TrainError::Nodes(message));
        }
        let dit = &state.dit;
        let (loss, grads) = gradients(dit, stage, &batch, samples, seed, step, self.devices);
        let agreed = match self.session.nodes {
            Some(nodes) => nodes.sum(loss, grads, step, stop)?,
            None => Agreed { loss, grads, stop },
        };
        Ok((batch, agreed))
    }

    fn must_stop(&self) -> bool {
        self.session.stop.load(Ordering::Relaxed) || self.is_spent()
    }

    fn is_spent(&self) -> bool {
        let budget = &self.recipe.run.budget;
        budget.is_spent(self.seconds(), self.device_count())
    }

    /// Devices of all nodes, which are taken to have as many as this one.
    fn device_count(&self) -> usize {
        self.devices.len() * self.session.nodes.map_or(1, Nodes::count)
    }

    /// Time the run has taken so far.
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Measures the loss on held-out samples and draws the prompts, when that is due.
    fn look(
        &mut self,
        stage: &Stage,
        state: &State<B>,
        evaluation: Option<&Evaluation<'_, B::InnerBackend>>,
    ) -> Result<(), TrainError> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let run = &self.recipe.run;
        let due = |every: Option<u64>| {
            every.is_some_and(|every| state.progress.step.is_multiple_of(every))
        };
        let step = state.progress.step;
        let average = state.emas.first().and_then(Ema::average);
        if let Some(evaluation) = evaluation
            && due(run.evaluation.as_ref().map(|config| config.every))
        {
            let line = Evaluated {
                step,
                loss: evaluation.loss(&state.dit.valid()),
                ema_loss: average.map(|average| evaluation.loss(average)),
            };
            log.evaluated(&line)?;
        }
        if due(run.sampling.every) {
            let dit = average.cloned().unwrap_or_else(|| state.dit.valid());
            let device = &self.devices[0];
            // Opened at the first grid, for runs without grids do not need them.
            let encoders = std::mem::take(&mut self.encoders);
            self.encoders = encoders.or_open(&run.encoders, device)?;
            let weights = format!("{}, step {step}", run.name);
            let painter = Painter::new(stage, dit, weights, &self.encoders, device.clone())?;
            let path = self.run.samples_at(step);
            match painter.draw_sheet(&run.sampling, run.seed, &path, &AtomicBool::new(false)) {
                // What cannot be drawn yet can be trained on.
                Err(error @ TrainError::NonFinitePictures { .. }) => {
                    tracing::warn!("no pictures after step {step}: {error}");
                }
                drawn => drop(drawn?),
            }
        }
        Ok(())
    }

    fn loader(&self, stage: &Stage, progress: &Progress) -> Result<Loader, TrainError> {
        let start = self.start(stage, progress);
        let seed = self.recipe.run.seed;
        source::loader(stage, &stage.data.lists(), seed, stage.batch, &start)
    }

    /// A position means nothing in other data.
    fn start(&self, stage: &Stage, progress: &Progress) -> Position {
        let before = progress
            .stage
            .checked_sub(1)
            .map(|i| &self.recipe.stages[i].data);
        let same = before.is_none_or(|before| {
            (before.dataset, before.lists()) == (stage.data.dataset, stage.data.lists())
        });
        if same || progress.stage_step > 0 {
            progress.position.clone()
        } else {
            Position::default()
        }
    }

    /// One step of the optimiser.
    fn step(
        &mut self,
        state: State<B>,
        objective: &Objective<'_, B>,
        batch: &Batch,
        agreed: Agreed<B::InnerBackend>,
        lr: f64,
    ) -> State<B> {
        let State {
            mut progress,
            dit,
            mut optimiser,
            mut emas,
        } = state;
        let Agreed { loss, grads, .. } = agreed;
        let (dit, grad_norm) = optimiser.step::<B, _>(dit, grads, lr);
        self.ledger.push(Pending {
            step: progress.step + 1,
            keys: batch.keys.clone(),
            sigmas: objective.sigmas(progress.step, &(0..batch.keys.len())),
            loss,
            grad_norm,
        });
        progress = Progress {
            stage: progress.stage,
            stage_step: progress.stage_step + 1,
            step: progress.step + 1,
            images: progress.images + batch.keys.len() as u64,
            position: batch.next.clone(),
            optimiser_steps: optimiser.steps(),
            seconds: self.seconds(),
        };
        if !emas.is_empty() {
            let live = dit.valid();
            emas.iter_mut()
                .for_each(|ema| ema.update(&live, progress.stage_step));
        }
        State {
            progress,
            dit,
            optimiser,
            emas,
        }
    }

    /// Writes and reports a line of the log.
    fn write_line(
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
