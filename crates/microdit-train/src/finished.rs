//! The end of a run: its final weights, and the marker that vouches for them.
//!
//! The files are written first and the marker last, so that a run that is killed in between is not taken for a finished
//! one. A finished run that is extended keeps these weights under the name of their step.

use crate::{
    checkpoint::{Checkpoint, State, save_result},
    error::TrainError,
    recipe::Recipe,
    run::RunDir,
    sealed::{Files, check_contents, seal, sums, unseal},
};
use microdit::{TrainBackend, atomic_file, ema::Ema, net::Denoiser as _, task::TrainTask};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The marker, and the files of weights in a run directory.
const MARKER: &str = "finished.json";
const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "ema.safetensors";

/// What `finished.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// Steps the weights are the result of.
    step: u64,
    files: Files,
}

impl Finished {
    /// Steps the weights are the result of.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// The weights to sample from, in `run`.
    pub(crate) fn weights(&self, run: &RunDir) -> PathBuf {
        match self.files.contains_key(AVERAGE) {
            true => run.ema(),
            false => run.weights(),
        }
    }
}

impl RunDir {
    /// Weights as trained, under the reference's names.
    pub fn weights(&self) -> PathBuf {
        self.path().join(WEIGHTS)
    }

    /// Averaged weights under the reference's names.
    pub fn ema(&self) -> PathBuf {
        self.path().join(AVERAGE)
    }

    /// Steps the run has finished after; none if it has not, or its final weights are damaged.
    pub fn finished_after(&self) -> Option<u64> {
        self.finished().map(|finished| finished.step)
    }

    /// What the marker vouches for, if every file is as it says; damage is named in a warning, and the run is then not taken
    /// for a finished one.
    pub(crate) fn finished(&self) -> Option<Finished> {
        let marker = self.path().join(MARKER);
        let text = match fs::read(&marker) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            text => text.map_err(|error| error.to_string()),
        };
        let checked = text.and_then(|text| {
            let finished: Finished = unseal(&text)?;
            check_contents(self.path(), &finished.files)?;
            Ok(finished)
        });
        checked
            .inspect_err(|damage| {
                tracing::warn!(
                    "the final weights are not those {} vouches for ({damage})",
                    marker.display()
                );
            })
            .ok()
    }

    /// Writes the final weights of `recipe`, and the marker once they are on the disk as `checkpoint` has them.
    pub(crate) fn finish<B: TrainBackend, T: TrainTask<B>>(
        &self,
        recipe: &Recipe,
        state: &State<B, T>,
        checkpoint: &Checkpoint,
    ) -> Result<(), TrainError> {
        let step = state.progress.step;
        let description =
            recipe.description(state.progress.stage, state.task.denoiser().config(), step);
        save_result(&self.weights(), &state.task.valid(), &description)?;
        let mut names = vec![WEIGHTS.to_owned()];
        if let Some(average) = state.emas.first().and_then(Ema::average) {
            save_result(&self.ema(), average, &description)?;
            names.push(AVERAGE.to_owned());
        }
        let files = sums(self.path(), &names)?;
        for name in &names {
            checkpoint.vouches_for(&state.task, name, &self.path().join(name))?;
        }
        let text = seal(&Finished { step, files });
        let marker = self.path().join(MARKER);
        atomic_file::write(&marker, |path| fs::write(path, text)).map_err(TrainError::io(&marker))
    }

    /// Renames the results of an earlier end after their step, because the run continues: its result is that of the newest
    /// steps. The marker goes last, so that an interrupted renaming is repeated.
    pub(crate) fn set_aside(&self) -> Result<(), TrainError> {
        let marker = self.path().join(MARKER);
        let Ok(text) = fs::read(&marker) else {
            return Ok(());
        };
        // If the weights were damaged since, the marker still knows the step.
        if let Ok(Finished { step, .. }) = unseal(&text) {
            for file in [self.weights(), self.ema(), self.samples()] {
                let aside = with_step(&file, step);
                if file.is_file() {
                    fs::rename(&file, &aside).map_err(TrainError::io(&file))?;
                    tracing::info!("{} is kept as {}", file.display(), aside.display());
                }
            }
        }
        fs::remove_file(&marker).map_err(TrainError::io(&marker))
    }
}

/// `NAME-step-STEP.EXTENSION` beside `file`.
fn with_step(file: &Path, step: u64) -> PathBuf {
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(file.file_stem()), part(file.extension()));
    file.with_file_name(format!("{stem}-step-{step}.{extension}"))
}
