//! A recipe: everything that determines a run, in one RON file.
//!
//! The keys of a stage are at the top of the file, where they hold for every stage, or in a stage, where they hold for
//! it alone. A file may extend another one.

mod bundled;
mod data;
mod difference;
mod distillation;
mod distributed;
mod document;
mod evaluation;
mod file;
mod identity;
mod keys;
mod load;
mod overrides;
mod parser;
mod run;
mod sampling;
mod terms;
mod tree;
mod validate;

pub use bundled::{Bundled, beside};
pub use data::{CaptionConfig, CodecConfig, DataConfig, EncoderConfig, Weighted, WeightedCaption};
pub use difference::{Change, Effect};
pub use distillation::Distillation;
pub use distributed::DistributedConfig;
pub use document::Document;
pub use evaluation::{EvaluationConfig, FeatureDistanceConfig, FeatureNetworkConfig};
pub use load::dialect;
pub use overrides::Override;
pub use run::{Budget, CheckpointConfig, RunConfig};
pub use sampling::SamplingConfig;
pub use terms::{ClipLoss, Regression};
pub use validate::MAX_IMAGES;

use crate::{
    error::TrainError,
    optim::{OptimizerConfig, Optimizers},
    schedule::Schedule,
};
use microdit::{
    Masking,
    diffusion::DiffusionConfig,
    ema::EmaConfig,
    net::NetworkConfig,
    nn::lora::LoraConfig,
    post_hoc_ema::PostHocConfig,
    task::{DenoiseConfig, Reconstruction},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Settings of the run as a whole.
    pub run: RunConfig,
    /// What is trained, in order.
    pub stages: Vec<Stage>,
    /// The recipe as RON, with everything it extends and every `--set` merged in.
    pub source: String,
}

/// A part of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name in the log and in the paths of `--set`: 1 to 100 letters, digits, spaces, `-`, `_` and `+`; unique among the
    /// stages.
    pub name: String,
    /// Optimizer steps, at least 1. All stages together see at most 2^40 images.
    pub steps: u64,
    /// What it takes from the stage before.
    #[serde(default)]
    pub hand_over: HandOver,
    /// The network and its sizes; a later stage may change the resolution only. Sizes without a name are those of a
    /// [`Dit`](NetworkConfig::Dit).
    pub model: NetworkConfig,
    /// Weights the network begins with, in place of initial ones or of those handed on: a file (.safetensors, .pt, .ckpt), a folder as
    /// `microdit export` or diffusers write it, a run, or a name as `microdit fetch` takes it. What is found is copied into the run. A
    /// teacher that is handed on stays.
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Adapters of the network that are trained (LoRA); none if absent. They are written to `lora.safetensors`, and what is drawn with is
    /// the network with them.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Whether these are trained alone, while the network itself stays as it is.
    #[serde(default = "yes")]
    pub lora_alone: bool,
    /// Makes the network a student that draws in one step, by what a teacher knows; it learns to denoise if absent.
    #[serde(default)]
    pub distill: Option<Distillation>,
    /// The diffusion family and its constants.
    pub diffusion: DiffusionConfig,
    /// Where images and captions come from, and how they become what the network sees.
    pub data: DataConfig,
    /// Fraction of the captions that are dropped, 0 to 1, for classifier-free guidance.
    pub caption_drop: f64,
    /// Text that stands in place of a dropped caption, read by `encoders.text` where captions are pre-computed; zeros if absent. Stable
    /// Diffusion was trained with an empty text.
    #[serde(default)]
    pub dropped_caption: Option<String>,
    /// Which tokens are dropped.
    #[serde(default)]
    pub masking: Masking,
    /// What the dropped patches add to the loss, where `model.decoder` predicts them; nothing if absent, or if nothing is dropped.
    #[serde(default)]
    pub reconstruction: Option<Reconstruction>,
    /// Images in a step, 1 to 2^24; all of them, as the network sees them, take at most 2^40 bytes.
    pub batch: usize,
    /// Images computed at once, at least 1; the whole batch if absent or more. The weights are the same for any number.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Whether only what flows between the blocks is kept, and the rest recomputed for the gradients: a third more
    /// work for a fraction of the memory.
    #[serde(default)]
    pub activation_checkpointing: ActivationCheckpointing,
    /// How the work is split over several processes and devices.
    #[serde(default)]
    pub distributed: DistributedConfig,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Multiplier of the learning rate over the stage's own steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Averages of the weights, counted in the stage's own steps; the first one is what is sampled from.
    #[serde(default)]
    pub ema: Vec<EmaConfig>,
    /// When snapshots are kept from which an average of any length is made afterwards; never if absent.
    #[serde(default)]
    pub post_hoc_ema: Option<PostHocConfig>,
    /// Steps between evaluations, at least 1, in place of `evaluation.every`; without `evaluation` there are none.
    #[serde(default)]
    pub evaluate_every: Option<u64>,
    /// Steps between grids, at least 1, in place of `sampling.every`; without that there are none.
    #[serde(default)]
    pub draw_every: Option<u64>,
}

/// Whether activations are recomputed rather than kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActivationCheckpointing {
    /// Always.
    On,
    /// Never.
    #[default]
    Off,
    /// Unless, by the [plan](crate::plan), the micro-batch fits into the memory of the GPU without it. Where that memory is
    /// not known it is on: slower, but not out of memory.
    Auto,
}

/// What a stage takes from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandOver {
    /// Which weights.
    pub weights: Handed,
    /// Whether the optimizer's moments are kept, if its method stays the same; not with `weights`, which they do not belong to.
    pub optimizer: bool,
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

fn yes() -> bool {
    true
}

impl Stage {
    /// The settings of its optimizers: of all that it trains, and of the parts with one of their own.
    pub(crate) fn optimizers(&self) -> Optimizers {
        let distill = self.distill.as_ref();
        let critic = distill.filter(|distill| distill.critic.is_some());
        let critic = critic.map(|distill| ("critic", distill.critic_optimizer.clone()));
        Optimizers {
            rest: self.optimizer.clone(),
            parts: critic.into_iter().collect(),
        }
    }

    /// The file of prompts it is trained on in place of its data, if it is.
    pub(crate) fn prompts(&self) -> Option<&Path> {
        self.distill.as_ref()?.prompts.as_deref()
    }

    /// Whether the same step is another one in a longer stage.
    fn depends_on_its_length(&self) -> bool {
        let fades = self
            .distill
            .as_ref()
            .is_some_and(Distillation::fades_to_the_end);
        fades || self.schedule.curve.ends_with_stage()
    }

    /// The CLIP term of its distillation, if there is one.
    pub(crate) fn clip(&self) -> Option<&ClipLoss> {
        self.distill.as_ref()?.clip.as_ref()
    }

    /// The averages whose snapshots are kept.
    pub(crate) fn post_hoc_averages(&self) -> Vec<EmaConfig> {
        match self.post_hoc_ema {
            Some(_) => PostHocConfig::averages().into(),
            None => Vec::new(),
        }
    }

    /// What is drawn for a sample, and the diffusion that noises it.
    pub fn denoise(&self) -> DenoiseConfig {
        DenoiseConfig {
            diffusion: self.diffusion,
            masking: self.masking,
            caption_drop: self.caption_drop,
            reconstruction: self.reconstruction,
        }
    }
}

impl Recipe {
    /// Checks that every stage and the evaluation say where their data lie, which a plan does not need.
    ///
    /// # Errors
    /// The first stage that does not, or the evaluation.
    pub fn require_shards(&self) -> Result<(), TrainError> {
        let lacks = |stage: &&Stage| stage.data.lacks_shards() && stage.prompts().is_none();
        if let Some(stage) = self.stages.iter().find(lacks) {
            return Err(TrainError::NoShards {
                stage: stage.name.clone(),
            });
        }
        let generated = |stage: &Stage| matches!(stage.data, DataConfig::Shapes { .. });
        match &self.run.evaluation {
            Some(evaluation)
                if evaluation.shards.is_none() && !self.stages.iter().all(generated) =>
            {
                Err(TrainError::NoHeldOutShards)
            }
            _ => Ok(()),
        }
    }

    /// Total steps over all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// The stage whose network is drawn with.
    ///
    /// # Panics
    /// If there are no stages, which [`load`](Self::load) does not allow.
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
