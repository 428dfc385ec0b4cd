//! First-order samplers. With the noise `eps = (x - signal x0) / noise` of the state, all of them are
//! `x' = signal' x0 + sqrt(noise'^2 - up^2) eps + up z`, and differ in the fresh noise `up` they add.

use super::{History, Images, Sampler};
use crate::{
    diffusion::{
        family::{Level, Point},
        schedule::Convention,
        trajectory::Step,
    },
    range::{OutOfRange, above, within},
};
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

/// Euler's method for the probability-flow ODE (EDM algorithm 1 without its correction): one evaluation a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Euler;

/// Euler's method down to a lower noise level, and fresh noise up again (k-diffusion's Euler ancestral).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EulerAncestral;

/// DDIM (arXiv 2010.02502, equation 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ddim {
    /// Share of the fresh noise that DDPM would add, in `0..=1`; 0 adds none.
    pub eta: f64,
    /// Clean images lie in `-clip..=clip`; their estimates are clipped to it.
    pub clip: Option<f64>,
}

impl Ddim {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("eta", self.eta, 0.0..=1.0)?;
        within("clip", self.clip.unwrap_or(1.0), above(0.0, 1e6))
    }
}

/// What the state at the end of a step is made of: factors of the state, of the denoised estimate and of fresh noise.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Factors {
    state: f64,
    denoised: f64,
    noise: f64,
}

/// `eta` is the share of DDPM's fresh noise: its variance is `sigma'^2 (sigma^2 - sigma'^2) / sigma^2` in units of the signal.
fn factors(from: Level, to: Level, eta: f64) -> Factors {
    // Nothing is left of the image where sigma is infinite, and all noise may be fresh.
    let ratio = match from.signal > 0.0 {
        true => to.sigma() / from.sigma(),
        false => 0.0,
    };
    let fresh = eta * to.noise * (1.0 - ratio * ratio).max(0.0).sqrt();
    let state = (to.noise * to.noise - fresh * fresh).max(0.0).sqrt() / from.noise;
    Factors {
        state,
        denoised: to.signal - from.signal * state,
        noise: fresh,
    }
}

/// A step of first order.
pub(super) fn first_order<B: Backend>(
    x: Images<B>,
    step: &Step,
    eta: f64,
    clip: Option<f64>,
    denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
    noise: &mut dyn FnMut() -> Images<B>,
) -> Images<B> {
    let denoised = denoise(x.clone(), step.from);
    let factors = factors(step.from.level, step.to.level, eta);
    let next = match clip {
        // The noise stays as it was predicted.
        Some(clip) => {
            let signal = step.to.level.signal;
            let clipped = denoised.clone().clamp(-clip, clip) * signal;
            x * factors.state + denoised * (factors.denoised - signal) + clipped
        }
        None => x * factors.state + denoised * factors.denoised,
    };
    match factors.noise > 0.0 {
        true => next + noise() * factors.noise,
        false => next,
    }
}

impl Sampler for Euler {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        _history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        first_order(x, step, 0.0, None, denoise, noise)
    }

    fn convention(&self) -> Convention {
        Convention::Euler
    }
}

impl Sampler for EulerAncestral {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        _history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        first_order(x, step, 1.0, None, denoise, noise)
    }

    fn convention(&self) -> Convention {
        Convention::Euler
    }
}

impl Sampler for Ddim {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        _history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        first_order(x, step, self.eta, self.clip, denoise, noise)
    }

    fn convention(&self) -> Convention {
        Convention::Ddim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever share of the noise is fresh, its variance at the end is that of the level.
    #[test]
    fn the_noise_at_the_end_has_the_variance_of_its_level() {
        let levels = [
            Level {
                signal: 0.0,
                noise: 1.0,
            },
            Level::variance_preserving(14.6),
            Level::variance_preserving(0.3),
            Level::CLEAN,
        ];
        for pair in levels.windows(2) {
            for eta in [0.0, 0.4, 1.0] {
                let found = factors(pair[0], pair[1], eta);
                // A state of the first level, whose estimate is the clean image itself.
                let signal = found.state * pair[0].signal + found.denoised;
                let variance = (found.state * pair[0].noise).powi(2) + found.noise.powi(2);
                assert!((signal - pair[1].signal).abs() < 1e-12);
                assert!((variance - pair[1].noise.powi(2)).abs() < 1e-12);
            }
        }
    }
}
