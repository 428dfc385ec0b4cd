//! Resizing of tensors along an axis at a time, as products with matrices: any backend has those, and their gradients.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit::picture::Taps;

/// An interpolation of PyTorch without antialiasing: of `align_corners=False`, beyond the border the last pixel again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interpolation {
    /// Between two pixels.
    Bilinear,
    /// Cubic convolution with a = -0.75 over four pixels.
    Bicubic,
}

impl Interpolation {
    /// The matrix from `from` pixels to `to`, of which each is `scale` source pixels from the next.
    pub(super) fn matrix(self, from: usize, to: usize, scale: f64) -> Vec<Vec<f64>> {
        let row = |at: usize| {
            let center = (at as f64 + 0.5) * scale - 0.5;
            let (center, reach) = match self {
                Self::Bilinear => (center.max(0.0), 0..=1),
                Self::Bicubic => (center, -1..=2),
            };
            let mut row = vec![0.0; from];
            for step in reach {
                let pixel = center.floor() + f64::from(step);
                let nearest = pixel.clamp(0.0, (from - 1) as f64) as usize;
                row[nearest] += self.weight((center - pixel).abs());
            }
            row
        };
        (0..to).map(row).collect()
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.75;
        match self {
            Self::Bilinear => 1.0 - x,
            Self::Bicubic if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        }
    }
}

/// The matrix of an antialiased kernel over `from` pixels.
pub(super) fn antialiased(taps: &[Taps<f64>], from: usize) -> Vec<Vec<f64>> {
    let row = |taps: &Taps<f64>| {
        let mut row = vec![0.0; from];
        row[taps.first..][..taps.weights.len()].copy_from_slice(&taps.weights);
        row
    };
    taps.iter().map(row).collect()
}

/// Images `[batch, channels, height, width]` times a matrix for their rows and one for their columns.
pub(super) fn resample<B: Backend>(
    images: Tensor<B, 4>,
    rows: &[Vec<f64>],
    columns: &[Vec<f64>],
) -> Tensor<B, 4> {
    let [batch, channels, height, width] = images.dims();
    let device = images.device();
    let matrix = |rows: &[Vec<f64>], from: usize| -> Tensor<B, 2> {
        let values: Vec<f32> = rows.iter().flatten().map(|&weight| weight as f32).collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), from]), &device)
    };
    let planes = images.reshape([batch * channels, height, width]);
    let across = planes.matmul(matrix(columns, width).transpose().unsqueeze());
    let down = matrix(rows, height).unsqueeze::<3>().matmul(across);
    down.reshape([batch, channels, rows.len(), columns.len()])
}
