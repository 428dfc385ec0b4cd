//! Samplers: one step from a noise level to the next, for any closure that denoises.
//!
//! A step is a sum of images with factors computed in f64 on the host; the images stay on the device in f32.

mod dpm_solver;
mod first_order;
mod heun;
mod solver;

pub use dpm_solver::{DpmSolver, Rule};
pub use first_order::{Ddim, Euler, EulerAncestral};
pub use heun::Heun;
pub use solver::Solver;

use super::{
    family::Point,
    schedule::Convention,
    trajectory::{Raise, Step, Trajectory},
};
use crate::range::{OutOfRange, require, within};
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

/// What a step may use: an image and what made it.
pub type Images<B> = Tensor<B, 4>;

/// What earlier steps leave to later ones.
#[derive(Clone, Debug)]
pub struct History<B: Backend> {
    /// Denoised estimate of the step before, and the noise level it was made at; none at the start.
    pub previous: Option<(Images<B>, Point)>,
}

impl<B: Backend> Default for History<B> {
    fn default() -> Self {
        Self { previous: None }
    }
}

/// A rule for one step. It owns nothing: what it needs from earlier steps is in the [`History`].
pub trait Sampler {
    /// The state at the end of `step`, from `x`, the state at its beginning, both `[batch, channels, height, width]`.
    ///
    /// `denoise(x, point)` is the denoised estimate; `noise()` are standard normal numbers of `x`'s shape, asked for at most
    /// once, and only by samplers that add noise.
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B>;

    /// The timestep convention it was published with.
    fn convention(&self) -> Convention;
}

/// Runs `sampler` along `trajectory` from `start`, the state at its first noise level.
///
/// `denoise(x, point)` returns the denoised estimate; `noise(step)` the standard normal numbers of that step;
/// `observe(step, state)` sees the state before each step and, with the number of steps, the result.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::diffusion::{Edm, sampler::{Heun, sample}, schedule::SigmaSchedule};
///
/// // If all data are one image of 0.25, the ideal denoiser knows it, and every path ends there.
/// let trajectory = SigmaSchedule::default().trajectory(&Edm::default(), 18);
/// let noise = Tensor::<Flex, 4>::ones([1, 1, 2, 2], &Default::default());
/// let drawn = sample(
///     &Heun,
///     &trajectory,
///     noise * trajectory.start,
///     |x, _point| x.full_like(0.25),
///     |_step| unreachable!("this sampler adds no noise"),
///     |_step, _state| (),
/// );
/// assert!((drawn - 0.25).abs().max().into_scalar() < 1e-6);
/// ```
pub fn sample<B: Backend>(
    sampler: &impl Sampler,
    trajectory: &Trajectory,
    start: Images<B>,
    mut denoise: impl FnMut(Images<B>, Point) -> Images<B>,
    mut noise: impl FnMut(usize) -> Images<B>,
    mut observe: impl FnMut(usize, &Images<B>),
) -> Images<B> {
    let mut history = History::default();
    let mut x = start;
    for (i, step) in trajectory.steps.iter().enumerate() {
        observe(i, &x);
        if let Some(Raise {
            state,
            noise: amount,
        }) = step.raise
        {
            x = x * state + noise(step.index) * amount;
        }
        let mut noise = || noise(step.index);
        x = sampler.step(x, step, &mut history, &mut denoise, &mut noise);
    }
    observe(trajectory.steps.len(), &x);
    x
}

/// Noise added back while sampling (EDM algorithm 2); the default adds none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Churn {
    /// Overall amount, spread over the steps.
    pub s_churn: f64,
    /// Lowest noise level, as noise over signal, that gets any.
    pub s_min: f64,
    /// Highest noise level that gets any; no limit if absent.
    pub s_max: Option<f64>,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self {
            s_churn: 0.0,
            s_min: 0.0,
            s_max: None,
            s_noise: 1.0,
        }
    }
}

impl Churn {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("s_churn", self.s_churn, 0.0..=1e6)?;
        within("s_min", self.s_min, 0.0..=1e6)?;
        within("s_max", self.s_max.unwrap_or(1.0), 0.0..=1e6)?;
        within("s_noise", self.s_noise, 0.0..=10.0)?;
        let highest = self.s_max.unwrap_or(f64::INFINITY);
        require(self.s_min <= highest, "s_min", || {
            format!("{} must not be above s_max {highest}", self.s_min)
        })
    }

    /// Relative increase of the noise level `sigma` in one of `steps` steps.
    pub(super) fn gamma(&self, sigma: f64, steps: usize) -> f64 {
        if sigma >= self.s_min && self.s_max.is_none_or(|highest| sigma <= highest) {
            (self.s_churn / steps as f64).min(2f64.sqrt() - 1.0)
        } else {
            0.0
        }
    }
}
