//! Second-order multistep DPM-Solver++ (arXiv 2211.01095, algorithm 2), and its SDE variant.

use super::{History, Images, Sampler};
use crate::diffusion::{family::Point, schedule::Convention, trajectory::Step};
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

/// One evaluation a step; from the second step on, the estimate of the step before makes it second order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpmSolver {
    /// Adds fresh noise in every step.
    pub sde: bool,
    /// How the change of the estimate is integrated.
    pub rule: Rule,
    /// Ends with a step of first order, as it does anyway where it ends at a clean image or has fewer than 15 steps.
    pub first_order_end: bool,
}

/// How the change of the estimate over a step is integrated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// By its value in the middle.
    #[default]
    Midpoint,
    /// Exactly, for a change linear in the logarithm of signal over noise.
    Heun,
}

/// Steps below which the last one is of first order.
const FEW: usize = 15;

impl Sampler for DpmSolver {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        let denoised = denoise(x.clone(), step.from);
        let before = history.previous.replace((denoised.clone(), step.from));
        let (from, to) = (step.from.level, step.to.level);
        // e^-h, where h is the gain in ln(signal / noise): 0 from pure noise, and to a clean image.
        let decay = match from.signal > 0.0 {
            true => to.sigma() / from.sigma(),
            false => 0.0,
        };
        let h = -decay.ln();
        let to_noise = to.noise / from.noise;
        // Factors of the state, of the estimate and of its change over the step.
        let (of_state, of_estimate, of_change) = match self.sde {
            false => {
                let estimate = to.signal * (1.0 - decay);
                let change = match self.rule {
                    Rule::Midpoint => 0.5 * estimate,
                    Rule::Heun => to.signal * ((decay - 1.0) / h + 1.0),
                };
                (to_noise, estimate, change)
            }
            true => {
                let estimate = to.signal * (1.0 - decay * decay);
                let change = match self.rule {
                    Rule::Midpoint => 0.5 * estimate,
                    Rule::Heun => to.signal * ((1.0 - (-2.0 * h).exp()) / (-2.0 * h) + 1.0),
                };
                (to_noise * decay, estimate, change)
            }
        };
        let mut next = x * of_state + denoised.clone() * of_estimate;
        let ends_plainly = to.noise == 0.0 || self.first_order_end || step.count < FEW;
        if let Some((before, point)) = before
            && !(step.is_last() && ends_plainly)
        {
            let gain = (point.level.sigma() / from.sigma()).ln();
            // From pure noise the step is infinitely long, and no change is known.
            if gain.is_finite() {
                next = next + (denoised - before) * (h / gain * of_change);
            }
        }
        let fresh = to.noise * (1.0 - decay * decay).max(0.0).sqrt();
        match self.sde && fresh > 0.0 {
            true => next + noise() * fresh,
            false => next,
        }
    }

    fn convention(&self) -> Convention {
        Convention::Dpm
    }
}
