//! Settings of a run as a whole.

use super::{EncoderConfig, EvaluationConfig, SamplingConfig, file::validate_name};
use microdit::range::{OutOfRange, require, within};
use serde::{Deserialize, Serialize};

/// Settings of the run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run, the first part of its default directory: 1 to 100 letters, digits, spaces, `-`, `_`, `+` and dots,
    /// but no dot first.
    pub name: String,
    /// Seed of everything random: any number of 64 bits.
    pub seed: u64,
    /// What is drawn at the end.
    pub sampling: SamplingConfig,
    /// What turns prompts and latents of a network trained on pre-computed ones into pictures.
    #[serde(default)]
    pub encoders: EncoderConfig,
    /// Steps between lines of the log, at least 1.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoints: CheckpointConfig,
    /// Steps in a row without a finite gradient after which the run stops, at least 1.
    #[serde(default = "ten")]
    pub max_non_finite_steps: u64,
    /// What is measured while it is trained; nothing if absent.
    #[serde(default)]
    pub evaluation: Option<EvaluationConfig>,
    /// What the run may cost.
    #[serde(default)]
    pub budget: Budget,
}

impl RunConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        validate_name(&self.name, true)?;
        within("log_every", self.log_every, 1..)?;
        within("max_non_finite_steps", self.max_non_finite_steps, 1..)?;
        let inside = |part| move |error: OutOfRange| error.inside(part);
        self.sampling.validate().map_err(inside("sampling"))?;
        self.checkpoints.validate().map_err(inside("checkpoints"))?;
        self.budget.validate().map_err(inside("budget"))?;
        if let Some(evaluation) = &self.evaluation {
            evaluation.validate().map_err(inside("evaluation"))?;
        }
        Ok(())
    }
}

/// What a run may cost; when it is spent, the run stops with its state saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Hours of the whole machine, 0 to 10^9.
    pub hours: Option<f64>,
    /// Dollars, 0 to 10^12.
    pub usd: Option<f64>,
    /// Price of one device for an hour, in dollars, 0 to 10^6; `usd` needs it.
    pub usd_per_gpu_hour: Option<f64>,
}

impl Budget {
    fn validate(&self) -> Result<(), OutOfRange> {
        for (key, value, most) in [
            ("hours", self.hours, 1e9),
            ("usd", self.usd, 1e12),
            ("usd_per_gpu_hour", self.usd_per_gpu_hour, 1e6),
        ] {
            if let Some(value) = value {
                within(key, value, 0.0..=most)?;
            }
        }
        let priced = self.usd.is_none() || self.usd_per_gpu_hour.is_some();
        require(priced, "usd_per_gpu_hour", || {
            "a budget in dollars needs the price of a device".into()
        })
    }

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
    /// Steps between checkpoints, at least 1.
    pub every: u64,
    /// Newest checkpoints kept, at least 1.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps, at least 1, are kept for good.
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

impl CheckpointConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        within("every", self.every, 1..)?;
        within("keep", self.keep, 1..)?;
        within("milestones", self.milestones.unwrap_or(1), 1..)
    }
}
