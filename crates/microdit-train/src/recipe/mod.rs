//! A recipe: everything a run is determined by, in one RON file.
//!
//! The keys of a stage stand at the top of the file, where they hold for every stage, or in a stage, where they hold for
//! it alone. A file may extend another one.

mod data;
mod load;
mod parser;
mod tree;
mod validate;

pub use data::{CaptionConfig, CodecConfig, DataConfig, Dataset, EncoderConfig, Weighted};

use crate::{error::TrainError, optim::OptimiserConfig, schedule::Schedule};
use microdit::{
    DitConfig, Masking,
    diffusion::{edm::Edm, sampler::Solver, schedule::SigmaSchedule},
    ema::EmaConfig,
};
use serde::{Deserialize, Serialize};

/// A training run.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What belongs to the run as a whole.
    pub run: RunConfig,
    /// What is trained, in order.
    pub stages: Vec<Stage>,
    /// The recipe as RON, with everything it extends and every `--set` worked in.
    pub source: String,
}

/// What belongs to the run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run, the first part of its default directory.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// What is drawn at the end.
    pub sampling: SamplingConfig,
    /// What turns prompts and latents of a network trained on pre-computed ones into pictures.
    #[serde(default)]
    pub encoders: EncoderConfig,
    /// Steps between lines of the log.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoints: CheckpointConfig,
    /// Steps in a row without a finite gradient after which the run stops.
    #[serde(default = "ten")]
    pub max_broken_steps: u64,
    /// When the loss on held-out samples is measured; never if absent.
    #[serde(default)]
    pub evaluation: Option<EvaluationConfig>,
    /// What the run may cost.
    #[serde(default)]
    pub budget: Budget,
}

/// When the loss on held-out samples is measured, and on which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations.
    pub every: u64,
    /// Number of samples.
    pub samples: usize,
    /// Held-out shards; generated datasets need none.
    #[serde(default)]
    pub shards: Option<String>,
}

/// What a run may cost; when it is spent, the run stops with its state saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Hours of the whole machine.
    pub hours: Option<f64>,
    /// Dollars.
    pub usd: Option<f64>,
    /// Price of one device for an hour, in dollars; `usd` needs it.
    pub usd_per_gpu_hour: Option<f64>,
}

impl Budget {
    /// Price of a time on `devices`.
    pub fn usd_after(&self, seconds: f64, devices: usize) -> Option<f64> {
        Some(self.usd_per_gpu_hour? * seconds / 3600.0 * devices as f64)
    }

    /// Whether nothing is left after that time on `devices`.
    pub fn is_spent(&self, seconds: f64, devices: usize) -> bool {
        let spent = self.usd_after(seconds, devices);
        let dollars = self.usd.zip(spent).is_some_and(|(usd, spent)| spent >= usd);
        dollars || self.hours.is_some_and(|hours| seconds / 3600.0 >= hours)
    }
}

fn ten() -> u64 {
    10
}

/// When the state of a run is saved, and which states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints.
    pub every: u64,
    /// Newest checkpoints kept.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps are kept for good.
    pub milestones: Option<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 1000,
            keep: 2,
            milestones: None,
        }
    }
}

/// A part of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name in the log.
    pub name: String,
    /// Optimiser steps.
    pub steps: u64,
    /// What it takes over from the stage before.
    #[serde(default)]
    pub hand_over: HandOver,
    /// Sizes of the network; a later stage may change the resolution only.
    pub model: DitConfig,
    /// Noise distribution and preconditioning.
    pub diffusion: Edm,
    /// Where images and captions come from.
    pub data: DataConfig,
    /// How images become latents.
    pub codec: CodecConfig,
    /// How captions become vectors.
    pub captions: CaptionConfig,
    /// Which tokens are dropped.
    #[serde(default)]
    pub masking: Masking,
    /// Images in a step.
    pub batch: usize,
    /// Images computed at once; the whole batch if absent. The weights are the same for any number.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Keep only what flows between the blocks, and compute the rest again for the gradients: a third more work for a
    /// fraction of the memory.
    #[serde(default)]
    pub recompute: bool,
    /// Optimiser.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// Multiplier of the learning rate over the stage's own steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Averages of the weights, counted in the stage's own steps; the first one is what is sampled from.
    #[serde(default)]
    pub ema: Vec<EmaConfig>,
}

/// What a stage takes over from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandOver {
    /// Which weights.
    pub weights: Handed,
    /// Whether the optimiser's moments come along, if its method stays the same.
    pub optimiser: bool,
}

/// Weights handed from stage to stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handed {
    /// As trained.
    #[default]
    Raw,
    /// The first average, or as trained if there is none yet.
    Ema,
}

/// What is drawn when training ends, and the defaults of `microdit sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// One picture, or `count` of them, each.
    pub prompts: Vec<String>,
    /// Pictures per prompt.
    #[serde(default = "one")]
    pub count: usize,
    /// Steps of training between grids; only one at the end if absent.
    #[serde(default)]
    pub every: Option<u64>,
    /// Steps of the solver.
    #[serde(default = "thirty")]
    pub steps: usize,
    /// Classifier-free guidance scale; 1 is none.
    #[serde(default = "five")]
    pub guidance: f64,
    /// Solver.
    #[serde(default)]
    pub solver: Solver,
    /// Noise levels.
    #[serde(default)]
    pub sigmas: SigmaSchedule,
}

impl Default for SamplingConfig {
    /// The paper's settings, and nothing to draw.
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            count: one(),
            every: None,
            steps: thirty(),
            guidance: five(),
            solver: Solver::default(),
            sigmas: SigmaSchedule::default(),
        }
    }
}

fn one() -> usize {
    1
}
fn thirty() -> usize {
    30
}
fn five() -> f64 {
    5.0
}

impl Recipe {
    /// Total steps over all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// The stage whose network is drawn with.
    ///
    /// # Panics
    /// If there are no stages, which [`load`](Self::load) does not let happen.
    pub fn last_stage(&self) -> &Stage {
        self.stages.last().expect("a recipe has a stage")
    }
}

/// A recipe's error at a file and line, a `--set`, or a key.
fn problem(origin: &str, message: &dyn std::fmt::Display) -> TrainError {
    TrainError::Recipe {
        origin: origin.to_owned(),
        message: message.to_string(),
    }
}
