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
use burn::tensor::DType;
use microdit::{
    DitBackend, TrainBackend, atomic_file,
    ema::Ema,
    net::{Denoiser as _, NetworkConfig},
    nn::lora::Lora,
    task::{Task, TrainTask},
    weights::write_lora,
};
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

/// Adapters by themselves, as trained and averaged.
const ADAPTERS: &str = "lora.safetensors";
const AVERAGED_ADAPTERS: &str = "lora-ema.safetensors";

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
        let average = state.emas.first().and_then(Ema::average);
        if let Some(average) = average {
            save_result(&self.ema(), average, &description)?;
            names.push(AVERAGE.to_owned());
        }
        let adapted = [
            (ADAPTERS, Some(&state.task.valid())),
            (AVERAGED_ADAPTERS, average),
        ];
        for (name, task) in adapted {
            if let Some(adapters) = task.and_then(Task::adapters) {
                save_adapters(
                    &self.path().join(name),
                    adapters,
                    description.network.as_ref(),
                )?;
                names.push(name.to_owned());
            }
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
            let adapters = [ADAPTERS, AVERAGED_ADAPTERS].map(|name| self.path().join(name));
            let results = [self.weights(), self.ema(), self.samples()];
            for file in results.into_iter().chain(adapters) {
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

/// Writes adapters as diffusers and peft read them, for the network they are made for.
fn save_adapters<B: DitBackend>(
    path: &Path,
    adapters: &Lora<B>,
    network: Option<&NetworkConfig>,
) -> Result<(), TrainError> {
    let component = match network {
        Some(NetworkConfig::UNet(_)) => "unet",
        _ => "transformer",
    };
    Ok(write_lora(adapters, component, path, DType::F32)?)
}

/// `NAME-step-STEP.EXTENSION` beside `file`.
fn with_step(file: &Path, step: u64) -> PathBuf {
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(file.file_stem()), part(file.extension()));
    file.with_file_name(format!("{stem}-step-{step}.{extension}"))
}
