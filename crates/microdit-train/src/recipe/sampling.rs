//! What is drawn.

use microdit::{
    diffusion::{sampler::Solver, schedule::SigmaSchedule},
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
    /// Classifier-free guidance scale, as [`GUIDANCE`](Self::GUIDANCE); 1 is none.
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

impl SamplingConfig {
    /// How many pictures a prompt may have.
    pub const COUNTS: RangeInclusive<usize> = 1..=MAX_PICTURES;

    /// How many steps a solver may take.
    pub const STEPS: RangeInclusive<usize> = 1..=100_000;

    /// The scales of guidance: 0 leaves the prompt out, 1 guides by nothing else.
    pub const GUIDANCE: RangeInclusive<f64> = 0.0..=1000.0;

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("count", self.count, Self::COUNTS)?;
        within("every", self.every.unwrap_or(1), 1..)?;
        within("steps", self.steps, Self::STEPS)?;
        within("guidance", self.guidance, Self::GUIDANCE)?;
        let sigmas = self.sigmas.validate();
        sigmas.map_err(|error| error.inside("sigmas"))?;
        let pictures = self.pictures();
        require(pictures <= MAX_PICTURES, "count", || {
            let prompts = self.prompts.len();
            format!(
                "{prompts} prompts have {pictures} pictures; more than {MAX_PICTURES} are too many at once"
            )
        })
    }

    /// Pictures of all prompts.
    pub fn pictures(&self) -> usize {
        self.prompts.len().saturating_mul(self.count)
    }
}
