//! How a one-step student is distilled.

use super::{Distill, FadingWeight};
use crate::{
    diffusion::{DiffusionConfig, Guidance},
    net::Denoiser,
    nn::lora::{LoraConfig, LoraConfigError},
    ops::DitBackend,
    range::{OutOfRange, require, within},
};
use serde::{Deserialize, Serialize};

/// How a student is distilled. The defaults are the published ones of SwiftBrush.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// The diffusion the teacher was trained with.
    pub diffusion: DiffusionConfig,
    /// Guidance of teacher and critic, 0 to 1000; 1 is none.
    pub guidance: f64,
    /// Between which timesteps of variance-preserving diffusion teacher and critic are compared; other families draw noise levels as
    /// in training.
    pub timesteps: TimestepRange,
    /// How often the critic learns without captions, 0 to 1; a step drops all of them or none.
    pub caption_drop: f64,
    /// The critic: adapters of the teacher. Without one the teacher is compared with the noise that was added (score distillation sampling,
    /// DreamFusion, arXiv 2209.14988), which needs strong guidance and makes images alike.
    pub critic: Option<LoraConfig>,
    /// Weight of the [distance](super::regression_loss) between the student's images and the data's of the same captions; nothing if absent.
    pub regression: Option<FadingWeight>,
}

/// A range of timesteps, as shares of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestepRange {
    /// Where it begins, at least 0 and below 1.
    pub from: f64,
    /// Where it ends, which is excluded; above `from`, and at most 1.
    pub to: f64,
}

impl TimestepRange {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("from", self.from, 0.0..1.0)?;
        within("to", self.to, 0.0..=1.0)?;
        require(self.from < self.to, "to", || {
            format!("{} must be above from, which is {}", self.to, self.from)
        })
    }
}

impl Default for TimestepRange {
    /// SwiftBrush's: timesteps 20 to 980 of 1000.
    fn default() -> Self {
        Self {
            from: 0.02,
            to: 0.981,
        }
    }
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            diffusion: DiffusionConfig::default(),
            guidance: 4.5,
            timesteps: TimestepRange::default(),
            caption_drop: 0.1,
            critic: Some(LoraConfig {
                rank: 64,
                alpha: Some(108.0),
                ..LoraConfig::default()
            }),
            regression: None,
        }
    }
}

impl DistillConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let inside = |part: &'static str| move |error: OutOfRange| error.inside(part);
        self.diffusion.validate().map_err(inside("diffusion"))?;
        within("guidance", self.guidance, Guidance::SCALES)?;
        self.timesteps.validate().map_err(inside("timesteps"))?;
        within("caption_drop", self.caption_drop, 0.0..=1.0)?;
        if let Some(regression) = &self.regression {
            regression.validate().map_err(inside("regression"))?;
        }
        match &self.critic {
            Some(critic) => critic.validate().map_err(inside("critic")),
            None => Ok(()),
        }
    }

    /// The task of a student, which may have any weights, and of its teacher, which is not trained any more. The critic's adapters
    /// are drawn from `seed`.
    ///
    /// # Errors
    /// The first field outside of its range, and patterns of layers that the teacher does not have.
    pub fn init<B: DitBackend, D: Denoiser<B>>(
        &self,
        student: D,
        teacher: D,
        seed: u64,
        device: &B::Device,
    ) -> Result<Distill<B, D>, LoraConfigError> {
        self.validate()?;
        let family = self.diffusion.init()?;
        let critic = self.critic.as_ref();
        let critic = critic.map(|critic| critic.init(&teacher, seed, device));
        let critic = critic.transpose()?;
        Ok(Distill::new(student, teacher, critic, family, self.clone()))
    }
}
