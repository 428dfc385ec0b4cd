//! Noise levels visited while sampling (EDM, arXiv 2206.00364, equation 5).

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
    /// Last noise level before 0.
    pub sigma_min: f64,
    /// First noise level.
    pub sigma_max: f64,
    /// Larger values spend more steps at low noise.
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
