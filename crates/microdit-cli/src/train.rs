//! `microdit train`: a recipe into a run directory.

use crate::{
    advice::OrAdvise,
    device::{Device, Devices, kind, on_device, parse_devices},
    preparation::{Shown, cache},
    ranks::{RanksArgs, connect},
    recipe::recipe_path,
    report::{LastReport, LiveReport, REPORT},
    sample::draw,
    say,
    signal::{Stopped, stop_on_signal},
};
use burn_autodiff::Autodiff;
use indicatif::{ProgressBar, ProgressStyle};
use microdit::{DitBackend, printable};
use microdit_eval::FeatureDistance;
use microdit_train::{
    Recipe,
    collective::{Patience, share_text, together},
    encoders::Encoders,
    plan::Gpu,
    recipe::Stage,
    room::require_room,
    run::{Choice, Metrics, RunDir},
    sampling::{Drawing, Naming, Order, Pipeline, warn_of_long_prompts},
    trainer::{Ending, Session, Training},
};
use miette::WrapErr;
use serde::Serialize;
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Train a recipe and draw its prompts.
#[derive(clap::Args)]
pub(crate) struct Train {
    /// Recipe file, or the name of a bundled one (`microdit recipe list`)
    #[arg(value_parser = recipe_path())]
    recipe: PathBuf,
    /// Run directory, which must not hold a run yet [default: runs/NAME-TIME]
    #[arg(long)]
    run: Option<PathBuf>,
    /// Continue the run in --run from its newest checkpoint, or start it if there is none yet
    #[arg(long, requires = "run")]
    resume: bool,
    /// Resume although the recipe or its data would train something other than what the run was started with.
    /// Without it, a resumed run accepts changes that do not affect its weights (name, sampling, encoders, log_every,
    /// checkpoints, max_non_finite_steps, evaluation, budget, micro_batch, activation_checkpointing, distributed.shard_optimizer,
    /// distributed.bucket_mib, data.threads, data.max_damage), the same data at another path, more or fewer steps of stages that are not
    /// finished where their schedules say `total`, and further stages
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Replace a value of the recipe, such as batch=64 or stages.masked.steps=100; may be given several times
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Kind of device to train on; an NVIDIA GPU where this build and machine have one, unless given
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
    /// Which devices of that kind, such as 0-7 or 0,2, of which each takes a share of every batch [default: 0, or of several
    /// processes on a machine one for each]
    #[arg(long, value_parser = parse_devices)]
    devices: Option<Devices>,
    /// Directory that features are kept in which evaluation.feature_distance compares with [default: microdit in the user's cache]
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Do not keep report.html in the run directory
    #[arg(long)]
    no_report: bool,
    #[command(flatten, next_help_heading = "Several processes")]
    ranks: RanksArgs,
    /// Seconds a rank may keep the others waiting, up to a week; rank 0 draws and evaluates meanwhile
    #[arg(long, default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    rank_timeout: u64,
}

/// What built this program.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " of ", env!("MICRODIT_COMMIT"));

impl Train {
    pub(crate) fn run(self) -> miette::Result<()> {
        on_device!(self.device, Inner => self.run_on::<Inner>())
    }

    fn run_on<B: DitBackend>(self) -> miette::Result<()> {
        let launch = self.ranks.launch()?;
        let own = || Devices::of_process::<B>(self.device, launch.local_rank);
        let indices = self.devices.unwrap_or_else(own);
        let devices = indices.of::<B>(self.device)?;
        let recipe = Recipe::load(&self.recipe, &self.overrides).or_advise()?;
        require_room(&recipe, self.device == Device::Cpu).or_advise()?;
        warn_of_long_prompts(&recipe);
        let rank_timeout = Duration::from_secs(self.rank_timeout);
        // A signal ends the process where nobody listens for one.
        let patience = Patience {
            stop: &AtomicBool::new(false),
            timeout: rank_timeout,
            grace: rank_timeout,
        };
        let ranks = connect(
            launch,
            indices.first_gpu(self.device),
            self.run.as_deref(),
            &patience,
        )?;
        let ranks = &*ranks;
        let keeps = ranks.rank() == 0;
        let path = match self.run {
            Some(path) => path,
            // Named by the time, of which all have their own.
            None => share_text(ranks, &default_run(&recipe), 0, &patience)
                .or_advise()?
                .into(),
        };
        let entered = match keeps {
            true => RunDir::enter(&path, self.resume),
            false => Ok(RunDir::follow(&path)),
        };
        let run = together(ranks, &patience, entered).or_advise()?;
        let opened = Training::open(
            &recipe,
            &run,
            &devices,
            self.allow_changes,
            &Stage::task::<Autodiff<B>>,
        );
        let mut training = together(ranks, &patience, opened).or_advise()?;
        if keeps && !training.is_finished() {
            let distance = feature_distance::<B>(&recipe, self.cache.as_deref(), &devices[0])?;
            if let Some(distance) = distance {
                training = training.with_probe(distance);
            }
        }
        if keeps {
            say!("training {} into {}", recipe.run.name, path.display());
        }
        let reports = keeps && !self.no_report;
        if reports {
            say!("report: {}", path.join(REPORT).display());
            training = training.with_probe(LiveReport::new(&run, &recipe));
        }
        if let Some(step) = training.resumes_after().filter(|_| keeps) {
            say!("resuming after step {step}");
        }
        for change in training.changes().iter().filter(|_| keeps) {
            say!("changed: {change}");
        }
        let process = Process {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("MICRODIT_COMMIT"),
            arguments: std::env::args().skip(1).collect(),
            devices: devices.iter().map(|device| format!("{device:?}")).collect(),
            gpu: self.device.gpu(),
            processor: processor(),
            ranks: ranks.world_size(),
            started: seconds_since_1970(),
            recipe: &recipe.source,
        };
        // Until here, a signal ends the process, which loses nothing.
        let stop = stop_on_signal("saving the state of the last step")?;
        let session = Session {
            stop: &stop,
            gpu: self.device.gpu(),
            ranks,
            rank_timeout,
            version: VERSION,
        };
        let steps = training.steps();
        let mut progress = Progress::new(steps);
        let mut last_report = LastReport::new(&run, &recipe, reports);
        let outcome = training
            .run(&session, &process, |metrics| progress.show(metrics))
            .or_advise()?;
        progress.finish();
        // What is left to do takes one process.
        ranks
            .leave(&patience)
            .or_advise()
            .wrap_err("other ranks are lost at the end")?;
        let stopped = outcome.ending == Ending::Stopped;
        // Rank 0 says how the run ended: launchers kill the others once one of them has a status of its own.
        if !keeps {
            return Ok(());
        }
        if let Some(traffic) = &outcome.traffic {
            say!("{traffic}");
        }
        match outcome.ending {
            Ending::AlreadyFinished => {
                say!(
                    "{} has finished its {} steps already; nothing was changed",
                    path.display(),
                    outcome.steps
                );
                // Unless it was killed before its last picture.
                if run.samples().is_file() {
                    last_report.cancel();
                    return Ok(());
                }
            }
            Ending::Stopped | Ending::Spent => {
                let reason = match outcome.ending {
                    Ending::Spent => "the budget is spent: ",
                    _ => "",
                };
                let message = format!(
                    "{reason}stopped after {} of {} steps; resume with the same command, --run {} and --resume",
                    outcome.steps,
                    steps,
                    path.display()
                );
                if stopped {
                    return Err(Stopped(message).into());
                }
                say!("{message}");
                return Ok(());
            }
            Ending::Finished => say!(
                "weights after {} steps: {}",
                outcome.steps,
                run.weights().display()
            ),
        }
        let (settings, sheet) = (&recipe.run.sampling, run.samples());
        if settings.prompts.is_empty() {
            return Ok(());
        }
        drop(outcome);
        let order = Order {
            settings,
            seed: recipe.run.seed,
            place: 0,
            sheet: Some(&sheet),
            singles: None,
            naming: Naming::Place,
            overwrite: false,
        };
        let drawn =
            Pipeline::<B, _>::load(&path, Choice::Best, Encoders::default(), devices[0].clone())
                .or_advise()
                .and_then(|(pipeline, _)| {
                    draw(&Drawing::new(&pipeline, order).or_advise()?, &stop)
                });
        match drawn {
            Ok(drawn) if drawn.stopped => {
                let message = format!(
                    "stopped: its pictures were not drawn; microdit sample --run {} draws them",
                    path.display()
                );
                return Err(Stopped(message).into());
            }
            Ok(drawn) => say!(
                "{} pictures, one row per prompt: {}",
                drawn.drawn,
                sheet.display()
            ),
            // The run is finished all the same.
            Err(reason) => match reason.help() {
                Some(help) => say!("{reason}; {help}"),
                None => say!("{reason}"),
            },
        }
        Ok(())
    }
}

/// The comparison of drawn pictures that a recipe asks for, with what it needs.
fn feature_distance<B: DitBackend>(
    recipe: &Recipe,
    given: Option<&Path>,
    device: &B::Device,
) -> miette::Result<Option<FeatureDistance<Autodiff<B>>>> {
    let evaluation = recipe.run.evaluation.as_ref();
    if evaluation.is_none_or(|config| config.feature_distance.is_none()) {
        return Ok(None);
    }
    let cache = cache(given)?;
    let mut shown = Shown::default();
    FeatureDistance::of_recipe(recipe, &cache, device, |done| shown.preparing(done)).or_advise()
}

fn default_run(recipe: &Recipe) -> String {
    format!("runs/{}-{}", recipe.run.name, seconds_since_1970())
}

/// The processor's name as Linux has it, and how many of its threads may be used.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    let threads = std::thread::available_parallelism().ok()?;
    Some(format!("{}, {threads} threads", name.trim()))
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// An entry of `run.json`.
#[derive(Serialize)]
struct Process<'a> {
    version: &'a str,
    commit: &'a str,
    arguments: Vec<String>,
    devices: Vec<String>,
    gpu: Option<Gpu>,
    /// Name of the processor, where the system tells it.
    processor: Option<String>,
    /// Processes.
    ranks: usize,
    /// Seconds since 1970.
    started: u64,
    recipe: &'a str,
}

/// A bar on a terminal, plain lines elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    steps: u64,
}

impl Progress {
    fn new(steps: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(steps).with_style(style)
        });
        Self { bar, steps }
    }

    fn show(&mut self, metrics: &Metrics) {
        let Metrics {
            step,
            stage,
            loss,
            images_per_second,
            mfu,
            usd,
            usd_left,
            ..
        } = metrics;
        let mut message = format!("{stage}: loss {loss:.4}, {images_per_second:.1} images/s");
        if let Some(mfu) = mfu {
            message += &format!(", MFU {:.1} %", 100.0 * mfu);
        }
        if let Some(usd) = usd {
            message += &format!(", ${usd:.2} spent");
        }
        if let Some(left) = usd_left {
            message += &format!(", ${left:.2} left");
        }
        if let Some(bar) = &self.bar {
            bar.set_position(*step);
            bar.set_message(printable::line(&message).into_owned());
        } else {
            if let Some(left) = seconds_left(metrics, self.steps) {
                message += &format!(", {left:.0} s left");
            }
            say!("step {step}/{} {message}", self.steps);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// Time the steps up to `steps` take at the throughput of the last ones; none where there was none.
fn seconds_left(metrics: &Metrics, steps: u64) -> Option<f64> {
    let images_a_step = metrics.images as f64 / metrics.step as f64;
    let left = steps.saturating_sub(metrics.step) as f64;
    let seconds = left * images_a_step / metrics.images_per_second;
    seconds.is_finite().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_a_time_or_nothing() {
        let metrics = |step, images, images_per_second| Metrics {
            step,
            stage: "masked".into(),
            loss: f32::NAN,
            grad_norm: f32::NAN,
            lr: 0.0,
            images_per_second,
            images,
            terms: Default::default(),
            non_finite: 0,
            hours: 0.0,
            mfu: None,
            usd: None,
            usd_left: None,
        };
        assert_eq!(seconds_left(&metrics(2, 8, 4.0), 7), Some(5.0));
        // More steps than there are to be.
        assert_eq!(seconds_left(&metrics(9, 36, 4.0), 7), Some(0.0));
        for (step, images, rate) in [
            (2, 8, 0.0),
            (2, 8, f64::NAN),
            (0, 0, 4.0),
            (2, 8, f64::INFINITY),
        ] {
            let left = seconds_left(&metrics(step, images, rate), 7);
            assert!(left.is_none_or(|left| left == 0.0), "{left:?}");
        }
    }
}
