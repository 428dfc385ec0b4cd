//! Experts over the tokens they chose: gather, two products per expert, scatter.

use super::{
    buffer::unwritten,
    matrix::{Matrix, Threads},
    products::Products,
    simd::{dot, normal_distribution, simd},
    tensors::{by_number, flat, is_f32, slices, tensor},
};
use crate::ops::{ExpertGrads, ExpertInputs, composed};
use burn::tensor::Tensor;
use burn_flex::Flex;
use rayon::prelude::*;

/// The sizes of a layer, and which tokens it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts<'a> {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) dim: usize,
    pub(super) hidden: usize,
    pub(super) experts: usize,
    pub(super) taken: usize,
    /// `[batch, experts, taken]`.
    pub(super) chosen: &'a [usize],
    /// `[batch, experts, taken]`.
    pub(super) weights: &'a [f32],
    /// `[experts, dim, hidden]`.
    pub(super) w1: &'a [f32],
    /// `[experts, hidden, dim]`.
    pub(super) w2: &'a [f32],
}

/// Gradients, shaped like the inputs.
#[derive(Debug)]
pub(super) struct Grads<N> {
    pub(super) x: Vec<N>,
    pub(super) weights: Vec<f32>,
    pub(super) w1: Vec<f32>,
    pub(super) w2: Vec<f32>,
}

/// Whether there are kernels for experts with these weights.
fn are_f32(inputs: &ExpertInputs<Flex>) -> bool {
    is_f32(&inputs.weights) && is_f32(&inputs.w1) && is_f32(&inputs.w2)
}

/// The output of [`DitBackend::experts`](crate::DitBackend::experts), and what its gradients need again.
pub(super) fn of(inputs: ExpertInputs<Flex>) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
    if !are_f32(&inputs) {
        return composed::experts(inputs);
    }
    by_number!(
        [inputs.x],
        N => {
            let shape = inputs.x.dims();
            with::<N, _>(inputs, |layer, x| {
                let (out, hidden) = layer.forward(x);
                let hidden_shape = [layer.experts, layer.rows(), layer.hidden];
                (tensor(out, shape), tensor(hidden, hidden_shape))
            })
        },
        composed::experts(inputs)
    )
}

/// The gradients of [`DitBackend::experts`](crate::DitBackend::experts).
pub(super) fn gradients(
    inputs: ExpertInputs<Flex>,
    hidden: Tensor<Flex, 3>,
    grad: Tensor<Flex, 3>,
) -> ExpertGrads<Flex> {
    if !are_f32(&inputs) {
        return composed::experts_backward(inputs, hidden, grad);
    }
    by_number!(
        [inputs.x, hidden, grad],
        N => {
            let (x, weights) = (inputs.x.dims(), inputs.weights.dims());
            let (w1, w2) = (inputs.w1.dims(), inputs.w2.dims());
            let tensors = [flat(hidden), flat(grad)];
            with::<N, _>(inputs, |layer, tokens| {
                let [hidden, grad] = slices(&tensors);
                let grads = layer.backward(tokens, hidden, grad);
                ExpertGrads {
                    x: tensor(grads.x, x),
                    weights: tensor(grads.weights, weights),
                    w1: tensor(grads.w1, w1),
                    w2: tensor(grads.w2, w2),
                }
            })
        },
        composed::experts_backward(inputs, hidden, grad)
    )
}

/// Runs `with` on the experts' sizes and slices, and on the tokens.
fn with<N: Products, R>(
    inputs: ExpertInputs<Flex>,
    with: impl FnOnce(Experts<'_>, &[N]) -> R,
) -> R {
    let [batch, tokens, dim] = inputs.x.dims();
    let [experts, _, hidden] = inputs.w1.dims();
    let taken = inputs.chosen.dims()[2];
    let chosen: Vec<usize> = inputs
        .chosen
        .into_data()
        .iter::<i64>()
        .map(|token| token as usize)
        .collect();
    let x = flat(inputs.x);
    let tensors = [flat(inputs.weights), flat(inputs.w1), flat(inputs.w2)];
    let [weights, w1, w2] = slices(&tensors);
    let layer = Experts {
        batch,
        tokens,
        dim,
        hidden,
        experts,
        taken,
        chosen: &chosen,
        weights,
        w1,
        w2,
    };
    with(layer, x.storage())
}

impl<'a> Experts<'a> {
    /// Tokens one expert takes from the batch.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.taken
    }

    /// With more threads than experts, each product is worth sharing.
    fn threads(&self) -> Threads {
        if self.experts < rayon::current_num_threads() {
            Threads::All
        } else {
            Threads::One
        }
    }

    /// Index into `chosen` and `weights` of an expert's `row`.
    #[inline(always)]
    fn slot(&self, expert: usize, row: usize) -> usize {
        let (sample, place) = (row / self.taken, row % self.taken);
        (sample * self.experts + expert) * self.taken + place
    }

    /// The tokens `[batch x taken, dim]` an expert chose.
    fn gather<N: Products>(&self, x: &[N], expert: usize) -> Vec<N> {
        let mut out = Vec::with_capacity(self.rows() * self.dim);
        for row in 0..self.rows() {
            let token = row / self.taken * self.tokens + self.chosen[self.slot(expert, row)];
            out.extend_from_slice(&x[token * self.dim..][..self.dim]);
        }
        out
    }

    /// Adds the experts' rows `[experts, batch x taken, dim]`, times their weights if given, into the tokens' places.
    fn scatter<N: Products>(&self, rows: &[N], weights: Option<&[f32]>) -> Vec<N> {
        let mut out = unwritten(self.batch * self.tokens * self.dim);
        out.par_chunks_mut(self.tokens * self.dim)
            .enumerate()
            .for_each_init(Vec::new, |sums, (sample, out)| {
                sums.clear();
                sums.resize(out.len(), 0.0);
                simd(
                    #[inline(always)]
                    || {
                        for expert in 0..self.experts {
                            for place in 0..self.taken {
                                let row = sample * self.taken + place;
                                let slot = self.slot(expert, row);
                                let from =
                                    &rows[(expert * self.rows() + row) * self.dim..][..self.dim];
                                let to = &mut sums[self.chosen[slot] * self.dim..][..self.dim];
                                let weight = weights.map_or(1.0, |weights| weights[slot]);
                                for (to, from) in to.iter_mut().zip(from) {
                                    *to += weight * from.wide();
                                }
                            }
                        }
                        for (out, sum) in out.iter_mut().zip(&*sums) {
                            *out = N::of(*sum);
                        }
                    },
                );
            });
        out
    }

    fn w1(&self, expert: usize) -> Matrix<'a> {
        let size = self.dim * self.hidden;
        Matrix::new(&self.w1[expert * size..][..size], self.dim, self.hidden)
    }

    fn w2(&self, expert: usize) -> Matrix<'a> {
        let size = self.dim * self.hidden;
        Matrix::new(&self.w2[expert * size..][..size], self.hidden, self.dim)
    }

    /// The output `[batch, tokens, dim]` and the hidden layer before its GELU `[experts, batch x taken, hidden]`.
    pub(super) fn forward<N: Products>(&self, x: &[N]) -> (Vec<N>, Vec<N>) {
        let (rows, dim, width) = (self.rows(), self.dim, self.hidden);
        let threads = self.threads();
        let mut hidden = unwritten::<N>(self.experts * rows * width);
        let mut output = unwritten::<N>(self.experts * rows * dim);
        (
            hidden.par_chunks_mut(rows * width),
            output.par_chunks_mut(rows * dim),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(expert, (hidden, output))| {
                let input = self.gather(x, expert);
                let input = Matrix::new(&input, rows, dim);
                N::times(hidden, input, self.w1(expert), None, threads);
                let mut activated = unwritten::<N>(hidden.len());
                simd(
                    #[inline(always)]
                    || {
                        for (out, h) in activated.iter_mut().zip(&*hidden) {
                            let h = h.wide();
                            *out = N::of(h * normal_distribution(h).0);
                        }
                    },
                );
                let activated = Matrix::new(&activated, rows, width);
                N::times(output, activated, self.w2(expert), None, threads);
            });
        (self.scatter(&output, Some(self.weights)), hidden)
    }

    /// Gradients from the output's, with the hidden layer of the forward pass.
    pub(super) fn backward<N: Products>(&self, x: &[N], hidden: &[N], grad: &[N]) -> Grads<N> {
        let (rows, dim, width) = (self.rows(), self.dim, self.hidden);
        let threads = self.threads();
        let mut w1_grad = unwritten(self.w1.len());
        let mut w2_grad = unwritten(self.w2.len());
        let mut input_grad = unwritten::<N>(self.experts * rows * dim);
        let mut row_grad = unwritten::<f32>(self.experts * rows);
        let outputs = (
            w1_grad.par_chunks_mut(dim * width),
            w2_grad.par_chunks_mut(dim * width),
            input_grad.par_chunks_mut(rows * dim),
            row_grad.par_chunks_mut(rows),
        );
        outputs
            .into_par_iter()
            .zip(hidden.par_chunks(rows * width))
            .enumerate()
            .for_each(
                |(expert, ((w1_grad, w2_grad, input_grad, row_grad), hidden))| {
                    let mut grad = self.gather(grad, expert);
                    // Gradient of the activated layer, then of the hidden one.
                    let mut back = unwritten::<N>(hidden.len());
                    let output_grad = Matrix::new(&grad, rows, dim);
                    N::times(&mut back, output_grad, self.w2(expert).t(), None, threads);
                    let mut activated = unwritten::<N>(hidden.len());
                    // The GELU's derivative, times the token's weight, along a row.
                    let mut slopes = vec![0.0; width];
                    simd(
                        #[inline(always)]
                        || {
                            for row in 0..rows {
                                let weight = self.weights[self.slot(expert, row)];
                                let part = row * width..(row + 1) * width;
                                let (back, activated) =
                                    (&mut back[part.clone()], &mut activated[part.clone()]);
                                let outputs = activated.iter_mut().zip(&mut slopes);
                                for ((out, slope), h) in outputs.zip(&hidden[part]) {
                                    let h = h.wide();
                                    let (cumulative, bell) = normal_distribution(h);
                                    *out = N::of(h * cumulative);
                                    *slope = weight * (cumulative + h * bell);
                                }
                                row_grad[row] = dot(back, activated);
                                for (back, slope) in back.iter_mut().zip(&slopes) {
                                    *back = N::of(back.wide() * slope);
                                }
                                for g in &mut grad[row * dim..][..dim] {
                                    *g = N::of(g.wide() * weight);
                                }
                            }
                        },
                    );
                    let activated = Matrix::new(&activated, rows, width);
                    let output_grad = Matrix::new(&grad, rows, dim);
                    N::gradient(w2_grad, activated, output_grad, threads);
                    let hidden_grad = Matrix::new(&back, rows, width);
                    let input = self.gather(x, expert);
                    let input = Matrix::new(&input, rows, dim);
                    N::gradient(w1_grad, input, hidden_grad, threads);
                    N::times(input_grad, hidden_grad, self.w1(expert).t(), None, threads);
                },
            );
        let mut weights = unwritten(row_grad.len());
        for (i, grad) in row_grad.into_iter().enumerate() {
            weights[self.slot(i / rows, i % rows)] = grad;
        }
        Grads {
            x: self.scatter(&input_grad, None),
            weights,
            w1: w1_grad,
            w2: w2_grad,
        }
    }
}
