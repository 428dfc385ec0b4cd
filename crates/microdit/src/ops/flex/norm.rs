//! Layer norm with a gain and a shift per group of rows: of the whole tensor, or of each sample.

use super::{
    buffer::unwritten,
    number::Number,
    simd::{dot, simd, sum},
};
use rayon::prelude::*;

/// How rows share gains: `rows` of `dim` elements, group after group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub(super) dim: usize,
    pub(super) rows: usize,
}

/// Mean and `1 / sqrt(variance + eps)` of a row.
#[inline(always)]
pub(super) fn statistics<N: Number>(row: &[N], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(row, |x| x) / count;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// The gradient of a row's normed values, in place, becomes the gradient of the row:
/// `(g - mean(g) - n mean(g n)) / sqrt(variance + eps)`.
#[inline(always)]
pub(super) fn through_norm(grad: &mut [f32], normed: &[f32], inverse: f32) {
    let count = grad.len() as f32;
    let mean = sum(grad, |g| g) / count;
    let along = dot(grad, normed) / count;
    for (g, n) in grad.iter_mut().zip(normed) {
        *g = (*g - mean - n * along) * inverse;
    }
}

/// The part of `values` that belongs to a group: one for all, or one per group.
#[inline(always)]
fn of_group(values: &[f32], group: usize, dim: usize) -> &[f32] {
    if values.len() == dim {
        values
    } else {
        &values[group * dim..][..dim]
    }
}

/// `normed * gain + shift`, with gains and shifts for all or per group, the latter if any.
pub(super) fn forward<O: Number>(
    x: &[f32],
    gain: &[f32],
    shift: Option<&[f32]>,
    groups: Groups,
    eps: f32,
) -> Vec<O> {
    let Groups { dim, rows } = groups;
    let mut out = unwritten(x.len());
    out.par_chunks_mut(rows * dim)
        .zip(x.par_chunks(rows * dim))
        .enumerate()
        .for_each(|(group, (out, x))| {
            let gain = of_group(gain, group, dim);
            simd(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
                        let (mean, inverse) = statistics(x, eps);
                        match shift {
                            Some(shift) => {
                                let shift = of_group(shift, group, dim);
                                for (((out, x), gain), shift) in
                                    out.iter_mut().zip(x).zip(gain).zip(shift)
                                {
                                    *out = O::of((x - mean) * inverse * gain + shift);
                                }
                            }
                            None => {
                                for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
                                    *out = O::of((x - mean) * inverse * gain);
                                }
                            }
                        }
                    }
                },
            );
        });
    out
}

/// Rows of as many elements as there are weights, over the roots of their mean squares, times the weights.
pub(super) fn root_mean_square<O: Number>(x: &[f32], weight: &[f32], eps: f32) -> Vec<O> {
    /// Rows that a task takes.
    const ROWS: usize = 16;
    let dim = weight.len();
    let mut out = unwritten(x.len());
    out.par_chunks_mut(ROWS * dim)
        .zip(x.par_chunks(ROWS * dim))
        .for_each(|(out, x)| {
            simd(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
                        let inverse = 1.0 / (dot(x, x) / dim as f32 + eps).sqrt();
                        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                            *out = O::of(x * inverse * weight);
                        }
                    }
                },
            );
        });
    out
}

/// What the gradients of a norm are made of.
pub(super) struct NormGrads {
    /// Gradient of the rows.
    pub(super) x: Vec<f32>,
    /// Sum over each group's rows of gradient times normed value `[groups, dim]`.
    pub(super) along: Vec<f32>,
    /// Sum over each group's rows of the gradient `[groups, dim]`.
    pub(super) total: Vec<f32>,
}

/// Gradients from the output's `grad`.
pub(super) fn backward(
    x: &[f32],
    gain: &[f32],
    grad: &[f32],
    groups: Groups,
    eps: f32,
) -> NormGrads {
    let Groups { dim, rows } = groups;
    let count = x.len().div_ceil(rows * dim);
    let mut grads = NormGrads {
        x: unwritten(x.len()),
        along: vec![0.0; count * dim],
        total: vec![0.0; count * dim],
    };
    let outputs = (
        grads.x.par_chunks_mut(rows * dim),
        grads.along.par_chunks_mut(dim),
        grads.total.par_chunks_mut(dim),
    );
    let inputs = (x.par_chunks(rows * dim), grad.par_chunks(rows * dim));
    outputs
        .into_par_iter()
        .zip(inputs.into_par_iter())
        .enumerate()
        .for_each_init(
            || vec![0.0; dim],
            |normed, (group, ((out, along, total), (x, grad)))| {
                let gain = of_group(gain, group, dim);
                simd(
                    #[inline(always)]
                    || {
                        let rows = x.chunks_exact(dim).zip(grad.chunks_exact(dim));
                        for (out, (x, grad)) in out.chunks_exact_mut(dim).zip(rows) {
                            let (mean, inverse) = statistics(x, eps);
                            // Loops over few slices each, which the compiler can tell apart and so vectorize.
                            for (normed, x) in normed.iter_mut().zip(x) {
                                *normed = (x - mean) * inverse;
                            }
                            for ((along, grad), normed) in along.iter_mut().zip(grad).zip(&*normed)
                            {
                                *along += grad * normed;
                            }
                            for (total, grad) in total.iter_mut().zip(grad) {
                                *total += grad;
                            }
                            for ((out, grad), gain) in out.iter_mut().zip(grad).zip(gain) {
                                *out = grad * gain;
                            }
                            through_norm(out, normed, inverse);
                        }
                    },
                );
            },
        );
    grads
}
