//! EDM (arXiv 2206.00364): preconditioning, noise distribution and weighting (section 5 and table 1).

use super::family::{Diffusion, Level, Point, Row};
use crate::{
    range::{OutOfRange, within},
    rng::Stream,
};
use serde::{Deserialize, Serialize};

/// Parameters of the diffusion.
///
/// ```
/// use microdit::diffusion::{Diffusion, Edm};
///
/// let edm = Edm::default();
/// assert_eq!(edm.sigma(0.0), (-0.6f32).exp());
/// // Almost clean: the input is the answer. Almost pure noise: the network is.
/// let c_skip = |sigma| edm.row(edm.at_sigma(sigma)).c_skip;
/// assert!(c_skip(1e-3) > 0.999 && c_skip(1e3) < 1e-5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edm {
    /// Standard deviation of the clean latents, 0.001 to 1000.
    pub sigma_data: f64,
    /// Mean of `ln sigma` in training, -10 to 10.
    pub p_mean: f64,
    /// Standard deviation of `ln sigma` in training, 0 to 4.
    pub p_std: f64,
}

impl Default for Edm {
    /// The values of MicroDiT's first phases.
    fn default() -> Self {
        Self {
            sigma_data: 0.9,
            p_mean: -0.6,
            p_std: 1.2,
        }
    }
}

impl Edm {
    /// Checks the ranges: with any values in them, the noise levels and weights of training are finite numbers in f32.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("sigma_data", self.sigma_data, 1e-3..=1e3)?;
        within("p_mean", self.p_mean, -10.0..=10.0)?;
        within("p_std", self.p_std, 0.0..=4.0)
    }

    /// Noise level of a standard normal draw: `exp(p_std n + p_mean)`.
    pub fn sigma(&self, normal: f32) -> f32 {
        (self.p_std as f32 * normal + self.p_mean as f32).exp()
    }
}

impl Diffusion for Edm {
    fn draw_time(&self, random: &mut Stream) -> f64 {
        f64::from(self.sigma(random.normal(1)[0]))
    }

    fn at_time(&self, sigma: f64) -> Point {
        Point {
            time: sigma,
            level: Level {
                signal: 1.0,
                noise: sigma,
            },
        }
    }

    fn at_sigma(&self, sigma: f64) -> Point {
        self.at_time(sigma)
    }

    /// `c_noise` is `ln(sigma) / 4`. The weight of table 1 holds for the denoised estimate; in the space of the output it is 1.
    fn row(&self, point: Point) -> Row {
        let (sigma, data) = (point.time, self.sigma_data);
        let total = sigma * sigma + data * data;
        let root = total.sqrt();
        Row {
            level: point.level,
            c_in: 1.0 / root,
            c_skip: data * data / total,
            c_out: sigma * data / root,
            c_noise: sigma.ln() / 4.0,
            target_clean: sigma / (data * root),
            target_noise: -data / root,
            weight: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_target_have_unit_variance() {
        // EDM appendix B.6.
        let edm = Edm::default();
        for sigma in [0.002, 0.5, 80.0] {
            let row = edm.row(edm.at_sigma(sigma));
            let data = edm.sigma_data.powi(2);
            let input = row.c_in.powi(2) * (data + sigma * sigma);
            let target = row.target_clean.powi(2) * data + row.target_noise.powi(2);
            assert!((input - 1.0).abs() < 1e-12 && (target - 1.0).abs() < 1e-12);
        }
    }

    /// No draw lies beyond seven standard deviations: the chance is one in 10^12.
    #[test]
    fn everything_in_range_is_finite_in_f32() {
        for p_mean in [-10.0, 10.0] {
            for sigma_data in [1e-3, 1e3] {
                let edm = Edm {
                    sigma_data,
                    p_mean,
                    p_std: 4.0,
                };
                edm.validate().unwrap();
                for normal in [-7.0, 0.0, 7.0] {
                    let row = edm.row(edm.at_sigma(f64::from(edm.sigma(normal))));
                    let all = [row.c_skip, row.c_out, row.c_in, row.c_noise, row.weight];
                    let all = all.map(|x| x as f32);
                    assert!(all.iter().all(|x| x.is_finite()), "{edm:?}: {row:?}");
                    assert!(all[1] > 0.0 && all[2] > 0.0, "{edm:?}: {row:?}");
                }
            }
        }
        let edm = Edm::default();
        for broken in [
            Edm {
                sigma_data: 0.0,
                ..edm
            },
            Edm {
                p_mean: f64::NAN,
                ..edm
            },
            Edm { p_std: -1.0, ..edm },
        ] {
            assert!(broken.validate().is_err(), "{broken:?}");
        }
    }
}
