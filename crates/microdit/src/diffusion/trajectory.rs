//! The path of a sampler, whichever schedule it comes from.

use super::{
    family::{Diffusion, Point},
    sampler::Churn,
};

/// One step of a sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Where it begins, once noise was added back.
    pub from: Point,
    /// Where it ends.
    pub to: Point,
    /// Its number in the whole trajectory, from 0.
    pub index: usize,
    /// Steps of the whole trajectory.
    pub count: usize,
    /// Noise added back before the step, if any.
    pub raise: Option<Raise>,
}

/// Noise added back before a step: the state becomes `state * x + noise * z` with standard normal `z`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raise {
    /// Multiplies the state.
    pub state: f64,
    /// Multiplies the fresh noise.
    pub noise: f64,
}

impl Step {
    /// Whether it is the last.
    pub fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }
}

/// The path of a sampler from noise to an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// What standard normal noise is multiplied by to start from.
    pub start: f64,
}

impl Trajectory {
    /// From `points` in order to `end`.
    pub fn new(points: &[Point], end: Point, start: f64) -> Self {
        let ends = points.iter().skip(1).copied().chain([end]);
        Self {
            steps: numbered(points.iter().copied().zip(ends).collect()),
            start,
        }
    }

    /// The same with noise added back before the steps (EDM algorithm 2).
    #[must_use]
    pub fn with_churn(mut self, churn: &Churn, family: &impl Diffusion) -> Self {
        for step in &mut self.steps {
            let before = step.from.level;
            let sigma = before.sigma();
            let gamma = churn.gamma(sigma, step.count);
            if gamma == 0.0 || !sigma.is_finite() {
                continue;
            }
            let raised = sigma * (1.0 + gamma);
            step.from = family.at_sigma(raised);
            let signal = step.from.level.signal;
            step.raise = Some(Raise {
                state: signal / before.signal,
                noise: signal * (raised * raised - sigma * sigma).sqrt() * churn.s_noise,
            });
        }
        self
    }

    /// The part that changes an image by `strength`, from 0 (unchanged) to 1 (drawn from noise): the last
    /// `floor(steps x strength)` steps. They start from the image at [`Step::from`] of the first.
    #[must_use]
    pub fn with_strength(mut self, strength: f64) -> Self {
        let kept = (self.steps.len() as f64 * strength) as usize;
        let skipped = self.steps.len().saturating_sub(kept);
        self.steps.drain(..skipped);
        self
    }
}

/// Steps from point to point, in order.
pub(super) fn numbered(pairs: Vec<(Point, Point)>) -> Vec<Step> {
    let count = pairs.len();
    let step = |(index, (from, to))| Step {
        from,
        to,
        index,
        count,
        raise: None,
    };
    pairs.into_iter().enumerate().map(step).collect()
}
