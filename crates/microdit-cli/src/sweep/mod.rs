//! `microdit sweep`: a definition into a table with verdicts.

mod bill;
mod progress;

use crate::{
    advice::OrAdvise,
    device::{Device, Devices, kind, on_device, parse_devices},
    eval::Eval,
    number::whole,
    plan::MachineArgs,
    recipe::recipe_path,
    say,
    signal::{Stopped, stop_on_signal},
};
use clap::ValueEnum;
use microdit_eval::{
    statistics::Direction,
    sweep::{
        Event, Folder, Launcher, Metric, Point, Row, Runner, Status, Summary, Sweep, SweepError,
    },
};
use miette::{WrapErr, miette};
use progress::Progress;
use std::path::PathBuf;

/// Train, measure and compare what a definition varies over a recipe.
#[derive(clap::Args)]
pub(crate) struct SweepCommand {
    /// Definition of the sweep: a file, or the name of a bundled one (`microdit recipe list`)
    #[arg(value_parser = recipe_path())]
    definition: PathBuf,
    /// Folder of its runs and results, where it continues if it was begun there [default: runs/sweeps/NAME]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace a value of the base recipe, below what the definition varies; may be given several times
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Points trained at a time, which share the processor
    #[arg(long, default_value_t = 1, value_parser = whole(1..=1024), conflicts_with = "devices")]
    jobs: usize,
    /// Kind of device to train on; an NVIDIA GPU where this build and machine have one, unless given
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
    /// Devices of that kind, such as 0-7 or 0,2, each of which trains a point at a time
    #[arg(long, value_parser = parse_devices)]
    devices: Option<Devices>,
    /// Run again the points that failed
    #[arg(long, value_enum)]
    rerun: Option<Rerun>,
    /// Stop at the first point that fails
    #[arg(long)]
    fail_fast: bool,
    /// Compare by these metrics in place of those of the definition, such as held_out/loss or fid:lower
    #[arg(long, value_delimiter = ',', value_name = "NAME[:lower|:higher]")]
    metrics: Vec<String>,
    /// Print the points with their steps and what they cost on the machine below, and run nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten, next_help_heading = "The machine of --dry-run")]
    machine: MachineArgs,
    /// Arguments of `microdit eval --run DIRECTORY`, which measures every point that is trained, after those of the definition
    #[arg(last = true, value_name = "EVAL")]
    eval: Vec<String>,
}

/// What is run again.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rerun {
    /// Points that failed.
    Failed,
}

impl SweepCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        let mut sweep = Sweep::load(&self.definition, &self.sets).or_advise()?;
        if !self.metrics.is_empty() {
            let known = &sweep.definition().metrics;
            let metrics = self.metrics.iter().map(|text| parse_metric(text, known));
            let metrics = metrics.collect::<miette::Result<_>>()?;
            sweep = sweep.with_metrics(metrics).or_advise()?;
        }
        let out = self.out.clone().unwrap_or_else(|| {
            let name = self.definition.file_stem().unwrap_or_default();
            PathBuf::from("runs/sweeps").join(name)
        });
        if self.dry_run {
            let calibration = Folder::calibration_in(&out).or_advise()?;
            return bill::print(&sweep, &calibration, self.machine.machine());
        }
        sweep.require_data().or_advise()?;
        // What is wrong with a budget is said before anything is written; what is not timed yet is timed below.
        let calibration = Folder::calibration_in(&out).or_advise()?;
        match sweep.points(&calibration) {
            Ok(_) | Err(SweepError::Calibration { .. }) => {}
            Err(error) => return Err(error).or_advise(),
        }
        let launcher = self.launcher()?;
        let compared = sweep.definition().metrics.iter();
        let compared = compared.map(|metric| metric.name.as_str());
        // Those with a probe's name are in the log.
        let compared: Vec<&str> = compared.filter(|name| !name.contains('/')).collect();
        let eval = self.evaluation(&sweep, &launcher, &compared)?;
        let check_files = || match &eval {
            Some(eval) => {
                let settings = 0..sweep.settings().len();
                eval.check_files(settings.map(|i| sweep.recipe_of(i)), &compared)
            }
            None => Ok(()),
        };
        // A sweep that is finished is shown again without what measured it.
        let has_results = Folder::has_results(&out);
        if !has_results {
            check_files()?;
        }
        let folder = Folder::enter(&out).or_advise()?;
        let stop = stop_on_signal("the runs save their state")?;
        let runner = Runner {
            sweep: &sweep,
            folder: &folder,
            launcher: &launcher,
            stop: &stop,
            eval: &self.eval,
            rerun_failed: self.rerun == Some(Rerun::Failed),
            fail_fast: self.fail_fast,
        };
        let stopped = || {
            let text = format!("stopped: the same command continues in {}", out.display());
            miette::Report::new(Stopped(text))
        };
        let calibrating = |event: Event<'_>| {
            if let Event::Calibrating(label) = event {
                say!("timing the steps of {label}");
            }
        };
        let mut opened = runner.open(&calibrating).or_advise()?.ok_or_else(stopped)?;
        let failed = opened.count(Status::Failed);
        say!(
            "{}: {} points, {} finished, {failed} failed, {} to run, {} at a time with {} threads each",
            out.display(),
            opened.points.len(),
            opened.count(Status::Finished),
            opened.waiting.len(),
            launcher.devices.len(),
            launcher.threads
        );
        say_steps(&sweep, &opened.points);
        if has_results && !opened.waiting.is_empty() {
            check_files()?;
        }
        let waiting = opened.waiting.iter().map(|&i| &opened.points[i]);
        let progress = Progress::new(&sweep, waiting);
        let complete = runner
            .run(&mut opened, &|event| progress.show(&event))
            .or_advise();
        progress.finish();
        let complete = complete?;
        let summary = Summary::new(&sweep, &opened.points, &opened.rows).or_advise()?;
        say!("\n{summary}");
        say!("{}", folder.table().display());
        let failures = opened
            .rows
            .iter()
            .filter(|row| row.status == Status::Failed);
        let failures: Vec<&Row> = failures.collect();
        let failed_fast = self.fail_fast && !failures.is_empty();
        if !complete && !failed_fast {
            return Err(stopped());
        }
        match failures.first() {
            None => Ok(()),
            Some(first) => Err(failure(first, failures.len(), opened.points.len(), &folder)),
        }
    }

    /// How every point is to be measured, with the arguments that it is given; nothing if the log has all that is `compared`.
    fn evaluation(
        &self,
        sweep: &Sweep,
        launcher: &Launcher,
        compared: &[&str],
    ) -> miette::Result<Option<Eval>> {
        let words = [&sweep.definition().eval[..], &self.eval].concat();
        if words.is_empty() {
            return match compared.first() {
                None => Ok(None),
                Some(name) => Err(miette!(
                    help =
                        format!("say how after --, as microdit eval takes it: -- --metrics {name}"),
                    "{name} is measured by microdit eval, and nothing says how"
                )),
            };
        }
        let own = ["--run", "RUN", "--out", "OUT"].map(str::to_owned);
        let device = launcher.devices.first().cloned().unwrap_or_default();
        let eval = Eval::of_words(&own, &[words, device].concat())?;
        eval.check_names(compared)?;
        Ok(Some(eval))
    }

    /// How the points are trained.
    fn launcher(&self) -> miette::Result<Launcher> {
        let devices = match &self.devices {
            None => vec![self.device.arguments(); self.jobs],
            Some(devices) => {
                for device in devices.singles() {
                    on_device!(self.device, Inner => device.of::<Inner>(self.device).map(|_| ()))?;
                }
                let arguments = devices
                    .singles()
                    .map(|device| device.arguments(self.device));
                arguments.collect()
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let program = std::env::current_exe().or_advise();
        Ok(Launcher {
            program: program.wrap_err("this program cannot be found")?,
            threads: (cores / devices.len()).max(1),
            devices,
        })
    }
}

/// A metric of the command line: one of the definition's, or `NAME:lower`, `NAME:higher`.
fn parse_metric(text: &str, known: &[Metric]) -> miette::Result<Metric> {
    let metric = |name: &str, better| Metric {
        name: name.to_owned(),
        better,
    };
    match text.rsplit_once(':') {
        Some((name, "lower")) => return Ok(metric(name, Direction::Lower)),
        Some((name, "higher")) => return Ok(metric(name, Direction::Higher)),
        _ => {}
    }
    let found = known.iter().find(|metric| metric.name == text).cloned();
    found.ok_or_else(|| {
        miette!("--metrics {text}: the definition does not say which values are better; write {text}:lower or {text}:higher")
    })
}

/// Why the first of several points failed.
fn failure(first: &Row, failed: usize, points: usize, folder: &Folder) -> miette::Report {
    let values: Vec<&str> = first.values.values().map(String::as_str).collect();
    miette!(
        help = "once that is mended, run the same command with --rerun failed",
        "{failed} of {points} points failed. The first is {}, seed {}: {} (its log: {})",
        values.join(", "),
        first.seed,
        first.reason.as_deref().unwrap_or("no reason was recorded"),
        folder.log(&first.point).display()
    )
}

/// Tells the steps that a budget gives each setting.
fn say_steps(sweep: &Sweep, points: &[Point]) {
    for (index, setting) in sweep.settings().iter().enumerate() {
        let Some(point) = points.iter().find(|point| point.setting == index) else {
            continue;
        };
        let own = &sweep.recipe_of(index).stages;
        let changed = point.recipe.stages.iter().zip(own);
        let changed: Vec<String> = changed
            .filter(|(stage, own)| stage.steps != own.steps)
            .map(|(stage, own)| {
                format!(
                    "{} {} steps instead of {}",
                    stage.name, stage.steps, own.steps
                )
            })
            .collect();
        if !changed.is_empty() {
            say!(
                "{}, for equal {}: {}",
                setting.label(),
                sweep.definition().budget.unit(),
                changed.join(", ")
            );
        }
    }
}
