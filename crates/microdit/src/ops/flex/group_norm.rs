//! Group norm, with the SiLU that follows it in residual blocks: one pass over an image where its parts would be ten.

use super::{
    buffer::unwritten,
    norm::statistics,
    number::Number,
    simd::{fold, sigmoid, simd, sum},
};
use rayon::prelude::*;

/// How the elements of an image are normed: `channels` runs of `pixels` elements each share a mean and a variance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    /// Channels of a group.
    pub(super) channels: usize,
    /// Groups of an image.
    pub(super) groups: usize,
    /// Elements of a channel.
    pub(super) pixels: usize,
    pub(super) eps: f32,
    pub(super) silu: bool,
}

impl Runs {
    /// Elements of a group.
    fn len(&self) -> usize {
        self.channels * self.pixels
    }

    /// The group's part of one number per channel; groups are counted over all images.
    #[inline(always)]
    fn of_group<'a>(&self, values: &'a [f32], group: usize) -> &'a [f32] {
        &values[group % self.groups * self.channels..][..self.channels]
    }
}

/// `normed * weight + bias`, and the SiLU of it.
pub(super) fn forward<N: Number>(x: &[N], weight: &[f32], bias: &[f32], runs: Runs) -> Vec<N> {
    let mut out = unwritten(x.len());
    out.par_chunks_mut(runs.len())
        .zip(x.par_chunks(runs.len()))
        .enumerate()
        .for_each(|(group, (out, x))| {
            let channels = runs.of_group(weight, group).iter();
            let channels = channels.zip(runs.of_group(bias, group));
            simd(
                #[inline(always)]
                || {
                    let (mean, inverse) = statistics(x, runs.eps);
                    let x = x.chunks_exact(runs.pixels);
                    let out = out.chunks_exact_mut(runs.pixels);
                    for ((out, x), (weight, bias)) in out.zip(x).zip(channels) {
                        let gain = weight * inverse;
                        let pixels = out.iter_mut().zip(x);
                        // Two loops: of one, the compiler computes both.
                        if runs.silu {
                            for (out, x) in pixels {
                                let y = (x.wide() - mean) * gain + bias;
                                *out = N::of(y * sigmoid(y));
                            }
                        } else {
                            for (out, x) in pixels {
                                *out = N::of((x.wide() - mean) * gain + bias);
                            }
                        }
                    }
                },
            );
        });
    out
}

/// Gradients of a group norm.
pub(super) struct Grads {
    pub(super) x: Vec<f32>,
    /// Of the weight, image by image `[batch, channels]`.
    pub(super) weight: Vec<f32>,
    /// Of the bias, image by image `[batch, channels]`.
    pub(super) bias: Vec<f32>,
}

/// Gradients from the output's `grad`.
pub(super) fn backward(x: &[f32], weight: &[f32], bias: &[f32], grad: &[f32], runs: Runs) -> Grads {
    let channels = x.len() / runs.pixels;
    let mut grads = Grads {
        x: unwritten(x.len()),
        weight: unwritten(channels),
        bias: unwritten(channels),
    };
    let outputs = (
        grads.x.par_chunks_mut(runs.len()),
        grads.weight.par_chunks_mut(runs.channels),
        grads.bias.par_chunks_mut(runs.channels),
    );
    let inputs = (x.par_chunks(runs.len()), grad.par_chunks(runs.len()));
    outputs
        .into_par_iter()
        .zip(inputs.into_par_iter())
        .enumerate()
        .for_each(|(group, ((out, of_weight, of_bias), (x, grad)))| {
            let (weight, bias) = (runs.of_group(weight, group), runs.of_group(bias, group));
            simd(
                #[inline(always)]
                || {
                    let (mean, inverse) = statistics(x, runs.eps);
                    // First the gradient of what the SiLU is given, and its sums.
                    let (mut total, mut along) = (0.0, 0.0);
                    for channel in 0..runs.channels {
                        let pixels = channel * runs.pixels..(channel + 1) * runs.pixels;
                        let (x, grad) = (&x[pixels.clone()], &grad[pixels.clone()]);
                        let out = &mut out[pixels];
                        let (weight, bias) = (weight[channel], bias[channel]);
                        if runs.silu {
                            let gain = weight * inverse;
                            for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                                let y = (x - mean) * gain + bias;
                                let s = sigmoid(y);
                                *out = grad * s * (1.0 + y * (1.0 - s));
                            }
                        } else {
                            out.copy_from_slice(grad);
                        }
                        of_bias[channel] = sum(out, |g| g);
                        of_weight[channel] = inverse
                            * fold(
                                out,
                                x,
                                #[inline(always)]
                                |sum, g, x| sum + g * (x - mean),
                            );
                        total += weight * of_bias[channel];
                        along += weight * of_weight[channel];
                    }
                    let count = x.len() as f32;
                    let (total, along) = (total / count, along / count * inverse);
                    let channels = out.chunks_exact_mut(runs.pixels);
                    let channels = channels.zip(x.chunks_exact(runs.pixels)).zip(weight);
                    for ((out, x), weight) in channels {
                        for (g, x) in out.iter_mut().zip(x) {
                            *g = (*g * weight - total - (x - mean) * along) * inverse;
                        }
                    }
                },
            );
        });
    grads
}
