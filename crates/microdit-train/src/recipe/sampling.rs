//! What is drawn, and how.

use super::load::changed;
use crate::error::TrainError;
use microdit::{
    diffusion::{
        DiffusionConfig, Family, Guidance, Interval,
        sampler::{Churn, Sampler as _, Solver},
        schedule::ScheduleConfig,
        trajectory::Trajectory,
    },
    range::{OutOfRange, require, within},
};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Most pictures drawn at once.
const MAX_PICTURES: usize = 1_000_000;

/// What is drawn when training ends, and the defaults of `microdit sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// One picture, or `count` of them, each.
    pub prompts: Vec<String>,
    /// Pictures per prompt, as [`COUNTS`](Self::COUNTS); those of all prompts are at most a million.
    #[serde(default = "one")]
    pub count: usize,
    /// Steps of training between grids, at least 1; only one at the end if absent.
    #[serde(default)]
    pub every: Option<u64>,
    /// Steps of the solver, as [`STEPS`](Self::STEPS).
    #[serde(default = "thirty")]
    pub steps: usize,
    /// Classifier-free guidance scale, as [`Guidance::SCALES`]; 1 is none.
    #[serde(default = "five")]
    pub guidance: f64,
    /// Share of the guided prediction that is brought back to the standard deviation of the unguided one, 0 to 1.
    #[serde(default)]
    pub rescale: f64,
    /// Noise over signal within which guidance acts; everywhere if absent.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// What pictures are guided away from, in place of no prompt at all.
    #[serde(default)]
    pub negative: Option<String>,
    /// Solver.
    #[serde(default)]
    pub solver: Solver,
    /// Noise levels; those of the diffusion's own kind if absent.
    #[serde(default)]
    pub schedule: Option<ScheduleConfig>,
    /// Noise added back before the steps.
    #[serde(default)]
    pub churn: Churn,
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
            rescale: 0.0,
            interval: None,
            negative: None,
            solver: Solver::default(),
            schedule: None,
            churn: Churn::default(),
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

impl SamplingConfig {
    /// How many pictures a prompt may have.
    pub const COUNTS: RangeInclusive<usize> = 1..=MAX_PICTURES;

    /// How many steps a solver may take.
    pub const STEPS: RangeInclusive<usize> = 1..=100_000;

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("count", self.count, Self::COUNTS)?;
        within("every", self.every.unwrap_or(1), 1..)?;
        within("steps", self.steps, Self::STEPS)?;
        within("guidance", self.guidance, Guidance::SCALES)?;
        self.guidance().validate()?;
        let inside = |part: &'static str| move |error: OutOfRange| error.inside(part);
        self.solver.validate().map_err(inside("solver"))?;
        self.churn.validate().map_err(inside("churn"))?;
        if let Some(schedule) = &self.schedule {
            schedule.validate().map_err(inside("schedule"))?;
        }
        let pictures = self.pictures();
        require(pictures <= MAX_PICTURES, "count", || {
            let prompts = self.prompts.len();
            format!(
                "{prompts} prompts have {pictures} pictures; more than {MAX_PICTURES} are too many at once"
            )
        })
    }

    /// The same with other values, each as `KEY=VALUE` in a recipe's syntax, such as `solver=Ddim(eta: 0.5)`.
    ///
    /// # Errors
    /// Keys that do not exist, and values of another type.
    pub fn with(&self, settings: &[String]) -> Result<Self, TrainError> {
        changed(self, settings)
    }

    /// How predictions are guided.
    pub fn guidance(&self) -> Guidance {
        Guidance {
            scale: self.guidance,
            rescale: self.rescale,
            interval: self.interval,
        }
    }

    /// Checks that a student can draw like this, which takes one step and no guidance.
    ///
    /// # Errors
    /// The first key that says something else.
    pub fn validate_one_step(&self) -> Result<(), OutOfRange> {
        require(self.steps == 1, "steps", || {
            format!("{}; a student draws in 1", self.steps)
        })?;
        require(self.guidance == 1.0, "guidance", || {
            format!("{}; a student draws without, which is 1", self.guidance)
        })?;
        require(self.negative.is_none(), "negative", || {
            "a student draws without guidance; leave it out".into()
        })
    }

    /// The same for a student, which draws in one step without guidance.
    #[must_use]
    pub fn one_step(self) -> Self {
        Self {
            steps: 1,
            guidance: 1.0,
            negative: None,
            ..self
        }
    }

    /// Checks that pictures of a diffusion can be drawn like this.
    ///
    /// # Errors
    /// A schedule of another kind of diffusion.
    pub fn validate_for(&self, diffusion: &DiffusionConfig) -> Result<(), OutOfRange> {
        let schedule = self.schedule.as_ref();
        let serves = schedule.is_none_or(|schedule| schedule.serves(diffusion));
        require(serves, "schedule", || {
            "is of another kind than diffusion: Timesteps go with Vp, Shift with FlowMatching, Sigmas with all".into()
        })
    }

    /// The path of its steps through `family`.
    pub fn trajectory(&self, family: &Family) -> Trajectory {
        let schedule = self.schedule.unwrap_or_else(|| ScheduleConfig::of(family));
        let trajectory = schedule.trajectory(family, self.solver.convention(), self.steps);
        trajectory.with_churn(&self.churn, family)
    }

    /// Pictures of all prompts.
    pub fn pictures(&self) -> usize {
        self.prompts.len().saturating_mul(self.count)
    }
}
