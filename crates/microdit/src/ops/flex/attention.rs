//! Attention over packed heads, one sample at a time: the scores of a head live in the cache and are computed again in
//! the backward pass.

use super::{
    matrix::{Matrix, Threads, multiply},
    norm::{statistics, through_norm},
    simd::{exp_negative, max, simd, sum, sum2},
};

/// `count` rows of `width` elements, packed beside others: row `i` begins at `i * stride + offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) count: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) offset: usize,
}

impl<'a> Rows<'a> {
    /// The `index`-th of the blocks of `width` elements that make up each row of `data`.
    pub(super) fn packed(data: &'a [f32], width: usize, blocks: usize, index: usize) -> Self {
        Self {
            data,
            count: data.len() / (width * blocks),
            width,
            stride: width * blocks,
            offset: index * width,
        }
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride + self.offset..][..self.width]
    }

    /// Columns `head * head_dim..` of all rows.
    fn head(&self, head: usize, head_dim: usize) -> Matrix<'a> {
        let data = &self.data[self.offset + head * head_dim..];
        Matrix::strided(data, self.count, head_dim, self.stride)
    }
}

/// How the width splits into heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) eps: f32,
    /// Who computes: all threads if there is but one sample.
    pub(super) threads: Threads,
}

/// Buffers of one sample's attention, used again for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    q: Normed,
    k: Normed,
    scores: Vec<f32>,
    /// What each row of `scores` is to be multiplied by to sum to 1.
    factors: Vec<f32>,
    score_grad: Vec<f32>,
    /// Gradients of the last backward pass, rows one after the other.
    pub(super) q_grad: Vec<f32>,
    pub(super) k_grad: Vec<f32>,
    pub(super) v_grad: Vec<f32>,
}

/// Normed rows and their `1 / sqrt(variance + eps)`.
#[derive(Debug, Default)]
struct Normed {
    values: Vec<f32>,
    inverse: Vec<f32>,
}

impl Normed {
    fn fill(&mut self, rows: Rows<'_>, eps: f32) {
        self.values.resize(rows.count * rows.width, 0.0);
        self.inverse.resize(rows.count, 0.0);
        simd(
            #[inline(always)]
            || {
                let out = self.values.chunks_exact_mut(rows.width);
                for (i, (out, inverse)) in out.zip(&mut self.inverse).enumerate() {
                    let row = rows.row(i);
                    let (mean, factor) = statistics(row, eps);
                    *inverse = factor;
                    for (out, x) in out.iter_mut().zip(row) {
                        *out = (x - mean) * factor;
                    }
                }
            },
        );
    }

    fn rows(&self, width: usize) -> Rows<'_> {
        Rows::packed(&self.values, width, 1, 0)
    }

    /// Turns gradients of the normed rows into gradients of the rows.
    fn backward(&self, grad: &mut [f32], width: usize) {
        simd(
            #[inline(always)]
            || {
                let rows = self.values.chunks_exact(width).zip(&self.inverse);
                for (grad, (normed, &inverse)) in grad.chunks_exact_mut(width).zip(rows) {
                    through_norm(grad, normed, inverse);
                }
            },
        );
    }
}

/// Exponentials of every row, in place, and in `factors` what turns each row into its softmax.
fn exponentials(scores: &mut [f32], words: usize, factors: &mut Vec<f32>) {
    factors.resize(scores.len() / words, 0.0);
    simd(
        #[inline(always)]
        || {
            for row in scores.chunks_exact_mut(words) {
                let top = max(row);
                for x in row {
                    *x -= top;
                }
            }
            // In one loop over all rows, which may be too short to fill a vector each.
            for x in scores.iter_mut() {
                *x = exp_negative(*x);
            }
            for (row, factor) in scores.chunks_exact(words).zip(&mut *factors) {
                *factor = 1.0 / sum(row, |x| x);
            }
        },
    );
}

impl Scratch {
    /// One head's scores: the exponentials, and the factors that make softmaxes of them.
    fn score(&mut self, q: Rows<'_>, k: Rows<'_>, heads: Heads, head: usize) {
        let head_dim = q.width / heads.count;
        let scale = 1.0 / (head_dim as f32).sqrt();
        self.scores.resize(q.count * k.count, 0.0);
        multiply(
            &mut self.scores,
            k.count,
            self.q.rows(q.width).head(head, head_dim),
            self.k.rows(k.width).head(head, head_dim).t(),
            scale,
            false,
            heads.threads,
        );
        exponentials(&mut self.scores, k.count, &mut self.factors);
    }

    /// One sample: `out` `[tokens, width]`.
    pub(super) fn forward(
        &mut self,
        out: &mut [f32],
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        heads: Heads,
    ) {
        self.q.fill(q, heads.eps);
        self.k.fill(k, heads.eps);
        let head_dim = q.width / heads.count;
        for head in 0..heads.count {
            self.score(q, k, heads, head);
            multiply(
                &mut out[head * head_dim..],
                q.width,
                Matrix::new(&self.scores, q.count, k.count),
                v.head(head, head_dim),
                1.0,
                false,
                heads.threads,
            );
            // The output is narrower than the scores: it is cheaper to scale.
            simd(
                #[inline(always)]
                || {
                    for (row, factor) in out.chunks_exact_mut(q.width).zip(&self.factors) {
                        for x in &mut row[head * head_dim..][..head_dim] {
                            *x *= factor;
                        }
                    }
                },
            );
        }
    }

    /// One sample: from `grad` `[tokens, width]` to the three gradients.
    pub(super) fn backward(
        &mut self,
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        grad: &[f32],
        heads: Heads,
    ) {
        self.q.fill(q, heads.eps);
        self.k.fill(k, heads.eps);
        let (width, words) = (q.width, k.count);
        self.q_grad.resize(q.count * width, 0.0);
        self.k_grad.resize(words * width, 0.0);
        self.v_grad.resize(words * width, 0.0);
        self.score_grad.resize(q.count * words, 0.0);
        let head_dim = width / heads.count;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let grad = Rows::packed(grad, width, 1, 0);
        for head in 0..heads.count {
            self.score(q, k, heads, head);
            simd(
                #[inline(always)]
                || {
                    let rows = self.scores.chunks_exact_mut(words);
                    for (row, factor) in rows.zip(&self.factors) {
                        for x in row {
                            *x *= factor;
                        }
                    }
                },
            );
            let grad = grad.head(head, head_dim);
            let first = head * head_dim;
            let scores = Matrix::new(&self.scores, q.count, words);
            let v_grad = &mut self.v_grad[first..];
            multiply(v_grad, width, scores.t(), grad, 1.0, false, heads.threads);
            let v = v.head(head, head_dim).t();
            multiply(
                &mut self.score_grad,
                words,
                grad,
                v,
                1.0,
                false,
                heads.threads,
            );
            simd(
                #[inline(always)]
                || {
                    // Softmax: p (g - sum(g p)).
                    let rows = self.scores.chunks_exact(words);
                    for (grad, scores) in self.score_grad.chunks_exact_mut(words).zip(rows) {
                        let along = sum2(grad, scores, |g, p| g * p);
                        for (g, p) in grad.iter_mut().zip(scores) {
                            *g = p * (*g - along);
                        }
                    }
                },
            );
            let logit_grad = Matrix::new(&self.score_grad, q.count, words);
            let k = self.k.rows(width).head(head, head_dim);
            let q_grad = &mut self.q_grad[first..];
            multiply(q_grad, width, logit_grad, k, scale, false, heads.threads);
            let q = self.q.rows(width).head(head, head_dim);
            let k_grad = &mut self.k_grad[first..];
            multiply(
                k_grad,
                width,
                logit_grad.t(),
                q,
                scale,
                false,
                heads.threads,
            );
        }
        self.q.backward(&mut self.q_grad, width);
        self.k.backward(&mut self.k_grad, width);
    }
}

/// Writes rows one after the other into the `index`-th block of each row of `out`.
pub(super) fn pack(rows: &[f32], out: &mut [f32], width: usize, blocks: usize, index: usize) {
    let out = out.chunks_exact_mut(width * blocks);
    for (row, out) in rows.chunks_exact(width).zip(out) {
        out[index * width..][..width].copy_from_slice(row);
    }
}
