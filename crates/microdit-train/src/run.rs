//! A run directory: the recipe as resolved, the log, checkpoints, the final weights and the pictures.

use crate::{
    checkpoint::Checkpoint,
    error::TrainError,
    events::{EVENTS, EventFile},
    recipe::Recipe,
};
use microdit::write_whole;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

/// Paths inside a run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held while the run is trained; the system lets go of it however the process ends.
    _lock: Option<File>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Finished optimiser steps.
    pub step: u64,
    /// Stage the step belongs to.
    pub stage: String,
    /// Mean loss since the line before, over the steps where it was finite.
    pub loss: f32,
    /// Global gradient norm of the last step, before clipping.
    pub grad_norm: f32,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Throughput since the line before.
    pub images_per_second: f64,
    /// Images seen.
    pub images: u64,
    /// Steps since the line before that were left out because loss or gradient were not finite.
    pub broken: u64,
    /// Time the run has taken so far.
    pub hours: f64,
    /// Model FLOPs over the devices' peak rate since the line before; none where the rate is not known.
    pub mfu: Option<f64>,
    /// Price of that time, if the recipe names one.
    pub usd: Option<f64>,
    /// What the budget leaves of it.
    pub usd_left: Option<f64>,
}

/// One line of `evaluation.jsonl`: the loss on held-out samples, always with the same noise and without mask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// Finished optimiser steps.
    pub step: u64,
    /// Of the weights as trained.
    pub loss: f32,
    /// Of the first average, where there is one.
    pub ema_loss: Option<f32>,
}

/// What a run writes down while it trains.
pub(crate) struct Log {
    metrics: JsonLines,
    evaluation: JsonLines,
    events: EventFile,
}

impl Log {
    pub(crate) fn metrics(&mut self, line: &Metrics) -> Result<(), TrainError> {
        self.metrics.push(line)?;
        let mut scalars = vec![
            ("train/loss", f64::from(line.loss)),
            ("train/grad_norm", f64::from(line.grad_norm)),
            ("train/lr", line.lr),
            ("speed/images_per_second", line.images_per_second),
        ];
        scalars.extend(line.mfu.map(|mfu| ("speed/mfu", mfu)));
        scalars.extend(line.usd.map(|usd| ("cost/usd", usd)));
        self.events.scalars(line.step, &scalars)
    }

    pub(crate) fn evaluated(&mut self, line: &Evaluated) -> Result<(), TrainError> {
        self.evaluation.push(line)?;
        let mut scalars = vec![("evaluation/loss", f64::from(line.loss))];
        let average = line.ema_loss.map(f64::from);
        scalars.extend(average.map(|loss| ("evaluation/ema_loss", loss)));
        self.events.scalars(line.step, &scalars)
    }
}

impl RunDir {
    /// Creates the directory of a run, or with `resume` enters one that is there, and stores the recipe. No other
    /// process can enter it until this value is dropped.
    ///
    /// # Errors
    /// If the directory already holds a run and `resume` is not asked for, another process is in it, or it cannot be
    /// written.
    pub fn enter(path: &Path, recipe: &Recipe, resume: bool) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        if !resume && is_taken(path)? {
            return Err(TrainError::RunExists(path.to_owned()));
        }
        let run = Self {
            path: path.to_owned(),
            _lock: Some(lock(path)?),
        };
        let checkpoints = run.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints))?;
        let file = run.recipe();
        write_whole(&file, |file| fs::write(file, &recipe.source))
            .map_err(TrainError::io(&file))?;
        Ok(run)
    }

    /// Reads along in the directory of a run that another node keeps: nothing is written.
    pub fn follow(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
        }
    }

    /// Opens the directory of a run to draw from it, and reads its recipe.
    ///
    /// # Errors
    /// If the directory holds no run, or its recipe cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Recipe), TrainError> {
        let run = Self {
            path: path.to_owned(),
            _lock: None,
        };
        if !run.recipe().is_file() {
            return Err(TrainError::NoRun {
                directory: path.to_owned(),
                missing: "recipe.ron".into(),
            });
        }
        let recipe = Recipe::load(&run.recipe(), &[])?;
        Ok((run, recipe))
    }

    /// Adds to `run.json` what a process that trains the run is: version, commit, devices, arguments, and the recipe as
    /// resolved.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn describe(&self, process: &impl Serialize) -> Result<(), TrainError> {
        let path = self.path.join("run.json");
        // One entry for each process; a file that cannot be read begins anew.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut processes: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
        processes.push(serde_json::to_value(process).expect("a process is plain data"));
        let text = serde_json::to_string_pretty(&processes).expect("processes are plain data");
        write_whole(&path, |path| fs::write(path, text)).map_err(TrainError::io(&path))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recipe as resolved.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.ron")
    }

    /// The directory of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Weights as trained, under the reference's names.
    pub fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    /// Averaged weights under the reference's names.
    pub fn ema(&self) -> PathBuf {
        self.path.join("ema.safetensors")
    }

    /// The grid drawn at the end.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.png")
    }

    /// The grid drawn after `step`.
    pub fn samples_at(&self, step: u64) -> PathBuf {
        self.path.join(format!("samples-{step:08}.png"))
    }

    /// Batches that were left out because loss or gradient were not finite.
    pub fn broken(&self) -> PathBuf {
        self.path.join("broken.jsonl")
    }

    /// The weights to sample from: the final ones, averaged if there is an average, or the newest checkpoint's.
    ///
    /// # Errors
    /// If there are none yet.
    pub fn drawable(&self) -> Result<PathBuf, TrainError> {
        let final_weights = [self.ema(), self.weights()];
        if let Some(path) = final_weights.into_iter().find(|path| path.is_file()) {
            return Ok(path);
        }
        let newest = Checkpoint::newest(&self.checkpoints())?;
        let newest = newest.ok_or_else(|| TrainError::NoRun {
            directory: self.path.clone(),
            missing: "weights.safetensors".into(),
        })?;
        Ok(newest.weights())
    }

    /// Opens the log, without what it says beyond `step`: a run resumed from there says it again.
    pub(crate) fn log(&self, step: u64) -> Result<Log, TrainError> {
        let lines = |name: &str| {
            let path = self.path.join(name);
            forget_beyond(&path, step)?;
            JsonLines::append_to(path)
        };
        Ok(Log {
            metrics: lines("metrics.jsonl")?,
            evaluation: lines("evaluation.jsonl")?,
            events: EventFile::create(&self.path)?,
        })
    }
}

/// Removes the lines of later steps, and a last line that a killed process left unfinished.
fn forget_beyond(path: &Path, step: u64) -> Result<(), TrainError> {
    if !path.is_file() {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
    let kept: String = text
        .lines()
        .filter(|line| logged_step(line).is_some_and(|logged| logged <= step))
        .flat_map(|line| [line, "\n"])
        .collect();
    write_whole(path, |path| fs::write(path, kept)).map_err(TrainError::io(path))
}

/// A file of one JSON value a line.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file, which need not be there.
    pub(crate) fn append_to(path: PathBuf) -> Result<Self, TrainError> {
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.map_err(TrainError::io(&path))?;
        Ok(Self { path, file })
    }

    /// Writes one line.
    pub(crate) fn push(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let line = serde_json::to_string(line).expect("a line of the log is plain data");
        writeln!(self.file, "{line}").map_err(TrainError::io(&self.path))
    }
}

/// The step of a line of the log; none if it is damaged, as the last line of a killed run may be.
fn logged_step(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Logged {
        step: u64,
    }
    let logged: Logged = serde_json::from_str(line).ok()?;
    Some(logged.step)
}

/// Whether a directory holds anything but what a run leaves that failed before its first line of the log.
fn is_taken(path: &Path) -> Result<bool, TrainError> {
    for entry in fs::read_dir(path).map_err(TrainError::io(path))? {
        let entry = entry.map_err(TrainError::io(path))?;
        let (name, path) = (entry.file_name(), entry.path());
        let empty = || -> std::io::Result<bool> {
            Ok(match path.is_dir() {
                true => fs::read_dir(&path)?.next().is_none(),
                false => entry.metadata()?.len() == 0,
            })
        };
        let harmless = match name.to_str() {
            Some("lock" | "recipe.ron" | "run.json") => true,
            Some("checkpoints" | "metrics.jsonl" | "evaluation.jsonl") => {
                empty().map_err(TrainError::io(&path))?
            }
            Some(name) => name.starts_with(EVENTS),
            None => false,
        };
        if !harmless {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(path: &Path) -> Result<File, TrainError> {
    let name = path.join("lock");
    let file = File::create(&name).map_err(TrainError::io(&name))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::RunBusy(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(TrainError::io(&name)(error)),
    }
}
