//! What a run is at the end of a step, and how it is written.

use super::{
    Checkpoint, MODEL, OPTIMIZER, Progress, ema_file,
    manifest::{Beginning, FORMAT, Manifest, STATE},
    part, place, post_hoc_file, save_task,
    shelf::file_names,
    sync,
    tensors::{check_finite, save_frozen, save_slots},
};
use crate::{
    error::TrainError,
    optim::Optimizer,
    recipe::CheckpointConfig,
    sealed::{Files, seal, sums},
    source::DataIdentity,
};
use microdit::{TrainBackend, ema::Ema, task::TrainTask, weights::StateDict};
use std::{fs, path::Path};

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
    pub(super) fn with_frozen(
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
    pub(super) fn seal(
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
