//! Elementwise operations and sums over rows.

use super::{
    super::Activation,
    buffer::unwritten,
    number::Number,
    simd::{normal_distribution, sigmoid, simd, sum},
};
use rayon::prelude::*;

/// Elements one task takes: a few times the first-level cache, so that scheduling costs nothing next to the work. The
/// partition never depends on the number of threads, nor do the sums.
pub(super) const TASK: usize = 1 << 14;

/// `f` of every pair of elements; `f` must be inlined.
fn pairwise<A: Number, B: Number, O: Number>(
    a: &[A],
    b: &[B],
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<O> {
    assert_eq!(a.len(), b.len(), "elements of two tensors");
    let mut out = unwritten::<O>(a.len());
    let inputs = (a.par_chunks(TASK), b.par_chunks(TASK)).into_par_iter();
    out.par_chunks_mut(TASK)
        .zip(inputs)
        .for_each(|(out, (a, b))| {
            simd(
                #[inline(always)]
                || {
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = O::of(f(a.wide(), b.wide()));
                    }
                },
            );
        });
    out
}

/// The same numbers in another type, rounded.
pub(super) fn convert<A: Number, B: Number>(x: &[A]) -> Vec<B> {
    pairwise(
        x,
        x,
        #[inline(always)]
        |x, _| x,
    )
}

/// Twice the argument of GELU's tanh, and its derivative: `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
#[inline(always)]
fn gelu_argument(x: f32) -> (f32, f32) {
    const ROOT: f32 = 1.595_769; // 2 sqrt(2 / pi)
    let square = 0.044_715 * x * x;
    (ROOT * x * (1.0 + square), ROOT * (1.0 + 3.0 * square))
}

/// A nonlinearity.
pub(super) fn activate<N: Number>(x: &[N], activation: Activation) -> Vec<N> {
    activated(
        x,
        x,
        activation,
        #[inline(always)]
        |y, _| y,
    )
}

/// A nonlinearity of `gate`, times `x`.
pub(super) fn gated<N: Number>(gate: &[N], x: &[N], activation: Activation) -> Vec<N> {
    activated(
        gate,
        x,
        activation,
        #[inline(always)]
        |y, x| y * x,
    )
}

/// `f` of a nonlinearity of `a`, and of `b`.
fn activated<N: Number>(
    a: &[N],
    b: &[N],
    activation: Activation,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<N> {
    macro_rules! each {
        (|$a:ident| $y:expr) => {
            pairwise(
                a,
                b,
                #[inline(always)]
                |$a, b| f($y, b),
            )
        };
    }
    match activation {
        Activation::Gelu => each!(|a| a * normal_distribution(a).0),
        Activation::GeluTanh => each!(|a| a * sigmoid(gelu_argument(a).0)),
        Activation::QuickGelu => each!(|a| a * sigmoid(1.702 * a)),
        Activation::Relu => each!(|a| a.max(0.0)),
        Activation::Silu => each!(|a| a * sigmoid(a)),
    }
}

/// Gradient of `x`.
pub(super) fn gelu_backward<N: Number>(x: &[N], grad: &[N]) -> Vec<N> {
    pairwise(
        x,
        grad,
        #[inline(always)]
        |x, grad| {
            let (argument, slope) = gelu_argument(x);
            let s = sigmoid(argument);
            grad * (s + x * s * (1.0 - s) * slope)
        },
    )
}

/// Gradients of gate and `x`.
pub(super) fn swiglu_backward<N: Number>(gate: &[N], x: &[N], grad: &[N]) -> (Vec<N>, Vec<N>) {
    let (mut gate_grad, mut x_grad) = (unwritten::<N>(x.len()), unwritten::<N>(x.len()));
    let outputs = (gate_grad.par_chunks_mut(TASK), x_grad.par_chunks_mut(TASK)).into_par_iter();
    let inputs = (
        gate.par_chunks(TASK),
        x.par_chunks(TASK),
        grad.par_chunks(TASK),
    )
        .into_par_iter();
    outputs
        .zip(inputs)
        .for_each(|((gate_grad, x_grad), (gate, x, grad))| {
            simd(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(x).zip(grad);
                    for ((gate_grad, x_grad), ((g, x), grad)) in
                        gate_grad.iter_mut().zip(x_grad).zip(inputs)
                    {
                        let (g, x, grad) = (g.wide(), x.wide(), grad.wide());
                        let s = sigmoid(g);
                        *x_grad = N::of(grad * g * s);
                        *gate_grad = N::of(grad * x * s * (1.0 + g * (1.0 - s)));
                    }
                },
            );
        });
    (gate_grad, x_grad)
}

/// `value * gelu(gate)` of rows of `width` values and as many gates.
pub(super) fn geglu<N: Number>(x: &[N], width: usize) -> Vec<N> {
    let mut out = unwritten::<N>(x.len() / 2);
    let rows = (TASK / width).max(1) * width;
    out.par_chunks_mut(rows)
        .zip(x.par_chunks(2 * rows))
        .for_each(|(out, x)| {
            simd(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(2 * width);
                    for (out, row) in out.chunks_exact_mut(width).zip(rows) {
                        let (value, gate) = row.split_at(width);
                        for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
                            let gate = gate.wide();
                            *out = N::of(value.wide() * gate * normal_distribution(gate).0);
                        }
                    }
                },
            );
        });
    out
}

/// Gradient of `x`.
pub(super) fn geglu_backward<N: Number>(x: &[N], grad: &[N], width: usize) -> Vec<N> {
    let mut out = unwritten::<N>(x.len());
    let rows = (TASK / width).max(1) * width;
    let inputs = (x.par_chunks(2 * rows), grad.par_chunks(rows)).into_par_iter();
    out.par_chunks_mut(2 * rows)
        .zip(inputs)
        .for_each(|(out, (x, grad))| {
            simd(
                #[inline(always)]
                || {
                    let inputs = x.chunks_exact(2 * width).zip(grad.chunks_exact(width));
                    for (out, (row, grad)) in out.chunks_exact_mut(2 * width).zip(inputs) {
                        let (value_grad, gate_grad) = out.split_at_mut(width);
                        let (value, gate) = row.split_at(width);
                        let inputs = value.iter().zip(gate).zip(grad);
                        for ((value_grad, gate_grad), ((value, gate), grad)) in
                            value_grad.iter_mut().zip(gate_grad).zip(inputs)
                        {
                            let (value, gate, grad) = (value.wide(), gate.wide(), grad.wide());
                            let (cumulative, density) = normal_distribution(gate);
                            *value_grad = N::of(grad * gate * cumulative);
                            *gate_grad = N::of(grad * value * (cumulative + gate * density));
                        }
                    }
                },
            );
        });
    out
}

/// `x + update`.
pub(super) fn residual<X: Number, N: Number>(x: &[X], update: &[N]) -> Vec<X> {
    pairwise(
        x,
        update,
        #[inline(always)]
        |x, update| x + update,
    )
}

/// `x + gate * update` with one gate `[dim]` per sample of `tokens` rows.
pub(super) fn gated_residual<N: Number>(
    x: &[f32],
    update: &[N],
    gate: &[f32],
    tokens: usize,
    dim: usize,
) -> Vec<f32> {
    let mut out = unwritten(x.len());
    let sample = tokens * dim;
    let inputs = (
        x.par_chunks(sample),
        update.par_chunks(sample),
        gate.par_chunks(dim),
    )
        .into_par_iter();
    out.par_chunks_mut(sample)
        .zip(inputs)
        .for_each(|(out, (x, update, gate))| {
            simd(
                #[inline(always)]
                || {
                    let inputs = x.chunks_exact(dim).zip(update.chunks_exact(dim));
                    for (out, (x, update)) in out.chunks_exact_mut(dim).zip(inputs) {
                        for ((out, x), (update, gate)) in
                            out.iter_mut().zip(x).zip(update.iter().zip(gate))
                        {
                            *out = x + update.wide() * gate;
                        }
                    }
                },
            );
        });
    out
}

/// Gradients of update and gate.
pub(super) fn gated_residual_backward<N: Number>(
    update: &[N],
    gate: &[f32],
    grad: &[f32],
    tokens: usize,
    dim: usize,
) -> (Vec<N>, Vec<f32>) {
    let (mut update_grad, mut gate_grad) = (unwritten::<N>(update.len()), vec![0.0; gate.len()]);
    let sample = tokens * dim;
    let outputs = (
        update_grad.par_chunks_mut(sample),
        gate_grad.par_chunks_mut(dim),
    )
        .into_par_iter();
    let inputs = (
        update.par_chunks(sample),
        gate.par_chunks(dim),
        grad.par_chunks(sample),
    )
        .into_par_iter();
    outputs
        .zip(inputs)
        .for_each(|((update_grad, gate_grad), (update, gate, grad))| {
            simd(
                #[inline(always)]
                || {
                    let inputs = update.chunks_exact(dim).zip(grad.chunks_exact(dim));
                    for (out, (update, grad)) in update_grad.chunks_exact_mut(dim).zip(inputs) {
                        for ((out, grad), gate) in out.iter_mut().zip(grad).zip(gate) {
                            *out = N::of(grad * gate);
                        }
                        for ((sum, grad), update) in gate_grad.iter_mut().zip(grad).zip(update) {
                            *sum += grad * update.wide();
                        }
                    }
                },
            );
        });
    (update_grad, gate_grad)
}

/// Sum of all rows `[dim]`.
pub(super) fn sum_rows<N: Number>(x: &[N], dim: usize) -> Vec<f32> {
    let rows = (TASK / dim).max(1);
    let partial: Vec<Vec<f32>> = x
        .par_chunks(rows * dim)
        .map(|x| {
            let mut sum = vec![0.0; dim];
            simd(
                #[inline(always)]
                || {
                    for row in x.chunks_exact(dim) {
                        for (sum, x) in sum.iter_mut().zip(row) {
                            *sum += x.wide();
                        }
                    }
                },
            );
            sum
        })
        .collect();
    let mut total = vec![0.0; dim];
    for part in partial {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

/// Sum of every channel of `[batch, channels, pixels]` over pixels and images `[channels]`.
pub(super) fn sum_pixels<N: Number>(x: &[N], channels: usize, pixels: usize) -> Vec<f32> {
    let channel = |channel: usize| {
        simd(
            #[inline(always)]
            || {
                let images = x[channel * pixels..].chunks(channels * pixels);
                images.map(|image| sum(&image[..pixels], |x| x)).sum()
            },
        )
    };
    (0..channels).into_par_iter().map(channel).collect()
}

/// Fills the rows of `out` with `row`.
pub(super) fn repeat_row(row: &[f32], out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let task = (TASK / row.len()).max(1) * row.len();
    out.par_chunks_mut(task).for_each(|out| {
        for out in out.chunks_exact_mut(row.len()) {
            out.copy_from_slice(row);
        }
    });
}
