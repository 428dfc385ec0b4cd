//! Flow matching along straight paths (arXiv 2210.02747, 2209.03003), with the time densities of Stable Diffusion 3 (arXiv 2403.03206).

use super::family::{Diffusion, Level, Point, Row};
use crate::{
    range::{OutOfRange, above, within},
    rng::Stream,
};
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_PI_2, PI};

/// `x = (1 - t) clean + t eps`, and the network predicts the velocity `eps - clean`.
///
/// ```
/// use microdit::diffusion::{Diffusion, FlowMatching};
///
/// let flow = FlowMatching::default();
/// let half = flow.at_time(0.5).level;
/// assert_eq!((half.signal, half.noise, half.sigma()), (0.5, 0.5, 1.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowMatching {
    /// How times are drawn in training, before the shift.
    pub density: Density,
    /// Moves times towards noise where above 1: `shift u / (1 + (shift - 1) u)`. Larger images need more.
    pub shift: f64,
    /// Weight of the squared error of the velocity.
    pub weighting: FlowWeighting,
}

/// Density of the training times in `0..1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Density {
    /// The logistic function of a normal draw (SD3, equation 19).
    LogitNormal {
        /// Mean of the normal draw.
        mean: f64,
        /// Its standard deviation.
        std: f64,
    },
    /// All times equally likely.
    Uniform,
    /// With heavy tails (SD3, equation 20).
    Mode {
        /// From -1, all weight at both ends, to about 1.75, in the middle; 0 is uniform.
        scale: f64,
    },
}

/// Weight of a time in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowWeighting {
    /// 1.
    #[default]
    Uniform,
    /// `1 / t^2`.
    SigmaSqrt,
    /// `2 / (pi (1 - 2 t + 2 t^2))`.
    CosMap,
}

impl Default for FlowMatching {
    /// The values of Stable Diffusion 3 at its base resolution.
    fn default() -> Self {
        Self {
            density: Density::LogitNormal {
                mean: 0.0,
                std: 1.0,
            },
            shift: 1.0,
            weighting: FlowWeighting::Uniform,
        }
    }
}

/// `shift u / (1 + (shift - 1) u)`.
pub(super) fn shifted(u: f64, shift: f64) -> f64 {
    shift * u / (1.0 + (shift - 1.0) * u)
}

impl FlowMatching {
    /// Checks the ranges: with any values in them, times lie in `0..=1` and grow with their draw.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self.density {
            Density::LogitNormal { mean, std } => {
                within("density.mean", mean, -10.0..=10.0)?;
                within("density.std", std, above(0.0, 10.0))?;
            }
            Density::Uniform => {}
            // Beyond these, SD3's equation 20 is no longer monotonic.
            Density::Mode { scale } => {
                within("density.scale", scale, -1.0..=2.0 / (PI - 2.0))?;
            }
        }
        within("shift", self.shift, above(0.0, 1e3))
    }

    /// The training time of a draw from the density's own source: standard normal for [`Density::LogitNormal`], uniform in
    /// `0..1` for the others.
    pub fn time(&self, draw: f64) -> f64 {
        let u = match self.density {
            Density::LogitNormal { mean, std } => 1.0 / (1.0 + (-(mean + std * draw)).exp()),
            Density::Uniform => draw,
            Density::Mode { scale } => {
                1.0 - draw - scale * ((FRAC_PI_2 * draw).cos().powi(2) - 1.0 + draw)
            }
        };
        shifted(u, self.shift)
    }
}

impl Diffusion for FlowMatching {
    fn draw_time(&self, random: &mut Stream) -> f64 {
        let draw = match self.density {
            Density::LogitNormal { .. } => random.normal(1)[0],
            // In `(0, 1]`: without noise there is nothing to learn, and `SigmaSqrt` would be infinite.
            Density::Uniform | Density::Mode { .. } => 1.0 - random.uniform(1)[0],
        };
        self.time(f64::from(draw))
    }

    fn at_time(&self, t: f64) -> Point {
        Point {
            time: t,
            level: Level {
                signal: 1.0 - t,
                noise: t,
            },
        }
    }

    fn at_sigma(&self, sigma: f64) -> Point {
        self.at_time(sigma / (1.0 + sigma))
    }

    /// `c_noise` is `1000 t`, the range that sinusoidal time embeddings are made for.
    fn row(&self, point: Point) -> Row {
        let t = point.time;
        Row {
            level: point.level,
            c_in: 1.0,
            c_skip: 1.0,
            c_out: -t,
            c_noise: 1000.0 * t,
            target_clean: -1.0,
            target_noise: 1.0,
            weight: match self.weighting {
                FlowWeighting::Uniform => 1.0,
                FlowWeighting::SigmaSqrt => t.powi(-2),
                FlowWeighting::CosMap => 2.0 / (PI * (1.0 - 2.0 * t + 2.0 * t * t)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_between_image_and_noise_and_grow_with_the_draw() {
        let bounded = |scale| Density::Mode { scale };
        for density in [
            Density::Uniform,
            bounded(-1.0),
            bounded(0.8),
            bounded(2.0 / (PI - 2.0)),
        ] {
            for shift in [1e-3, 1.0, 3.0, 1e3] {
                let flow = FlowMatching {
                    density,
                    shift,
                    ..FlowMatching::default()
                };
                flow.validate().unwrap();
                let times: Vec<f64> = (0..=1000)
                    .map(|i| flow.time(f64::from(i) / 1000.0))
                    .collect();
                let rising = times.is_sorted() || times.iter().rev().is_sorted();
                let inside = times.iter().all(|t| (-1e-12..=1.0 + 1e-12).contains(t));
                assert!(rising && inside, "{flow:?}");
            }
        }
        for density in [
            bounded(-1.1),
            bounded(2.0),
            Density::LogitNormal {
                mean: 0.0,
                std: 0.0,
            },
        ] {
            let flow = FlowMatching {
                density,
                ..FlowMatching::default()
            };
            assert!(flow.validate().is_err(), "{flow:?}");
        }
    }
}
