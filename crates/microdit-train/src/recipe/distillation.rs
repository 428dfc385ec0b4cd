//! How a stage distils its network to one step.

use super::{ClipLoss, Regression, Stage};
use crate::optim::OptimizerConfig;
use microdit::{
    Masking,
    nn::{Storage, lora::LoraConfig},
    range::{OutOfRange, require},
    task::{DistillConfig, TimestepRange},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Variational score distillation: the stage's network becomes a student that draws in one step. Of the data it takes captions and the
/// size of the images alone, but for `regression`; `caption_drop` is how often the critic learns without captions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distillation {
    /// Weights of the teacher, as `weights` of a stage. If absent, that of the stage before where it distils too, or else the network that
    /// the stage begins with. Where a first stage has no weights to begin with, the student begins as its teacher.
    pub teacher: Option<PathBuf>,
    /// File of prompts, one per line, that the student learns from in place of the captions of `data`, which then needs no shards. They
    /// become vectors as `data` says, or, where its captions are pre-computed, by the text encoder of `encoders`.
    pub prompts: Option<PathBuf>,
    /// What the teacher's weights are kept in.
    pub teacher_storage: Storage,
    /// Guidance of teacher and critic, 0 to 1000; 1 is none.
    pub guidance: f64,
    /// Between which timesteps of variance-preserving diffusion teacher and critic are compared; other families draw noise levels as
    /// in training.
    pub timesteps: TimestepRange,
    /// The critic: adapters with which the teacher learns what the student's images look like. Without one, `None`, the teacher is compared
    /// with the noise that was added (score distillation sampling), which needs strong guidance and makes images alike.
    pub critic: Option<LoraConfig>,
    /// Optimizer of the critic; `optimizer` of the stage is the student's. The schedule is the same for both.
    pub critic_optimizer: OptimizerConfig,
    /// Pulls the student's images towards their captions, as CLIP sees both; nothing if absent.
    pub clip: Option<ClipLoss>,
    /// Pulls the student's images towards those of the data; nothing if absent.
    pub regression: Option<Regression>,
}

impl Default for Distillation {
    /// SwiftBrush's.
    fn default() -> Self {
        let DistillConfig {
            guidance,
            timesteps,
            critic,
            ..
        } = DistillConfig::default();
        Self {
            teacher: None,
            prompts: None,
            teacher_storage: Storage::default(),
            guidance,
            timesteps,
            critic,
            critic_optimizer: OptimizerConfig {
                lr: 1e-3,
                weight_decay: 0.0,
                clip_norm: Some(1.0),
                ..OptimizerConfig::default()
            },
            clip: None,
            regression: None,
        }
    }
}

impl Distillation {
    /// Whether a term's weight falls over all of the stage.
    pub(super) fn fades_to_the_end(&self) -> bool {
        let clip = self.clip.as_ref().map(|term| term.until);
        let regression = self.regression.map(|term| term.until);
        [clip, regression].contains(&Some(None))
    }

    /// As the library takes it, in `stage`.
    pub(crate) fn config(&self, stage: &Stage) -> DistillConfig {
        DistillConfig {
            diffusion: stage.diffusion,
            guidance: self.guidance,
            timesteps: self.timesteps,
            caption_drop: stage.caption_drop,
            critic: self.critic.clone(),
            regression: self.regression.map(|term| term.fading(stage.steps)),
        }
    }
}

impl Stage {
    /// Checks what it trains, and that this goes together; `begins` if no stage is before it.
    pub(super) fn validate_training(&self, begins: bool) -> Result<(), OutOfRange> {
        let inside = |part: &'static str| move |error: OutOfRange| error.inside(part);
        let adapts = |lora: &LoraConfig| {
            lora.validate()?;
            let layers = self.model.layers().map_err(OutOfRange::from)?;
            lora.sizes(layers).map_err(OutOfRange::from)
        };
        if let Some(lora) = &self.lora {
            adapts(lora).map_err(inside("lora"))?;
        }
        require(self.lora_alone || self.lora.is_some(), "lora_alone", || {
            "there are no adapters; add lora, or leave it out".into()
        })?;
        let alone = self.lora.is_none() && self.distill.is_none();
        require(alone || self.post_hoc_ema.is_none(), "post_hoc_ema", || {
            "its snapshots are of a network that is trained by itself; with lora or distill, name averages in ema".into()
        })?;
        let Some(distill) = &self.distill else {
            return Ok(());
        };
        if let Some(clip) = &distill.clip {
            clip.validate(self).map_err(inside("distill.clip"))?;
        }
        if let Some(regression) = &distill.regression {
            let fits = regression.validate(self);
            fits.map_err(inside("distill.regression"))?;
        }
        let ranges = distill.config(self).validate();
        ranges.map_err(inside("distill"))?;
        if let Some(critic) = &distill.critic {
            adapts(critic).map_err(inside("distill.critic"))?;
        }
        let optimizer = distill.critic_optimizer.validate();
        optimizer.map_err(inside("distill.critic_optimizer"))?;
        // What the schedule multiplies the student's rate by is what it multiplies the critic's by.
        require(self.optimizer.lr > 0.0, "optimizer.lr", || {
            "a student that learns needs a rate above 0".into()
        })?;
        let named = self.weights.is_some() || distill.teacher.is_some();
        require(named || !begins, "distill.teacher", || {
            "the first stage needs a trained teacher; name its weights here, or in weights".into()
        })?;
        require(self.masking == Masking::None, "masking", || {
            "a student draws whole images; with distill, masking is None".into()
        })?;
        require(self.reconstruction.is_none(), "reconstruction", || {
            "nothing is dropped in distillation; remove it".into()
        })
    }
}
