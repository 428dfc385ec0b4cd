//! EDM (arXiv 2206.00364): preconditioning, noise distribution, weighting and loss (section 5 and table 1).

use crate::{
    embed::patchify,
    mask::TokenMask,
    ops::DitBackend,
    range::{OutOfRange, within},
};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

/// Parameters of the diffusion.
///
/// ```
/// use microdit::diffusion::edm::Edm;
///
/// let edm = Edm::default();
/// assert_eq!(edm.sigma(0.0), (-0.6f32).exp());
/// // Almost clean: the input is the answer. Almost pure noise: the network is.
/// assert!(edm.precondition(1e-3).c_skip > 0.999 && edm.precondition(1e3).c_skip < 1e-5);
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

/// Preconditioning of one noise level (EDM table 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconditioning {
    /// Multiplies the noisy image in the output.
    pub c_skip: f32,
    /// Multiplies the network's output.
    pub c_out: f32,
    /// Multiplies the noisy image in the input.
    pub c_in: f32,
    /// What the network is told of the noise level: `ln(sigma) / 4`.
    pub c_noise: f32,
    /// Weight of the squared error in the loss, `1 / c_out^2`.
    pub weight: f32,
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

    /// Preconditioning at `sigma > 0`.
    pub fn precondition(&self, sigma: f32) -> Preconditioning {
        let (sigma, data) = (f64::from(sigma), self.sigma_data);
        let total = sigma * sigma + data * data;
        Preconditioning {
            c_skip: (data * data / total) as f32,
            c_out: (sigma * data / total.sqrt()) as f32,
            c_in: (1.0 / total.sqrt()) as f32,
            c_noise: (sigma.ln() / 4.0) as f32,
            weight: (total / (sigma * data).powi(2)) as f32,
        }
    }

    /// Denoised estimate `c_skip x + c_out F(c_in x, c_noise)` at one noise level for the whole batch:
    /// `x` `[batch, channels, height, width]`; `network` gets the scaled input and `c_noise` `[1]`.
    pub fn denoise<B: Backend>(
        &self,
        x: Tensor<B, 4>,
        sigma: f64,
        network: impl FnOnce(Tensor<B, 4>, Tensor<B, 1>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let c = self.precondition(sigma as f32);
        let c_noise = Tensor::from_data([c.c_noise], &x.device());
        network(x.clone() * c.c_in, c_noise) * c.c_out + x * c.c_skip
    }

    /// Training loss of each sample, `[batch]`: the weighted squared error of the denoised estimate, averaged over the
    /// kept patches.
    ///
    /// `clean` and `noise` `[batch, channels, height, width]`, one `sigma` per sample; `network` gets the scaled noisy
    /// latents and `c_noise` `[batch]`, and returns the kept tokens `[batch, kept, patch x patch x channels]`.
    pub fn loss<B: DitBackend>(
        &self,
        clean: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        sigma: &[f32],
        patch_size: usize,
        mask: Option<&TokenMask<B>>,
        network: impl FnOnce(Tensor<B, 4>, Tensor<B, 1>) -> Tensor<B, 3>,
    ) -> Tensor<B, 1> {
        let device = clean.device();
        let batch = sigma.len();
        let column = |of: fn(&Preconditioning) -> f32| {
            let values: Vec<f32> = sigma.iter().map(|&s| of(&self.precondition(s))).collect();
            Tensor::<B, 1>::from_data(TensorData::new(values, [batch]), &device)
        };
        let kept = |x| {
            let tokens = patchify(x, patch_size);
            match mask {
                Some(mask) => mask.gather(tokens),
                None => tokens,
            }
        };
        let sigma = Tensor::<B, 1>::from_data(TensorData::new(sigma.to_vec(), [batch]), &device);
        let noisy = clean.clone() + noise * sigma.reshape([batch, 1, 1, 1]);
        let c_in = column(|c| c.c_in).reshape([batch, 1, 1, 1]);
        let output = network(noisy.clone() * c_in, column(|c| c.c_noise));
        let c_skip = column(|c| c.c_skip).reshape([batch, 1, 1]);
        let c_out = column(|c| c.c_out).reshape([batch, 1, 1]);
        let denoised = kept(noisy) * c_skip + output * c_out;
        let error = (denoised - kept(clean)).powi_scalar(2);
        error.mean_dims(&[1, 2]).reshape([batch]) * column(|c| c.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn preconditioned_input_and_target_have_unit_variance() {
        // EDM appendix B.6: var(c_in (y + n)) = 1 and weight = 1 / c_out^2.
        let edm = Edm::default();
        for sigma in [0.002f32, 0.5, 80.0] {
            let c = edm.precondition(sigma);
            let total = f64::from(sigma).powi(2) + edm.sigma_data.powi(2);
            assert!((f64::from(c.c_in).powi(2) * total - 1.0).abs() < 1e-6);
            assert!((c.weight * c.c_out * c.c_out - 1.0).abs() < 1e-5);
        }
    }

    /// Draws beyond seven deviations do not happen: one in 10^12 is.
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
                    let c = edm.precondition(edm.sigma(normal));
                    let all = [c.c_skip, c.c_out, c.c_in, c.c_noise, c.weight];
                    assert!(all.iter().all(|x| x.is_finite()), "{edm:?}: {c:?}");
                    assert!(c.c_out > 0.0 && c.c_in > 0.0, "{edm:?}: {c:?}");
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

    #[test]
    fn a_perfect_network_has_no_loss() {
        // F = (x - c_skip (x + sigma n)) / c_out denoises exactly.
        let edm = Edm::default();
        let device = Default::default();
        let clean = Tensor::<Flex, 4>::ones([1, 1, 2, 2], &device) * 0.3;
        let noise = Tensor::<Flex, 4>::ones([1, 1, 2, 2], &device);
        let c = edm.precondition(2.0);
        let f = (clean.clone() - (clean.clone() + noise.clone() * 2.0) * c.c_skip) / c.c_out;
        let loss = |f: Tensor<Flex, 4>| {
            edm.loss(clean.clone(), noise.clone(), &[2.0], 1, None, |_, _| {
                patchify(f, 1)
            })
            .into_scalar()
        };
        assert!(loss(f.clone()) < 1e-10);
        assert!(loss(f + 0.1) > 1e-3);
    }
}
