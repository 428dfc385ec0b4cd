//! Experts over the tokens they chose: gather, two products per expert, scatter.

use super::{
    buffer::unwritten,
    flat,
    matrix::{Matrix, Threads, multiply},
    simd::{dot, normal_distribution, simd},
    slices,
};
use crate::ops::ExpertInputs;
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
pub(super) struct Grads {
    pub(super) x: Vec<f32>,
    pub(super) weights: Vec<f32>,
    pub(super) w1: Vec<f32>,
    pub(super) w2: Vec<f32>,
}

/// Runs `with` on the experts' sizes and slices, and on the tokens.
pub(super) fn with<R>(
    inputs: ExpertInputs<Flex>,
    with: impl FnOnce(Experts<'_>, &[f32]) -> R,
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
    let tensors = [
        flat(inputs.x),
        flat(inputs.weights),
        flat(inputs.w1),
        flat(inputs.w2),
    ];
    let [x, weights, w1, w2] = slices(&tensors);
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
    with(layer, x)
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
    fn gather(&self, x: &[f32], expert: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows() * self.dim);
        for row in 0..self.rows() {
            let token = row / self.taken * self.tokens + self.chosen[self.slot(expert, row)];
            out.extend_from_slice(&x[token * self.dim..][..self.dim]);
        }
        out
    }

    /// Adds the experts' rows `[experts, batch x taken, dim]`, times their weights if given, into the tokens' places.
    fn scatter(&self, rows: &[f32], weights: Option<&[f32]>) -> Vec<f32> {
        let mut out = vec![0.0; self.batch * self.tokens * self.dim];
        out.par_chunks_mut(self.tokens * self.dim)
            .enumerate()
            .for_each(|(sample, out)| {
                simd(
                    #[inline(always)]
                    || {
                        for expert in 0..self.experts {
                            for place in 0..self.taken {
                                let row = sample * self.taken + place;
                                let slot = self.slot(expert, row);
                                let from =
                                    &rows[(expert * self.rows() + row) * self.dim..][..self.dim];
                                let to = &mut out[self.chosen[slot] * self.dim..][..self.dim];
                                let weight = weights.map_or(1.0, |weights| weights[slot]);
                                for (to, from) in to.iter_mut().zip(from) {
                                    *to += weight * from;
                                }
                            }
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
    pub(super) fn forward(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (rows, dim, width) = (self.rows(), self.dim, self.hidden);
        let threads = self.threads();
        let mut hidden = unwritten(self.experts * rows * width);
        let mut output = unwritten(self.experts * rows * dim);
        (
            hidden.par_chunks_mut(rows * width),
            output.par_chunks_mut(rows * dim),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(expert, (hidden, output))| {
                let input = self.gather(x, expert);
                let input = Matrix::new(&input, rows, dim);
                multiply(hidden, width, input, self.w1(expert), 1.0, false, threads);
                let mut activated = unwritten(hidden.len());
                simd(
                    #[inline(always)]
                    || {
                        for (out, h) in activated.iter_mut().zip(&*hidden) {
                            *out = h * normal_distribution(*h).0;
                        }
                    },
                );
                let activated = Matrix::new(&activated, rows, width);
                multiply(output, dim, activated, self.w2(expert), 1.0, false, threads);
            });
        (self.scatter(&output, Some(self.weights)), hidden)
    }

    /// Gradients from the output's, with the hidden layer of the forward pass.
    pub(super) fn backward(&self, x: &[f32], hidden: &[f32], grad: &[f32]) -> Grads {
        let (rows, dim, width) = (self.rows(), self.dim, self.hidden);
        let threads = self.threads();
        let mut w1_grad = unwritten(self.w1.len());
        let mut w2_grad = unwritten(self.w2.len());
        let mut input_grad = unwritten(self.experts * rows * dim);
        let mut row_grad = unwritten(self.experts * rows);
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
                    let mut back = unwritten(hidden.len());
                    let output_grad = Matrix::new(&grad, rows, dim);
                    multiply(
                        &mut back,
                        width,
                        output_grad,
                        self.w2(expert).t(),
                        1.0,
                        false,
                        threads,
                    );
                    let mut activated = unwritten(hidden.len());
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
                                    let (cumulative, bell) = normal_distribution(*h);
                                    *out = h * cumulative;
                                    *slope = weight * (cumulative + h * bell);
                                }
                                row_grad[row] = dot(back, activated);
                                for (back, slope) in back.iter_mut().zip(&slopes) {
                                    *back *= slope;
                                }
                                for g in &mut grad[row * dim..][..dim] {
                                    *g *= weight;
                                }
                            }
                        },
                    );
                    let activated = Matrix::new(&activated, rows, width);
                    let output_grad = Matrix::new(&grad, rows, dim);
                    multiply(
                        w2_grad,
                        dim,
                        activated.t(),
                        output_grad,
                        1.0,
                        false,
                        threads,
                    );
                    let hidden_grad = Matrix::new(&back, rows, width);
                    let input = self.gather(x, expert);
                    let input = Matrix::new(&input, rows, dim);
                    multiply(w1_grad, width, input.t(), hidden_grad, 1.0, false, threads);
                    multiply(
                        input_grad,
                        dim,
                        hidden_grad,
                        self.w1(expert).t(),
                        1.0,
                        false,
                        threads,
                    );
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
