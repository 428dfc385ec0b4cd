//! Schedules of variance-preserving diffusion: how much noise each timestep adds. Computed in f32 in the order PyTorch does,
//! so that tables equal those that published weights were trained with.

use crate::range::{OutOfRange, above, within};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// Variance of the noise added from one timestep to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Betas {
    /// Evenly spaced (DDPM).
    Linear {
        /// At the first timestep.
        start: f64,
        /// At the last.
        end: f64,
    },
    /// Squares of evenly spaced numbers (latent diffusion).
    ScaledLinear {
        /// At the first timestep.
        start: f64,
        /// At the last.
        end: f64,
    },
    /// The signal's share falls as a squared cosine (arXiv 2102.09672, equation 17); each beta is at most 0.999.
    Cosine,
}

impl Betas {
    /// DDPM's values.
    pub const LINEAR: Self = Self::Linear {
        start: 1e-4,
        end: 0.02,
    };
    /// Stable Diffusion's values.
    pub const SCALED_LINEAR: Self = Self::ScaledLinear {
        start: 0.00085,
        end: 0.012,
    };

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(self) -> Result<(), OutOfRange> {
        let (Self::Linear { start, end } | Self::ScaledLinear { start, end }) = self else {
            return Ok(());
        };
        within("betas.start", start, above(0.0, 0.999))?;
        within("betas.end", end, above(0.0, 0.999))
    }

    /// The betas of `count` timesteps.
    pub fn values(self, count: usize) -> Vec<f32> {
        match self {
            Self::Linear { start, end } => linspace(start as f32, end as f32, count),
            Self::ScaledLinear { start, end } => {
                let roots = linspace(start.sqrt() as f32, end.sqrt() as f32, count);
                roots.into_iter().map(|root| root * root).collect()
            }
            Self::Cosine => {
                let share = |time: f64| ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                let beta = |i: usize| {
                    let (before, after) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
                    (1.0 - share(after) / share(before)).min(0.999) as f32
                };
                (0..count).map(beta).collect()
            }
        }
    }
}

/// Evenly spaced numbers as `torch.linspace` rounds them: from both ends towards the middle.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count.max(2) - 1) as f32;
    let value = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => step.mul_add(-((count - 1 - i) as f32), end),
    };
    (0..count).map(value).collect()
}

/// The betas that are used: `betas`, or with `zero_terminal` those that leave nothing of the image at the last timestep.
pub(super) fn final_betas(betas: Vec<f32>, zero_terminal: bool) -> Vec<f32> {
    match zero_terminal {
        true => zero_terminal_betas(&product(&betas)),
        false => betas,
    }
}

/// The signal's share of the variance at every timestep: the product of `1 - beta` up to it, kept in f64 as PyTorch does on a
/// CPU.
pub(super) fn product(betas: &[f32]) -> Vec<f32> {
    let mut product = 1f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// The betas whose signal starts as before and ends at zero (arXiv 2305.08891, algorithm 1).
fn zero_terminal_betas(shares: &[f32]) -> Vec<f32> {
    let signals: Vec<f32> = shares.iter().map(|share| share.sqrt()).collect();
    let (Some(&first), Some(&last)) = (signals.first(), signals.last()) else {
        return Vec::new();
    };
    let factor = first / (first - last);
    let shares: Vec<f32> = signals
        .iter()
        .map(|signal| ((signal - last) * factor).powi(2))
        .collect();
    let ratios = shares.windows(2).map(|pair| pair[1] / pair[0]);
    let kept = std::iter::once(shares[0]).chain(ratios);
    kept.map(|kept| 1.0 - kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_terminal_schedule_keeps_its_start_and_loses_its_end() {
        let betas = Betas::SCALED_LINEAR.values(1000);
        let before = product(&betas);
        let after = product(&final_betas(betas, true));
        assert_eq!((after[0], after[999]), (before[0], 0.0));
        assert!(after.windows(2).all(|pair| pair[1] < pair[0]));
    }

    /// The values that published weights were trained with.
    #[test]
    fn stable_diffusions_table() {
        let shares = product(&Betas::SCALED_LINEAR.values(1000));
        for (timestep, share) in [
            (20, 0.981_314_36),
            (499, 0.277_669_65),
            (749, 0.056_623_49),
            (980, 0.005_843_78),
            (999, 0.004_660_10),
        ] {
            assert!((shares[timestep] - share).abs() < 1e-6, "{timestep}");
        }
    }
}
