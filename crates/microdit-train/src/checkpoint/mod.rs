//! The state of a run on disk: a directory that appears complete or not at all, and is verified before it is used.

mod manifest;
mod progress;
mod shared;
mod shelf;
mod state;
mod tensors;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use manifest::Beginning;
pub use progress::Progress;
pub(crate) use shelf::{folders, part, place, step_of, sync, tidy};
pub use state::State;
pub(crate) use tensors::{is_frozen, save_result, save_task};

use crate::{
    error::TrainError,
    optim::Optimizer,
    recipe::{CheckpointConfig, Stage},
    sealed::{Files, check_contents},
    source::DataIdentity,
};
use manifest::{Manifest, STATE};
use microdit::{
    DitBackend, TrainBackend,
    ema::{Ema, EmaConfig},
    task::{Task, TrainTask},
    weights::{StateDict, WeightsError},
};
use shared::index_of;
use shelf::prune;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tensors::{is_result_of, read_finite, read_slots};

/// Names of the files.
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// A checkpoint that was verified.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    progress: Progress,
    data: Option<DataIdentity>,
    files: Files,
    beginning: Beginning,
}

impl Checkpoint {
    fn of(folder: PathBuf, manifest: Manifest) -> Self {
        Self {
            folder,
            progress: manifest.progress,
            data: manifest.data,
            files: manifest.files,
            beginning: manifest.beginning,
        }
    }

    /// The newest intact checkpoint; a damaged one is named in a warning and skipped.
    ///
    /// # Errors
    /// If the directory cannot be read, or all checkpoints in it are damaged.
    pub fn newest(checkpoints: &Path) -> Result<Option<Self>, TrainError> {
        let mut damaged = Vec::new();
        for folder in folders(checkpoints)?.into_iter().rev() {
            match Self::verify(&folder) {
                Ok(checkpoint) => {
                    for damage in damaged {
                        tracing::warn!("{damage}; the checkpoint before it is used");
                    }
                    return Ok(Some(checkpoint));
                }
                Err(damage) => damaged.push(format!("{} is damaged ({damage})", folder.display())),
            }
        }
        match damaged.is_empty() {
            true => Ok(None),
            false => Err(TrainError::AllDamaged {
                checkpoints: checkpoints.to_owned(),
                damaged,
            }),
        }
    }

    /// Step of the newest checkpoint, intact or not.
    pub(crate) fn newest_step(checkpoints: &Path) -> Result<Option<u64>, TrainError> {
        Ok(folders(checkpoints)?
            .last()
            .and_then(|folder| step_of(folder)))
    }

    fn verify(folder: &Path) -> Result<Self, String> {
        let manifest = Manifest::read(folder)?;
        manifest.progress.check()?;
        check_contents(folder, &manifest.files)?;
        let checkpoints = folder.parent().unwrap_or(Path::new(""));
        check_contents(checkpoints, &manifest.beginning.frozen)?;
        let checkpoint = Self::of(folder.to_owned(), manifest);
        match checkpoint.file(MODEL) {
            Some(_) => Ok(checkpoint),
            None => Err(format!("{STATE}: it lists no {MODEL}")),
        }
    }

    /// Removes what `config` does not keep of this checkpoint and those before it.
    pub(crate) fn prune(
        &self,
        checkpoints: &Path,
        config: &CheckpointConfig,
    ) -> Result<(), TrainError> {
        prune(checkpoints, config, self.progress.step)
    }

    /// How far the run was.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What tells it from others: its step, and a checksum of what it holds.
    pub(crate) fn identity(&self) -> String {
        let files = serde_json::to_vec(&self.files).expect("sums are plain data");
        let step = self.progress.step;
        format!("after step {step}, {:08x}", crc32c::crc32c(&files))
    }

    /// The data its position belongs to, if something was drawn from them.
    pub(crate) fn data(&self) -> Option<&DataIdentity> {
        self.data.as_ref()
    }

    /// The checkpoint that the file at `path` belongs to, if it is of one.
    ///
    /// # Errors
    /// A checkpoint that is damaged.
    pub(crate) fn beside(path: &Path) -> Result<Option<Self>, TrainError> {
        let folder = path.parent().filter(|folder| step_of(folder).is_some());
        let Some(folder) = folder.filter(|folder| folder.join(STATE).is_file()) else {
            return Ok(None);
        };
        let verified = Self::verify(folder);
        let damaged = |damage| TrainError::AllDamaged {
            checkpoints: folder.to_owned(),
            damaged: vec![damage],
        };
        verified.map(Some).map_err(damaged)
    }

    /// What its stage began with.
    pub(crate) fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// All weights in one of its files, with those that no step moves.
    pub(crate) fn read(&self, file: &Path) -> Result<StateDict, TrainError> {
        let checkpoints = self.folder.parent().unwrap_or(Path::new(""));
        let mut weights = read_finite(file)?;
        for name in self.beginning.frozen.keys() {
            weights = weights.and(read_finite(&checkpoints.join(name))?);
        }
        Ok(weights)
    }

    /// Checks that the final weights of `name` at `path` are what it holds of `task`, bit for bit.
    pub(crate) fn vouches_for<B: DitBackend>(
        &self,
        task: &impl Task<B>,
        name: &str,
        path: &Path,
    ) -> Result<(), TrainError> {
        let own = match self.average(0) {
            Some(average) if name == ema_file(0) => average,
            _ => self.trained(),
        };
        match is_result_of(task, &own, path)? {
            true => Ok(()),
            false => Err(WeightsError::Format {
                path: path.to_owned(),
                message: format!(
                    "it was not written as {} holds it; resume to write it again",
                    self.folder.display()
                ),
            }
            .into()),
        }
    }

    /// The weights to sample from: the first average, or the network as trained if there is none.
    pub fn weights(&self) -> PathBuf {
        self.average(0).unwrap_or_else(|| self.trained())
    }

    /// The network as trained.
    pub fn trained(&self) -> PathBuf {
        self.file(MODEL).unwrap_or_else(|| self.folder.join(MODEL))
    }

    /// The file of this name, or the index of those it is split into, if it is there.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let names = [name.to_owned(), index_of(name)];
        let found = names.into_iter().find(|name| self.files.contains_key(name));
        found.map(|name| self.folder.join(name))
    }

    /// The average with this index, if there is one.
    pub fn average(&self, index: usize) -> Option<PathBuf> {
        self.file(&ema_file(index))
    }

    /// Reads the state of a run that was in `stage`, whose untrained task is `task`.
    ///
    /// # Errors
    /// Files that cannot be read, do not fit the stage's network, or hold a value that is not finite.
    pub fn load<B: TrainBackend, T: TrainTask<B>>(
        &self,
        stage: &Stage,
        task: T,
        device: &B::Device,
    ) -> Result<State<B, T>, TrainError> {
        let weights = self.read(&self.trained())?;
        let task = weights.load_into(task, device)?;
        let resumed = |name: String, config: EmaConfig| {
            let average = match self.file(&name) {
                Some(path) => Some(self.read(&path)?.load_into(task.valid(), device)?),
                None => None,
            };
            Ok::<_, TrainError>(Ema::resume(config, average))
        };
        let emas = stage.ema.iter().enumerate();
        let emas = emas.map(|(i, config)| resumed(ema_file(i), *config));
        let emas = emas.collect::<Result<_, _>>()?;
        let post_hoc = stage.post_hoc_averages().into_iter().enumerate();
        let post_hoc = post_hoc.map(|(i, config)| resumed(post_hoc_file(i), config));
        let post_hoc = post_hoc.collect::<Result<_, _>>()?;
        let kept = stage.optimizers().kept(&task);
        let mut slots = BTreeMap::new();
        // One, or one of every rank.
        let stem = OPTIMIZER.trim_end_matches(".safetensors");
        for name in self.files.keys().filter(|name| name.starts_with(stem)) {
            slots.extend(read_slots(&self.folder.join(name), &kept, device)?);
        }
        let steps = self.progress.optimizer_steps;
        Ok(State {
            progress: self.progress.clone(),
            task,
            optimizer: Optimizer::resume(stage.optimizers(), steps, slots),
            emas,
            post_hoc,
        })
    }
}

fn post_hoc_file(index: usize) -> String {
    format!("post-hoc-{}.safetensors", index + 1)
}

fn ema_file(index: usize) -> String {
    match index {
        0 => "ema.safetensors".to_owned(),
        i => format!("ema-{}.safetensors", i + 1),
    }
}
