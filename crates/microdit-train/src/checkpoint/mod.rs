//! The state of a run on disk: a directory that appears complete or not at all, and is verified before it is used.

mod shared;
mod shelf;
mod tensors;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use shelf::{folders, part, place, step_of, sync, tidy};
pub(crate) use tensors::{is_frozen, save_result, save_task};

use crate::{
    error::TrainError,
    optim::Optimizer,
    recipe::{CheckpointConfig, Stage},
    sealed::{Files, check_contents, has_sizes, seal, sums, unseal},
    source::DataIdentity,
};
use microdit::{
    DitBackend, TrainBackend,
    ema::{Ema, EmaConfig},
    task::{Task, TrainTask},
    weights::{StateDict, WeightsError},
};
use microdit_data::Position;
use serde::{Deserialize, Serialize};
use shared::index_of;
use shelf::{file_names, prune};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tensors::{check_finite, is_result_of, read_finite, read_slots, save_frozen, save_slots};

/// Version of the layout.
const FORMAT: u32 = 4;

/// Names of the files.
const STATE: &str = "state.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// More steps, samples or passes than any run has: a larger number was not written here.
const MAX_COUNT: u64 = 1 << 53;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the stage.
    pub stage: usize,
    /// Finished steps of the stage.
    pub stage_step: u64,
    /// Finished steps of the run.
    pub step: u64,
    /// Images seen by the run.
    pub images: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Steps the optimizer has taken.
    pub optimizer_steps: u64,
    /// Time spent, in seconds.
    pub seconds: f64,
}

impl Progress {
    /// Checks the numbers, and names the first that is impossible.
    fn check(&self) -> Result<(), String> {
        let places = self.position.sources.iter();
        let counts = [
            ("stage", self.stage as u64),
            ("stage_step", self.stage_step),
            ("step", self.step),
            ("images", self.images),
            ("optimizer_steps", self.optimizer_steps),
            ("position.drawn", self.position.drawn),
        ];
        let counts = counts.into_iter().chain(places.flat_map(|place| {
            [
                ("position.sources.epoch", place.epoch),
                ("position.sources.shard", place.shard as u64),
                ("position.sources.sample", place.sample),
            ]
        }));
        for (name, count) in counts {
            if count > MAX_COUNT {
                return Err(format!("{STATE}: {name} is {count}, more than a run has"));
            }
        }
        if self.stage_step > self.step {
            let (stage, run) = (self.stage_step, self.step);
            return Err(format!(
                "{STATE}: {stage} steps of the stage, but {run} of the run"
            ));
        }
        if !(self.seconds.is_finite() && self.seconds >= 0.0) {
            return Err(format!(
                "{STATE}: {} is not a time in seconds",
                self.seconds
            ));
        }
        Ok(())
    }
}

/// Everything a run resumes from.
pub struct State<B: TrainBackend, T: TrainTask<B>> {
    /// How far it has come.
    pub progress: Progress,
    /// The task with its networks.
    pub task: T,
    /// The optimizer with its state.
    pub optimizer: Optimizer<B::InnerBackend>,
    /// Averages of the weights.
    pub emas: Vec<Ema<T::InnerModule>>,
    /// Averages whose snapshots are kept.
    pub post_hoc: Vec<Ema<T::InnerModule>>,
}

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    progress: Progress,
    /// The data the position belongs to; none where nothing was drawn yet.
    data: Option<DataIdentity>,
    files: Files,
    #[serde(default)]
    beginning: Beginning,
}

/// What a stage began with, which stays while it is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    /// Checksums of the files of weights that its recipe names, by their keys.
    pub(crate) origins: Files,
    /// The file beside the checkpoints that holds what no step moves, if anything.
    pub(crate) frozen: Files,
}

/// A checkpoint that was verified.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    progress: Progress,
    data: Option<DataIdentity>,
    files: Files,
    beginning: Beginning,
}

impl<B: TrainBackend, T: TrainTask<B>> State<B, T> {
    /// Writes the state, whose position belongs to `data`, into `checkpoints`, and removes what `config` does not keep. The
    /// new directory gets its name only when every file in it is on the disk; only then is one of the same step
    /// replaced.
    ///
    /// # Errors
    /// A value that is not finite, or whatever keeps a file from being written; older checkpoints are then untouched. One
    /// that cannot be removed is only a warning.
    pub fn save(
        &self,
        checkpoints: &Path,
        config: &CheckpointConfig,
        data: Option<&DataIdentity>,
    ) -> Result<Checkpoint, TrainError> {
        self.save_of(checkpoints, config, data, &Beginning::default())
    }

    /// The same of a stage that began with `beginning`; what is frozen is written unless that says where it is.
    pub(crate) fn save_of(
        &self,
        checkpoints: &Path,
        config: &CheckpointConfig,
        data: Option<&DataIdentity>,
        beginning: &Beginning,
    ) -> Result<Checkpoint, TrainError> {
        let part = part(checkpoints, self.progress.step)?;
        let written = self.write(&part, data, beginning).and_then(|manifest| {
            let folder = place(checkpoints, &part, self.progress.step)?;
            Ok(Checkpoint::of(folder, manifest))
        });
        match written {
            Ok(checkpoint) => {
                checkpoint.prune(checkpoints, config)?;
                Ok(checkpoint)
            }
            Err(error) => {
                // The first error is the one to report.
                let _ = fs::remove_dir_all(&part);
                Err(error)
            }
        }
    }

    fn write(
        &self,
        part: &Path,
        data: Option<&DataIdentity>,
        beginning: &Beginning,
    ) -> Result<Manifest, TrainError> {
        let step = self.progress.step;
        let task = self.task.valid();
        let checkpoints = part.parent().unwrap_or(Path::new(""));
        let beginning = self.with_frozen(checkpoints, beginning)?;
        save_task(&part.join(MODEL), &task, step)?;
        let averages = self.emas.iter().enumerate();
        let averages = averages.map(|(i, ema)| (ema_file(i), ema));
        let post_hoc = self.post_hoc.iter().enumerate();
        for (name, ema) in averages.chain(post_hoc.map(|(i, ema)| (post_hoc_file(i), ema))) {
            if let Some(average) = ema.average() {
                save_task(&part.join(name), average, step)?;
            }
        }
        save_slots(&part.join(OPTIMIZER), self.optimizer.slots(), step)?;
        let files = sums(part, &file_names(part)?)?;
        self.seal(part, data, files, beginning)
    }

    /// `beginning`, with the file of what no step moves, which is written unless it is there.
    fn with_frozen(
        &self,
        checkpoints: &Path,
        beginning: &Beginning,
    ) -> Result<Beginning, TrainError> {
        let mut beginning = beginning.clone();
        if beginning.frozen.is_empty() {
            let Progress { stage, step, .. } = self.progress;
            let name = format!("frozen-{stage}.safetensors");
            if save_frozen(&checkpoints.join(&name), &self.task.valid(), step)? {
                beginning.frozen = sums(checkpoints, &[name])?;
            }
        }
        Ok(beginning)
    }

    /// Writes the manifest of `files`, and flushes the names in `part`.
    fn seal(
        &self,
        part: &Path,
        data: Option<&DataIdentity>,
        files: Files,
        beginning: Beginning,
    ) -> Result<Manifest, TrainError> {
        let manifest = Manifest {
            format: FORMAT,
            progress: self.progress.clone(),
            data: data.cloned(),
            files,
            beginning,
        };
        let path = part.join(STATE);
        let text = seal(&manifest);
        microdit::atomic_file::write(&path, |path| fs::write(path, text))
            .map_err(TrainError::io(&path))?;
        sync(part)?;
        Ok(manifest)
    }

    /// Checks that all weights are finite, which distinguishes a ruined network from bad batches.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] with the first that are not.
    pub(crate) fn check_weights(&self) -> Result<(), TrainError> {
        check_finite(
            "the network",
            &StateDict::from_module(&self.task.valid()),
            self.progress.step,
        )
    }
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

impl Manifest {
    /// The manifest in `folder`, if no bit of it has changed.
    fn read(folder: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let told = |error: &dyn std::fmt::Display| format!("{STATE}: {error}");
        let text = fs::read(folder.join(STATE)).map_err(|error| told(&error))?;
        // Of another version, the checksum may lie elsewhere.
        if let Ok(Version { format }) = serde_json::from_slice(&text)
            && format != FORMAT
        {
            let message = format!(
                "format {format} of another version of microdit, expected {FORMAT}: that version can resume it"
            );
            return Err(told(&message));
        }
        unseal(&text).map_err(|error| told(&error))
    }

    /// Whether `folder` holds a manifest and the files it lists, at their sizes.
    fn is_complete(folder: &Path) -> bool {
        Self::read(folder).is_ok_and(|manifest| has_sizes(folder, &manifest.files))
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
