//! A run directory: the recipe as resolved, the log, checkpoints, the final weights and the pictures.

pub use crate::log::{Evaluated, Metrics, last_metrics};

use crate::{
    checkpoint::{self, Checkpoint},
    error::TrainError,
    events::EVENTS,
    log::{EVALUATION, METRICS, NON_FINITE},
    recipe::Recipe,
};
use microdit::atomic_file::{self, is_part};
use serde::Serialize;
use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Paths inside a run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held while the run is trained; the system releases it however the process ends.
    _lock: Option<File>,
    /// How many directories of the path had to be created, if nothing was there before.
    created: Option<usize>,
}

impl RunDir {
    /// Creates the directory of a run, or with `resume` enters one that is there, and clears what a killed process left
    /// half-written. No other process can enter it until this value is dropped; a new directory that holds only what a run
    /// writes before its first line of the log is then removed again.
    ///
    /// # Errors
    /// If the directory already holds a run and `resume` is not asked for, another process is in it, or it cannot be
    /// written.
    pub fn enter(path: &Path, resume: bool) -> Result<Self, TrainError> {
        let missing = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let created = missing.count();
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        if !resume && is_taken(path)? {
            return Err(TrainError::RunExists(path.to_owned()));
        }
        let lock = lock(path)?;
        let mut run = Self::follow(path);
        run._lock = Some(lock);
        let mut others = false;
        for entry in fs::read_dir(path).map_err(TrainError::io(path))? {
            let entry = entry.map_err(TrainError::io(path))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(is_part) {
                let part = entry.path();
                fs::remove_file(&part).map_err(TrainError::io(&part))?;
            } else {
                others |= name != LOCK;
            }
        }
        run.created = (!others).then_some(created);
        checkpoint::tidy(&run.checkpoints())?;
        run.tidy_snapshots()?;
        Ok(run)
    }

    /// Whether another process is training the run.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn is_busy(&self) -> Result<bool, TrainError> {
        let name = self.path.join(LOCK);
        let file = match File::open(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file.map_err(TrainError::io(&name))?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(TrainError::io(&name)(error)),
        }
    }

    /// Stores the recipe: from here on, this is what the run is trained by.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn begin(&self, recipe: &Recipe) -> Result<(), TrainError> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints))?;
        let file = self.recipe();
        atomic_file::write(&file, |file| fs::write(file, &recipe.source))
            .map_err(TrainError::io(&file))?;
        match self.path.parent() {
            // The name of a new directory has to be on the disk before what lies in it counts.
            Some(parent) if !parent.as_os_str().is_empty() => checkpoint::sync(parent),
            _ => Ok(()),
        }
    }

    /// Reads the directory of a run that another process may be training: nothing is written.
    pub fn follow(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
            created: None,
        }
    }

    /// Opens the directory of a run to draw from it, and reads its recipe.
    ///
    /// # Errors
    /// If the directory holds no run, or its recipe cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Recipe), TrainError> {
        let run = Self::follow(path);
        if !run.recipe().is_file() {
            return Err(TrainError::NoRun {
                directory: path.to_owned(),
                missing: "recipe.ron".into(),
            });
        }
        let recipe = Recipe::load(&run.recipe(), &[])?;
        Ok((run, recipe))
    }

    /// Adds to `run.json` what describes a process that trains the run: version, commit, devices, arguments, and the recipe
    /// as resolved.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn describe(&self, process: &impl Serialize) -> Result<(), TrainError> {
        let path = self.path.join("run.json");
        let mut processes = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice::<Vec<serde_json::Value>>(&text).or_else(|damage| {
                    let aside = path.with_extension("json.damaged");
                    tracing::warn!(
                        "{}: {damage}; it is kept as {}",
                        path.display(),
                        aside.display()
                    );
                    fs::rename(&path, &aside).map_err(TrainError::io(&path))?;
                    Ok::<_, TrainError>(Vec::new())
                })?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(TrainError::io(&path)(error)),
        };
        processes.push(serde_json::to_value(process).expect("a process is plain data"));
        let text = serde_json::to_string_pretty(&processes).expect("processes are plain data");
        atomic_file::write(&path, |path| fs::write(path, text)).map_err(TrainError::io(&path))
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

    /// The grid drawn at the end.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.png")
    }

    /// The grid drawn after `step`.
    pub fn samples_at(&self, step: u64) -> PathBuf {
        self.path.join(format!("samples-{step:08}.png"))
    }

    /// Batches that were skipped because loss or gradient were not finite.
    pub fn non_finite(&self) -> PathBuf {
        self.path.join(NON_FINITE)
    }

    /// The weights to sample from, averaged where there is an average: the final ones, or the newest checkpoint's if the
    /// run is not finished or went on to more steps.
    ///
    /// # Errors
    /// If there are none yet, or all checkpoints of an unfinished run are damaged.
    pub fn drawable(&self) -> Result<PathBuf, TrainError> {
        let newest = Checkpoint::newest_step(&self.checkpoints())?;
        if let Some(finished) = self.finished()
            && newest.is_none_or(|step| step <= finished.step())
        {
            return Ok(finished.weights(self));
        }
        if let Some(newest) = Checkpoint::newest(&self.checkpoints())? {
            return Ok(newest.weights());
        }
        // Weights that were copied here without the rest of the run.
        let copied = [self.ema(), self.weights()];
        let copied = copied.into_iter().find(|path| path.is_file());
        copied
            .inspect(|path| {
                tracing::warn!(
                    "nothing vouches for {}: it is used as it is",
                    path.display()
                );
            })
            .ok_or_else(|| TrainError::NoRun {
                directory: self.path.clone(),
                missing: "weights.safetensors".into(),
            })
    }
}

/// Which weights of a run are drawn with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first average, or as trained if there is none.
    #[default]
    Best,
    /// As trained.
    Trained,
    /// The average with this index, as the recipe lists them.
    Average(usize),
}

impl RunDir {
    /// The weights of a finished run or of the newest checkpoint, as `choice` says.
    ///
    /// # Errors
    /// If there are none yet, or not these.
    pub fn weights_of(&self, choice: Choice) -> Result<PathBuf, TrainError> {
        let index = match choice {
            Choice::Best => return self.drawable(),
            Choice::Trained => None,
            Choice::Average(index) => Some(index),
        };
        let newest = Checkpoint::newest(&self.checkpoints())?;
        let found = match (newest, index) {
            (Some(newest), None) => Some(newest.trained()),
            (Some(newest), Some(index)) => newest.average(index),
            // Weights that were copied here without the rest of the run.
            (None, None) => Some(self.weights()).filter(|path| path.is_file()),
            (None, Some(0)) => Some(self.ema()).filter(|path| path.is_file()),
            (None, Some(_)) => None,
        };
        found.ok_or_else(|| match index {
            Some(index) => TrainError::NoAverage {
                directory: self.path.clone(),
                number: index + 1,
            },
            None => TrainError::NoRun {
                directory: self.path.clone(),
                missing: "weights.safetensors".into(),
            },
        })
    }
}

impl Drop for RunDir {
    /// Removes the traces of a run that failed before it began.
    fn drop(&mut self) {
        let Some(created) = self.created else {
            return;
        };
        if !matches!(is_taken(&self.path), Ok(false)) {
            return;
        }
        // What cannot be removed stays, which `is_taken` allows for.
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = match path.is_dir() {
                true => fs::remove_dir(&path),
                false => fs::remove_file(&path),
            };
        }
        for folder in self.path.ancestors().take(created) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The file that is locked while a process is at work in the directory.
const LOCK: &str = "lock";

/// Whether a directory holds more than a run leaves that failed before its first line of the log.
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
            Some(LOCK | "recipe.ron" | "run.json") => true,
            Some("checkpoints" | METRICS | EVALUATION) => empty().map_err(TrainError::io(&path))?,
            Some(name) => name.starts_with(EVENTS) || is_part(name),
            None => false,
        };
        if !harmless {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(path: &Path) -> Result<File, TrainError> {
    let name = path.join(LOCK);
    loop {
        let file = File::create(&name).map_err(TrainError::io(&name))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, &name) => return Ok(file),
            // Removed by the process that held it, after it was opened here.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrainError::RunBusy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(TrainError::io(&name)(error)),
        }
    }
}

/// Whether `file` is the one that has the name `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let both = file
        .metadata()
        .and_then(|own| Ok((own, fs::metadata(path)?)));
    both.is_ok_and(|(own, named)| same(own, named))
}

/// Other systems do not remove a file that is open.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}
