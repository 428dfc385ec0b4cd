//! Convolutions of 1 x 1 and stride 1: products of weights and images where they lie in memory.

use super::super::{
    buffer::unwritten,
    matrix::{Matrix, Threads, multiply},
};
use rayon::prelude::*;

/// The sizes of such a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneByOne {
    /// Channels of the input and of the output.
    pub(super) channels: [usize; 2],
    /// Of an image.
    pub(super) pixels: usize,
}

impl OneByOne {
    fn weight<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        let [inputs, outputs] = self.channels;
        Matrix::new(weight, outputs, inputs)
    }

    /// `[batch, output, pixels]` of `x` `[batch, input, pixels]`, `weight` `[output, input]` and `bias` `[output]`.
    pub(super) fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let ([inputs, outputs], pixels) = (self.channels, self.pixels);
        let mut out = unwritten(x.len() / inputs * outputs);
        if let Some(bias) = bias {
            out.par_chunks_exact_mut(pixels)
                .enumerate()
                .for_each(|(row, out)| out.fill(bias[row % outputs]));
        }
        self.by_image(&mut out, x, self.weight(weight), bias.is_some());
        out
    }

    /// Gradient of the input, from the output's.
    pub(super) fn input_gradient(&self, weight: &[f32], grad: &[f32]) -> Vec<f32> {
        let [inputs, outputs] = self.channels;
        let mut out = unwritten(grad.len() / outputs * inputs);
        self.by_image(&mut out, grad, self.weight(weight).t(), false);
        out
    }

    /// `out = left x`, or `out += left x`, of every image.
    fn by_image(&self, out: &mut [f32], x: &[f32], left: Matrix<'_>, accumulate: bool) {
        let pixels = self.pixels;
        let images = x.chunks_exact(left.columns * pixels);
        for (out, x) in out.chunks_exact_mut(left.rows * pixels).zip(images) {
            let x = Matrix::new(x, left.columns, pixels);
            multiply(out, pixels, left, x, 1.0, accumulate, Threads::All);
        }
    }

    /// Gradient of the weights, from the output's.
    pub(super) fn weight_gradient(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let ([inputs, outputs], pixels) = (self.channels, self.pixels);
        let mut out = unwritten(outputs * inputs);
        let images = x.chunks_exact(inputs * pixels);
        let images = images.zip(grad.chunks_exact(outputs * pixels));
        for (i, (x, grad)) in images.enumerate() {
            let (x, grad) = (
                Matrix::new(x, inputs, pixels),
                Matrix::new(grad, outputs, pixels),
            );
            multiply(&mut out, inputs, grad, x.t(), 1.0, i > 0, Threads::All);
        }
        out
    }
}
