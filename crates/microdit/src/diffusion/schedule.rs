//! Noise levels visited while sampling (EDM, arXiv 2206.00364, equation 5).

use crate::range::{OutOfRange, require, within};
use serde::{Deserialize, Serialize};

/// Noise levels from `sigma_max` to `sigma_min`, evenly spaced in `sigma^(1/rho)`.
///
/// ```
/// let sigmas = microdit::diffusion::schedule::SigmaSchedule::default().sigmas(30);
/// assert_eq!((sigmas[0], sigmas.len(), sigmas[30]), (80.0, 31, 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigmaSchedule {
    /// Last noise level before 0, 1e-6 to 1e6, below `sigma_max`.
    pub sigma_min: f64,
    /// First noise level, 1e-6 to 1e6.
    pub sigma_max: f64,
    /// Larger values spend more steps at low noise; 1 to 1000.
    pub rho: f64,
}

impl Default for SigmaSchedule {
    fn default() -> Self {
        Self {
            sigma_min: 0.002,
            sigma_max: 80.0,
            rho: 7.0,
        }
    }
}

impl SigmaSchedule {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("sigma_min", self.sigma_min, 1e-6..=1e6)?;
        within("sigma_max", self.sigma_max, 1e-6..=1e6)?;
        within("rho", self.rho, 1.0..=1e3)?;
        require(self.sigma_min < self.sigma_max, "sigma_min", || {
            let (min, max) = (self.sigma_min, self.sigma_max);
            format!("{min} must be below sigma_max {max}")
        })
    }

    /// `steps` noise levels, falling, followed by 0.
    pub fn sigmas(&self, steps: usize) -> Vec<f64> {
        let (max, min) = (
            self.sigma_max.powf(1.0 / self.rho),
            self.sigma_min.powf(1.0 / self.rho),
        );
        let last = steps.saturating_sub(1).max(1) as f64;
        (0..steps)
            .map(|i| (max + i as f64 / last * (min - max)).powf(self.rho))
            .enumerate()
            // The first level is exact, not a power of a root.
            .map(|(i, sigma)| if i == 0 { self.sigma_max } else { sigma })
            .chain([0.0])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_range_fall_and_are_finite() {
        for sigma_min in [1e-6, 0.002] {
            for rho in [1.0, 7.0, 1e3] {
                let schedule = SigmaSchedule {
                    sigma_min,
                    sigma_max: 1e6,
                    rho,
                };
                schedule.validate().unwrap();
                let levels = schedule.sigmas(9);
                let fall = levels.windows(2).all(|pair| pair[0] > pair[1]);
                assert!(fall && levels[0] == 1e6, "{schedule:?}: {levels:?}");
            }
        }
        let default = SigmaSchedule::default();
        let reversed = SigmaSchedule {
            sigma_min: 90.0,
            ..default
        };
        let flat = SigmaSchedule {
            rho: 0.5,
            ..default
        };
        assert!(reversed.validate().is_err() && flat.validate().is_err());
    }
}
