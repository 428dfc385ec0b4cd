//! What every diffusion family is: a table with one row per noise level, from which noising, target, loss and denoised
//! estimate follow.

use crate::{
    net::{Output, dit::embed::patchify},
    ops::DitBackend,
    rng::Stream,
};
use burn::tensor::{Tensor, TensorData, backend::Backend};

/// How much of an image is left at a noise level: `x = signal * clean + noise * eps` with standard normal `eps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Multiplies the clean image, at least 0.
    pub signal: f64,
    /// Multiplies the noise, at least 0.
    pub noise: f64,
}

impl Level {
    /// No noise at all.
    pub const CLEAN: Self = Self {
        signal: 1.0,
        noise: 0.0,
    };

    /// Noise over signal, EDM's sigma; infinite where no signal is left.
    pub fn sigma(self) -> f64 {
        self.noise / self.signal
    }

    /// `sigma` as a level that preserves the variance: `signal^2 + noise^2 = 1`.
    pub fn variance_preserving(sigma: f64) -> Self {
        let total = (1.0 + sigma * sigma).sqrt();
        Self {
            signal: 1.0 / total,
            noise: sigma / total,
        }
    }
}

/// A noise level by the family's own measure of time (EDM: sigma; VP: the timestep, which may lie between two; flow
/// matching: `t` in `0..=1`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The family's time.
    pub time: f64,
    /// Signal and noise at that time.
    pub level: Level,
}

/// Everything the mathematics needs to know about a noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Signal and noise.
    pub level: Level,
    /// Multiplies the noisy image in the network's input.
    pub c_in: f64,
    /// Multiplies the noisy image in the denoised estimate.
    pub c_skip: f64,
    /// Multiplies the network's output in the denoised estimate.
    pub c_out: f64,
    /// What the network is told about the noise level.
    pub c_noise: f64,
    /// The ideal output is `target_clean * clean + target_noise * eps`.
    pub target_clean: f64,
    /// See `target_clean`.
    pub target_noise: f64,
    /// Weight of the squared error of the network's output in the loss.
    pub weight: f64,
}

/// A diffusion family: constants, and a [`Row`] for every noise level. The rest are default bodies over the rows, so that
/// every sampler and every network serves every family.
pub trait Diffusion {
    /// The time of a training sample, drawn from `random`.
    fn draw_time(&self, random: &mut Stream) -> f64;

    /// The noise level at `time`.
    fn at_time(&self, time: f64) -> Point;

    /// The noise level with this ratio of noise to signal, `sigma > 0`.
    fn at_sigma(&self, sigma: f64) -> Point;

    /// The row of the table at `point`.
    fn row(&self, point: Point) -> Row;

    /// The rows of these times.
    fn rows(&self, times: &[f64]) -> Vec<Row> {
        let row = |&time: &f64| self.row(self.at_time(time));
        times.iter().map(row).collect()
    }

    /// `signal * clean + noise * eps`, one row per sample; all `[batch, channels, height, width]`.
    fn noisy<B: Backend>(
        &self,
        clean: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        rows: &[Row],
    ) -> Tensor<B, 4> {
        let device = clean.device();
        clean * column(rows, |row| row.level.signal, &device)
            + noise * column(rows, |row| row.level.noise, &device)
    }

    /// The network's ideal output, one row per sample; all `[batch, channels, height, width]`.
    fn target<B: Backend>(
        &self,
        clean: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        rows: &[Row],
    ) -> Tensor<B, 4> {
        let device = clean.device();
        clean * column(rows, |row| row.target_clean, &device)
            + noise * column(rows, |row| row.target_noise, &device)
    }

    /// Denoised estimate `c_skip x + c_out F(c_in x, c_noise)` at one noise level for the whole batch: `x` `[batch,
    /// channels, height, width]`; `network` gets the scaled input and `c_noise` `[1]`.
    fn denoise<B: Backend>(
        &self,
        x: Tensor<B, 4>,
        point: Point,
        network: impl FnOnce(Tensor<B, 4>, Tensor<B, 1>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let row = self.row(point);
        let c_noise = Tensor::from_data([row.c_noise as f32], &x.device());
        network(x.clone() * row.c_in, c_noise) * row.c_out + x * row.c_skip
    }

    /// Denoised estimate `c_skip x + c_out F`, one row per sample: of `x` and the network's output, both by patches `[batch, tokens,
    /// patch]`.
    fn estimate<B: Backend>(
        &self,
        x: Tensor<B, 3>,
        output: Tensor<B, 3>,
        rows: &[Row],
    ) -> Tensor<B, 3> {
        let device = x.device();
        let of = |of: fn(&Row) -> f64| column(rows, of, &device).reshape([rows.len(), 1, 1]);
        x * of(|row| row.c_skip) + output * of(|row| row.c_out)
    }

    /// What the network is given, one row per sample: the noised images scaled by `c_in`, and `c_noise` `[batch]`. Images are
    /// `[batch, channels, height, width]`.
    fn input<B: Backend>(
        &self,
        clean: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        rows: &[Row],
    ) -> (Tensor<B, 4>, Tensor<B, 1>) {
        let device = clean.device();
        let c_noise = column(rows, |row| row.c_noise, &device).reshape([rows.len()]);
        let noisy = self.noisy(clean, noise, rows);
        (noisy * column(rows, |row| row.c_in, &device), c_noise)
    }

    /// Training loss of each sample, `[batch]`: the weighted squared error of the network's output, averaged over the tokens
    /// it predicts. `clean` and `noise` `[batch, channels, height, width]`, one row per sample.
    fn loss<B: DitBackend>(
        &self,
        output: &Output<B>,
        clean: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        rows: &[Row],
        patch_size: usize,
    ) -> Tensor<B, 1> {
        let (device, batch) = (clean.device(), rows.len());
        let target = output.chosen(patchify(self.target(clean, noise, rows), patch_size));
        let error = (output.patches.clone() - target)
            .powi_scalar(2)
            .mean_dims(&[1, 2]);
        error.reshape([batch]) * column(rows, |row| row.weight, &device).reshape([batch])
    }
}

/// One number of each row, `[batch, 1, 1, 1]`.
fn column<B: Backend>(rows: &[Row], of: impl Fn(&Row) -> f64, device: &B::Device) -> Tensor<B, 4> {
    let values: Vec<f32> = rows.iter().map(|row| of(row) as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), 1, 1, 1]), device)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diffusion::{Betas, Edm, FlowMatching, Prediction, Vp};
    use burn_flex::Flex;

    /// The law that ties a row together: the ideal output makes the denoised estimate exact.
    pub(in crate::diffusion) fn is_consistent(family: &impl Diffusion, point: Point) {
        let row = family.row(point);
        let Level { signal, noise } = row.level;
        for (clean, eps) in [(0.7, -1.3), (-0.2, 0.4)] {
            let x = signal * clean + noise * eps;
            let output = row.target_clean * clean + row.target_noise * eps;
            let estimate = row.c_skip * x + row.c_out * output;
            let size = (row.c_skip * x).abs() + (row.c_out * output).abs();
            assert!(
                (estimate - clean).abs() <= 1e-12 * size.max(1.0),
                "{point:?}: {estimate}"
            );
        }
    }

    #[test]
    fn the_ideal_output_denoises_exactly() {
        let edm = Edm::default();
        let flow = FlowMatching::default();
        for sigma in [0.002, 0.5, 2.0, 80.0] {
            is_consistent(&edm, edm.at_sigma(sigma));
            is_consistent(&flow, flow.at_sigma(sigma));
        }
        for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
            for betas in [Betas::LINEAR, Betas::SCALED_LINEAR, Betas::Cosine] {
                let vp = Vp {
                    prediction,
                    betas,
                    ..Vp::default()
                }
                .init()
                .unwrap();
                for time in [0.0, 1.0, 500.0, 999.0] {
                    is_consistent(&vp, vp.at_time(time));
                }
            }
        }
    }

    #[test]
    fn a_perfect_network_has_no_loss_and_another_has_its_weighted_error() {
        let vp = Vp::default().init().unwrap();
        let device = Default::default();
        let clean = Tensor::<Flex, 4>::ones([2, 1, 2, 2], &device) * 0.3;
        let noise = Tensor::<Flex, 4>::ones([2, 1, 2, 2], &device);
        let rows = [10.0, 900.0].map(|time| vp.row(vp.at_time(time)));
        let loss = |shift: f64| {
            let predicted = vp.target(clean.clone(), noise.clone(), &rows) + shift;
            let output = Output::all(patchify(predicted, 1));
            let losses = vp.loss(&output, clean.clone(), noise.clone(), &rows, 1);
            losses.into_data().to_vec::<f32>().unwrap()
        };
        assert_eq!(loss(0.0), [0.0, 0.0]);
        for (found, row) in loss(0.1).into_iter().zip(rows) {
            assert!((f64::from(found) - 0.01 * row.weight).abs() < 1e-6);
        }
    }
}
