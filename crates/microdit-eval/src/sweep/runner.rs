//! Trains and measures the points of a sweep, several at a time, and records how each ended.

use super::{
    child::{self, Ended, Launcher, last_line},
    conditions, data,
    error::SweepError,
    folder::Folder,
    outcome::{EVALUATION, Outcome},
    points::{Point, Sweep},
    row::{Row, Status},
    slots::each,
    summary::Summary,
};
use crate::statistics::Direction;
use microdit::atomic_file;
use microdit_train::run::RunDir;
use serde::Deserialize;
use std::{
    fs,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a run that an earlier, killed sweep left behind is looked at.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a sweep is to be run.
#[derive(Debug)]
pub struct Runner<'a> {
    /// What is run.
    pub sweep: &'a Sweep,
    /// Where.
    pub folder: &'a Folder,
    /// How its processes are started.
    pub launcher: &'a Launcher,
    /// Set to stop them, with their state saved.
    pub stop: &'a AtomicBool,
    /// Arguments of `microdit eval` after those of the definition, such as the place of a reference.
    pub eval: &'a [String],
    /// Whether points that failed are run again.
    pub rerun_failed: bool,
    /// Whether the first point that fails stops the others.
    pub fail_fast: bool,
}

/// What happens while a sweep runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The steps of a setting are timed.
    Calibrating(&'a str),
    /// A run begins or is resumed.
    Started(&'a Point),
    /// A run has finished this many steps.
    Reached(&'a Point, u64),
    /// A run is finished and measured.
    Finished(&'a Point, &'a [Row]),
    /// A run failed.
    Failed(&'a Point, &'a str),
}

/// The points of a sweep, and what was recorded of them.
#[derive(Debug)]
pub struct Opened {
    /// All points.
    pub points: Vec<Point>,
    /// Rows of those that were recorded.
    pub rows: Vec<Row>,
    /// Indices of those that are still to be run, in the order they are run in: seed after seed.
    pub waiting: Vec<usize>,
}

impl Opened {
    /// How many points ended like this.
    pub fn count(&self, status: Status) -> usize {
        let rows = |point: &&Point| {
            self.rows
                .iter()
                .any(|row| row.point == point.id && row.status == status)
        };
        self.points.iter().filter(rows).count()
    }
}

impl Runner<'_> {
    /// Calibrates what a budget of time needs, and compares the points with what the folder holds; none if it was asked to stop.
    ///
    /// # Errors
    /// Finished points that the definition no longer has, or that were trained on other data; steps that cannot be timed, or whose
    /// times are gone; files that cannot be read.
    pub fn open(&self, report: &(impl Fn(Event<'_>) + Sync)) -> Result<Option<Opened>, SweepError> {
        let mut rows = self.folder.rows()?;
        let Some(calibration) = self.calibrate(&rows, report)? else {
            return Ok(None);
        };
        let mut points = self.sweep.points(&calibration)?;
        data::look_at(&mut points);
        self.folder.require_same_data(self.sweep, &points, &rows)?;
        self.folder.record(self.sweep, &points, &rows)?;
        // Points that failed and are gone, or are run again, leave nothing.
        rows.retain(|row| points.iter().any(|point| point.id == row.point));
        let waiting = |point: &Point| {
            let mut own = rows.iter().filter(|row| row.point == point.id).peekable();
            let Some(first) = own.peek() else {
                return true;
            };
            match first.status {
                Status::Failed => self.rerun_failed,
                Status::Finished => {
                    let names: Vec<&str> = own.filter_map(|row| row.metric.as_deref()).collect();
                    self.wanted().any(|wanted| !names.contains(&wanted))
                }
            }
        };
        let all = points.iter().enumerate();
        let mut waiting: Vec<usize> = all
            .filter(|(_, point)| waiting(point))
            .map(|(i, _)| i)
            .collect();
        let seeds = &self.sweep.definition().seeds;
        waiting.sort_by_key(|&i| seeds.iter().position(|seed| *seed == points[i].seed));
        // A change of names or of metrics changes the rows.
        for row in &mut rows {
            if let Some(point) = points.iter().find(|point| point.id == row.point) {
                row.values = self.values(point);
            }
            row.better = self.better(row.metric.as_deref());
            row.budget = Some(self.sweep.definition().budget.unit().to_owned());
        }
        let opened = Opened {
            points,
            rows,
            waiting,
        };
        self.write(&opened.points, &opened.rows)?;
        Ok(Some(opened))
    }

    /// Runs the points that wait, and returns whether all of them were run: not if it was asked to stop, or one failed and
    /// that was to stop the others.
    ///
    /// # Errors
    /// Files that cannot be written, processes that cannot be started. What fails in a process is recorded.
    pub fn run(
        &self,
        opened: &mut Opened,
        report: &(impl Fn(Event<'_>) + Sync),
    ) -> Result<bool, SweepError> {
        let Opened {
            points,
            rows,
            waiting,
        } = opened;
        let recorded = Mutex::new(rows);
        let halt = AtomicBool::new(false);
        let stop = || self.stop.load(Ordering::Relaxed) || halt.load(Ordering::Relaxed);
        let work = |slot: usize, point: &usize| {
            let point = &points[*point];
            let outcome = self.point(point, slot, &stop, report)?;
            let Some(outcome) = outcome else {
                return Ok(());
            };
            if outcome.is_err() && self.fail_fast {
                halt.store(true, Ordering::Relaxed);
            }
            let own = self.rows(point, &outcome);
            {
                let mut rows = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                rows.retain(|row| row.point != point.id);
                rows.extend(own.iter().cloned());
                self.write(points, &rows)?;
            }
            match &outcome {
                Ok(_) => report(Event::Finished(point, &own)),
                Err(reason) => report(Event::Failed(point, reason)),
            }
            Ok(())
        };
        let slots = self.launcher.devices.len();
        each(waiting, slots, &halt, &stop, &work)?;
        Ok(!stop())
    }

    /// Trains and measures one point; none if it was stopped, an error with its reason if it failed.
    fn point(
        &self,
        point: &Point,
        slot: usize,
        stop: &impl Fn() -> bool,
        report: &(impl Fn(Event<'_>) + Sync),
    ) -> Result<Option<Result<Outcome, String>>, SweepError> {
        let folder = self.folder.run(&point.id);
        let run = RunDir::follow(&folder);
        // A sweep that was killed leaves runs that are saving their state.
        while run.is_busy()? {
            if stop() {
                return Ok(None);
            }
            thread::sleep(PATIENCE);
        }
        report(Event::Started(point));
        let recipe = self.folder.write_recipe(&point.id, &point.recipe.source)?;
        let log = self.folder.log(&point.id);
        let metrics = folder.join("metrics.jsonl");
        let mut reached = 0;
        let mut looks = 0u32;
        let look = || {
            looks += 1;
            if looks.is_multiple_of(25)
                && let Some(step) = last_step(&metrics).filter(|step| *step != reached)
            {
                reached = step;
                report(Event::Reached(point, step));
            }
        };
        let train = self.train(&recipe, &folder, slot);
        match child::run(train, &log, stop, look)? {
            Ended::Stopped => return Ok(None),
            Ended::Badly(reason) => return Ok(Some(Err(reason))),
            Ended::Well => {}
        }
        let steps = point.recipe.steps();
        if run.finished_after().is_none_or(|finished| finished < steps) {
            if stop() {
                return Ok(None);
            }
            let last = last_line(&log).unwrap_or_default();
            return Ok(Some(Err(format!("it ended before its last step: {last}"))));
        }
        let arguments = [&self.sweep.definition().eval, self.eval].concat();
        if !arguments.is_empty() {
            let mut eval = self.launcher.command("eval");
            let out = folder.join(EVALUATION);
            let old = out.join("eval.json");
            if old.exists() {
                fs::remove_file(&old).map_err(SweepError::io(&old))?;
            }
            eval.arg("--run").arg(&folder).arg("--out").arg(&out);
            eval.args(arguments);
            eval.args(&self.launcher.devices[slot]);
            match child::run(eval, &log, stop, || ())? {
                Ended::Stopped => return Ok(None),
                Ended::Badly(reason) => return Ok(Some(Err(format!("eval: {reason}")))),
                Ended::Well if stop() => return Ok(None),
                Ended::Well => {}
            }
        }
        Ok(Some({
            let conditions = |name: &str| conditions::of_logged(&point.recipe, name);
            Outcome::read(&run, steps, self.wanted(), conditions)
        }))
    }

    pub(super) fn train(&self, recipe: &Path, run: &Path, slot: usize) -> std::process::Command {
        let mut train = self.launcher.command("train");
        train.arg(recipe).arg("--run").arg(run).arg("--resume");
        train.args(&self.launcher.devices[slot]);
        train
    }

    /// The rows of a point that has ended.
    fn rows(&self, point: &Point, outcome: &Result<Outcome, String>) -> Vec<Row> {
        let row = Row {
            point: point.id.clone(),
            values: self.values(point),
            seed: point.seed,
            metric: None,
            value: None,
            standard_error: None,
            conditions: None,
            better: None,
            budget: Some(self.sweep.definition().budget.unit().to_owned()),
            // What could not be looked at when the sweep was opened may be there now.
            data: point
                .data
                .clone()
                .or_else(|| point.recipe.trained_on().ok()),
            steps: point.recipe.steps(),
            flops: point.flops(),
            hours: None,
            dollars: None,
            commit: None,
            status: Status::Failed,
            reason: None,
        };
        let found = match outcome {
            Ok(found) => found,
            Err(reason) => {
                let reason = Some(reason.clone());
                return vec![Row { reason, ..row }];
            }
        };
        let metrics = found.metrics.iter();
        let rows = metrics.map(|(name, measurement)| Row {
            metric: Some(name.clone()),
            value: measurement.value,
            standard_error: measurement.standard_error,
            conditions: measurement.conditions.clone(),
            better: self.better(Some(name)),
            hours: found.hours,
            dollars: found.dollars,
            commit: found.commit.clone(),
            status: Status::Finished,
            ..row.clone()
        });
        rows.collect()
    }

    fn values(&self, point: &Point) -> std::collections::BTreeMap<String, String> {
        let values = &self.sweep.settings()[point.setting].values;
        values.iter().cloned().collect()
    }

    /// Which way a number improves, if it is one that points are compared by.
    fn better(&self, name: Option<&str>) -> Option<Direction> {
        let mut metrics = self.sweep.definition().metrics.iter();
        let metric = metrics.find(|metric| Some(metric.name.as_str()) == name)?;
        Some(metric.better)
    }

    fn wanted(&self) -> impl Iterator<Item = &str> {
        let metrics = self.sweep.definition().metrics.iter();
        metrics.map(|metric| metric.name.as_str())
    }

    fn write(&self, points: &[Point], rows: &[Row]) -> Result<(), SweepError> {
        self.folder.write_rows(rows, points)?;
        let text = Summary::new(self.sweep, points, rows)?.to_string();
        let path = self.folder.table();
        atomic_file::write(&path, |path| fs::write(path, text)).map_err(SweepError::io(&path))
    }
}

/// The step of the last line of a run's log.
fn last_step(metrics: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let line: Line = serde_json::from_str(&last_line(metrics)?).ok()?;
    Some(line.step)
}
