//! Samplers: pure functions of a denoiser, a start and the noise levels (EDM, arXiv 2206.00364, algorithms 1 and 2).
//!
//! The state is kept in f64 on the host, which makes it exact on every backend, those without f64 included; next to a
//! network evaluation the transfer is nothing.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

/// How a step is integrated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Solver {
    /// First order: one evaluation a step.
    Euler,
    /// Second order: two evaluations a step, one in the last.
    #[default]
    Heun,
}

/// Noise added back while sampling (EDM algorithm 2); the default adds none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Churn {
    /// Overall amount, spread over the steps.
    pub s_churn: f64,
    /// Lowest noise level that gets any.
    pub s_min: f64,
    /// Highest noise level that gets any.
    pub s_max: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self {
            s_churn: 0.0,
            s_min: 0.0,
            s_max: f64::INFINITY,
            s_noise: 1.0,
        }
    }
}

impl Churn {
    /// Relative increase of the noise level `sigma` in one of `steps` steps.
    fn gamma(&self, sigma: f64, steps: usize) -> f64 {
        if (self.s_min..=self.s_max).contains(&sigma) {
            (self.s_churn / steps as f64).min(2f64.sqrt() - 1.0)
        } else {
            0.0
        }
    }
}

/// Integrates from `noise` (standard normal, `[batch, channels, height, width]`) along `sigmas`, which fall to 0.
///
/// `denoise(x, sigma)` returns the denoised estimate; `churn_noise(step)` the standard normal numbers of a step that
/// adds noise, as many as `noise` has; `observe(step, state)` sees the state before each step and, with
/// `step = steps`, the result.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::diffusion::{sampler::{Churn, Solver, sample}, schedule::SigmaSchedule};
///
/// // If all data are one image of 0.25, the ideal denoiser knows it, and every path ends there.
/// let noise = Tensor::<Flex, 4>::ones([1, 1, 2, 2], &Default::default());
/// let drawn = sample(
///     Solver::Heun,
///     noise,
///     &SigmaSchedule::default().sigmas(18),
///     |x, _sigma| x.full_like(0.25),
///     &Churn::default(),
///     |_step| Vec::new(),
///     |_step, _state| (),
/// );
/// assert!((drawn - 0.25).abs().max().into_scalar() < 1e-6);
/// ```
pub fn sample<B: Backend>(
    solver: Solver,
    noise: Tensor<B, 4>,
    sigmas: &[f64],
    mut denoise: impl FnMut(Tensor<B, 4>, f64) -> Tensor<B, 4>,
    churn: &Churn,
    mut churn_noise: impl FnMut(usize) -> Vec<f32>,
    mut observe: impl FnMut(usize, &[f64]),
) -> Tensor<B, 4> {
    let (shape, device) = (noise.shape(), noise.device());
    let mut denoised = |x: &[f64], sigma: f64| {
        let values: Vec<f32> = x.iter().map(|&value| value as f32).collect();
        let x = Tensor::from_data(TensorData::new(values, shape.clone()), &device);
        host(denoise(x, sigma))
    };
    let first = sigmas.first().copied().unwrap_or(1.0);
    let mut x: Vec<f64> = host(noise).iter().map(|value| value * first).collect();
    let steps = sigmas.len().saturating_sub(1);
    for step in 0..steps {
        observe(step, &x);
        let (sigma, next) = (sigmas[step], sigmas[step + 1]);
        let gamma = churn.gamma(sigma, steps);
        let raised = sigma * (1.0 + gamma);
        if gamma > 0.0 {
            let amount = (raised * raised - sigma * sigma).sqrt() * churn.s_noise;
            for (value, noise) in x.iter_mut().zip(churn_noise(step)) {
                *value += amount * f64::from(noise);
            }
        }
        let slope = |x: &[f64], denoised: &[f64], sigma: f64| -> Vec<f64> {
            x.iter()
                .zip(denoised)
                .map(|(x, d)| (x - d) / sigma)
                .collect()
        };
        let advance = |slope: &[f64]| -> Vec<f64> {
            x.iter()
                .zip(slope)
                .map(|(x, d)| x + (next - raised) * d)
                .collect()
        };
        let start = slope(&x, &denoised(&x, raised), raised);
        let euler = advance(&start);
        x = if solver == Solver::Heun && next > 0.0 {
            let end = slope(&euler, &denoised(&euler, next), next);
            let mean: Vec<f64> = start.iter().zip(&end).map(|(a, b)| 0.5 * (a + b)).collect();
            advance(&mean)
        } else {
            euler
        };
    }
    observe(steps, &x);
    let values: Vec<f32> = x.iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

fn host<B: Backend>(x: Tensor<B, 4>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::SigmaSchedule;
    use burn_flex::Flex;

    /// For data of variance 1 the ideal denoiser is x / (1 + sigma^2), and the flow from sigma_max maps the start to
    /// x(0) = x / sqrt(1 + sigma_max^2) exactly.
    fn error(solver: Solver, steps: usize) -> f64 {
        let sigmas = SigmaSchedule::default().sigmas(steps);
        let start = Tensor::<Flex, 4>::ones([1, 1, 1, 1], &Default::default());
        let denoise = |x: Tensor<Flex, 4>, sigma: f64| x / (1.0 + sigma * sigma);
        let none = |_| Vec::new();
        let end = sample(
            solver,
            start,
            &sigmas,
            denoise,
            &Churn::default(),
            none,
            |_, _| (),
        );
        (host(end)[0] - 80.0 / (1.0f64 + 6400.0).sqrt()).abs()
    }

    #[test]
    fn euler_is_first_and_heun_second_order() {
        let euler = error(Solver::Euler, 40) / error(Solver::Euler, 80);
        let heun = error(Solver::Heun, 40) / error(Solver::Heun, 80);
        assert!((1.7..2.4).contains(&euler), "Euler's error fell by {euler}");
        assert!((3.2..5.0).contains(&heun), "Heun's error fell by {heun}");
    }
}
