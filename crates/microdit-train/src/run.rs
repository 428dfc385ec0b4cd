//! A run directory: the recipe as resolved, the log, the weights and the pictures.

use crate::{error::TrainError, recipe::Recipe};
use burn::tensor::{DType, TensorData};
use microdit::{Dit, DitBackend, weights::StateDict};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Paths inside a run directory.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Finished optimiser steps.
    pub step: u64,
    /// Stage the step belongs to.
    pub stage: String,
    /// Mean loss since the line before.
    pub loss: f32,
    /// Global gradient norm of the last step, before clipping.
    pub grad_norm: f32,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Throughput since the line before.
    pub images_per_second: f64,
    /// Images seen.
    pub images: u64,
}

impl RunDir {
    /// Creates the directory of a new run and stores its recipe.
    ///
    /// # Errors
    /// If the directory already holds anything, or cannot be written.
    pub fn create(path: &Path, recipe: &Recipe) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        let occupied = fs::read_dir(path)
            .map_err(TrainError::io(path))?
            .next()
            .is_some();
        if occupied {
            return Err(TrainError::RunExists(path.to_owned()));
        }
        let run = Self(path.to_owned());
        let text = ron::ser::to_string_pretty(recipe, ron::ser::PrettyConfig::default())
            .expect("a recipe is plain data");
        let file = run.recipe();
        fs::write(&file, text).map_err(TrainError::io(&file))?;
        Ok(run)
    }

    /// Opens the directory of a run and reads its recipe.
    ///
    /// # Errors
    /// If the directory holds no run, or its recipe cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Recipe), TrainError> {
        let run = Self(path.to_owned());
        if !run.recipe().is_file() {
            return Err(TrainError::NoRun {
                directory: path.to_owned(),
                missing: "recipe.ron".into(),
            });
        }
        let recipe = Recipe::load(&run.recipe(), &[])?;
        Ok((run, recipe))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The recipe as resolved.
    pub fn recipe(&self) -> PathBuf {
        self.0.join("recipe.ron")
    }

    /// Raw weights under the reference's names.
    pub fn weights(&self) -> PathBuf {
        self.0.join("weights.safetensors")
    }

    /// Averaged weights under the reference's names.
    pub fn ema(&self) -> PathBuf {
        self.0.join("ema.safetensors")
    }

    /// The grid drawn at the end.
    pub fn samples(&self) -> PathBuf {
        self.0.join("samples.png")
    }

    /// Opens the log for appending.
    pub(crate) fn log(&self) -> Result<File, TrainError> {
        let path = self.0.join("metrics.jsonl");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(TrainError::io(&path))
    }

    /// Appends one line to the log.
    pub(crate) fn append(&self, log: &mut File, metrics: &Metrics) -> Result<(), TrainError> {
        let line = serde_json::to_string(metrics).expect("metrics are plain data");
        writeln!(log, "{line}").map_err(TrainError::io(&self.0.join("metrics.jsonl")))
    }

    /// Writes a network with the buffers PyTorch's strict loading expects.
    pub(crate) fn save<B: DitBackend>(
        &self,
        path: &Path,
        dit: &Dit<B>,
        step: u64,
    ) -> Result<(), TrainError> {
        let positions = dit.positions().into_data();
        let patch = dit.final_layer.linear.weight.dims()[0];
        let buffers = BTreeMap::from([
            ("pos_embed".to_owned(), positions),
            (
                "mask_token".to_owned(),
                TensorData::new(vec![0f32; patch], [1, 1, patch]),
            ),
        ]);
        let metadata = HashMap::from([("step".to_owned(), step.to_string())]);
        StateDict::from_module(dit).write_safetensors(path, DType::F32, metadata, &buffers)?;
        Ok(())
    }
}
