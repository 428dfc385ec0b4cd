//! Attention, head by head: a head's rows are laid one after the other, and its scores are computed for a block of
//! queries at a time, which stays in the cache, and recomputed in the backward pass.

use super::super::{
    buffer::Lines,
    norm::{statistics, through_norm},
    number::Number,
    simd::{dot, exp_negative, max, simd, sum},
    small::{Element, Left, multiply_small},
    transpose,
};
use super::{
    factors::Factors,
    heads::{Heads, Rule},
};
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

/// Blocks of queries that a thread takes at a time where a head has more.
const SHARE: usize = 8;

/// `count` rows of `width` elements, packed beside others: row `i` begins at `i * stride + offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a, N> {
    data: &'a [N],
    count: usize,
    width: usize,
    stride: usize,
    offset: usize,
}

impl<'a, N> Rows<'a, N> {
    /// The `index`-th of the blocks of `width` elements that make up each row of `data`.
    pub(super) fn packed(data: &'a [N], width: usize, blocks: usize, index: usize) -> Self {
        Self {
            data,
            count: data.len() / (width * blocks),
            width,
            stride: width * blocks,
            offset: index * width,
        }
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &'a [N] {
        &self.data[i * self.stride + self.offset..][..self.width]
    }
}

/// Lays out rows as `[heads, rows, head_dim]`; `shift_and_factor` says what is taken from a row and what it is multiplied
/// by.
#[inline(always)]
fn split<N: Number>(
    rows: Rows<'_, N>,
    heads: usize,
    out: &mut Lines,
    mut shift_and_factor: impl FnMut(&[N]) -> (f32, f32),
) {
    let head_dim = rows.width / heads;
    let out = out.resized(rows.count * rows.width);
    simd(
        #[inline(always)]
        || {
            for i in 0..rows.count {
                let row = rows.row(i);
                let (shift, factor) = shift_and_factor(row);
                for (head, row) in row.chunks_exact(head_dim).enumerate() {
                    let out = &mut out[(head * rows.count + i) * head_dim..][..head_dim];
                    for (out, x) in out.iter_mut().zip(row) {
                        *out = (x.wide() - shift) * factor;
                    }
                }
            }
        },
    );
}

/// Row `i` of `values` `[heads, rows, head_dim]`.
#[inline(always)]
fn gather<N: Number>(values: &[f32], i: usize, heads: usize, out: &mut [N]) {
    let (rows, head_dim) = (values.len() / out.len(), out.len() / heads);
    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let row = &values[(head * rows + i) * head_dim..][..head_dim];
        // Calling `memcpy` for so few would take longer than the copy.
        for (out, x) in out.iter_mut().zip(row) {
            *out = N::of(*x);
        }
    }
}

/// Queries, keys or values of one sample and their gradients, both `[heads, rows, head_dim]`.
#[derive(Debug, Default)]
pub(super) struct Part {
    values: Lines,
    grad: Lines,
    /// `1 / sqrt(variance + eps)` of each row, if rows are normed.
    inverse: Vec<f32>,
}

impl Part {
    fn fill<N: Number>(&mut self, rows: Rows<'_, N>, heads: usize) {
        self.inverse.clear();
        split(rows, heads, &mut self.values, |_| (0.0, 1.0));
    }

    fn fill_normed<N: Number>(&mut self, rows: Rows<'_, N>, heads: Heads<'_>) {
        let Some(eps) = heads.eps else {
            return self.fill(rows, heads.count);
        };
        self.inverse.clear();
        split(
            rows,
            heads.count,
            &mut self.values,
            #[inline(always)]
            |row| {
                let (mean, inverse) = statistics(row, eps);
                self.inverse.push(inverse);
                (mean, inverse)
            },
        );
    }

    /// Writes the gradients of the rows into the `index`-th of the `blocks` of `width` elements that make up each row of
    /// `out`.
    pub(super) fn write_grad<N: Number>(
        &self,
        out: &mut [N],
        width: usize,
        heads: Heads<'_>,
        blocks: usize,
        index: usize,
    ) {
        let [mut grad, mut normed] = [0, 1].map(|_| vec![0f32; width]);
        simd(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width * blocks).enumerate() {
                    gather(&self.grad, i, heads.count, &mut grad);
                    if let Some(&inverse) = self.inverse.get(i) {
                        gather(&self.values, i, heads.count, &mut normed);
                        through_norm(&mut grad, &normed, inverse);
                    }
                    for (out, grad) in out[index * width..][..width].iter_mut().zip(&grad) {
                        *out = N::of(*grad);
                    }
                }
            },
        );
    }
}

/// Buffers of one sample's attention, used again for the next.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) q: Part,
    pub(super) k: Part,
    pub(super) v: Part,
    /// The output, or its gradient.
    out: Lines,
}

impl Sample {
    fn fill<N: Number>(&mut self, [q, k, v]: [Rows<'_, N>; 3], heads: Heads<'_>) {
        self.q.fill_normed(q, heads);
        self.k.fill_normed(k, heads);
        self.v.fill(v, heads.count);
    }

    /// Writes the output `[tokens, width]`.
    pub(super) fn forward<N: Factors>(
        &mut self,
        out: &mut [N],
        qkv: [Rows<'_, N>; 3],
        heads: Heads<'_>,
    ) {
        self.fill(qkv, heads);
        let [Rows { width, count, .. }, k, _] = qkv;
        let head_dim = width / heads.count;
        let inputs = (
            self.q.values.par_chunks(count * head_dim),
            self.k.values.par_chunks(k.count * head_dim),
            self.v.values.par_chunks(k.count * head_dim),
        );
        let outputs = self.out.resized(count * width);
        outputs
            .par_chunks_mut(count * head_dim)
            .zip(inputs.into_par_iter())
            .enumerate()
            .for_each_init(Head::<N>::default, |head, (i, (out, (q, k, v)))| {
                head.forward(out, q, k, v, head_dim, heads.of_head(i));
            });
        simd(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    gather(&self.out, i, heads.count, out);
                }
            },
        );
    }

    /// Leaves the gradients in `q`, `k` and `v`, given that of the output `[tokens, width]`.
    pub(super) fn backward<N: Factors>(
        &mut self,
        grad: &[N],
        qkv: [Rows<'_, N>; 3],
        heads: Heads<'_>,
    ) {
        self.fill(qkv, heads);
        let [Rows { width, count, .. }, k, _] = qkv;
        let head_dim = width / heads.count;
        let grad = Rows::packed(grad, width, 1, 0);
        split(grad, heads.count, &mut self.out, |_| (0.0, 1.0));
        let (queries, keys) = (count * head_dim, k.count * head_dim);
        let outputs = (
            self.q.grad.resized(count * width).par_chunks_mut(queries),
            self.k.grad.resized(k.count * width).par_chunks_mut(keys),
            self.v.grad.resized(k.count * width).par_chunks_mut(keys),
        );
        let inputs = (
            self.out.par_chunks(queries),
            self.q.values.par_chunks(queries),
            self.k.values.par_chunks(keys),
            self.v.values.par_chunks(keys),
        );
        outputs
            .into_par_iter()
            .zip(inputs.into_par_iter())
            .for_each_init(
                Head::<N>::default,
                |head, ((dq, dk, dv), (grad, q, k, v))| {
                    head.backward([dq, dk, dv], grad, q, k, v, head_dim);
                },
            );
    }
}

/// Buffers of the scores of some queries, used again for the next.
#[derive(Debug)]
struct Scores<N: Factors> {
    /// `[queries, words]`.
    scores: Lines,
    /// What each row of `scores` must be multiplied by to sum to 1.
    factors: Vec<f32>,
    /// Queries and scores as products take them.
    queries: Lines<N::Element>,
    weights: Lines<N::Element>,
}

impl<N: Factors> Default for Scores<N> {
    fn default() -> Self {
        Self {
            scores: Lines::default(),
            factors: Vec::new(),
            queries: Lines::default(),
            weights: Lines::default(),
        }
    }
}

impl<N: Factors> Scores<N> {
    /// The output for the queries `q`, a block at a time; `keys` as `[head_dim, words]`, both they and `values` as products take them.
    fn attend(
        &mut self,
        out: &mut [f32],
        q: &[f32],
        keys: &[N::Element],
        values: &[N::Element],
        [head_dim, words]: [usize; 2],
        rule: Rule<'_>,
    ) {
        let block = N::QUERIES * head_dim;
        for (i, (out, q)) in out.chunks_mut(block).zip(q.chunks(block)).enumerate() {
            let rule = rule.at_query(i * N::QUERIES, words);
            let scores = self.scores.resized(q.len() / head_dim * words);
            let queries = N::rows(q, head_dim, &mut self.queries);
            let sizes = [head_dim, words];
            score(scores, queries, keys, sizes, rule, &mut self.factors);
            let weights = Left::Rows(N::rows(scores, words, &mut self.weights));
            multiply_small(out, weights, values, head_dim, 1.0, false);
            // The output is narrower than the scores: it is cheaper to scale.
            scale_rows(out, head_dim, &self.factors);
        }
    }
}

/// Buffers of one head's attention, used again for the next.
#[derive(Debug)]
struct Head<N: Factors> {
    /// `[head_dim, words]`.
    keys: Lines<N::Element>,
    /// `[head_dim, words]`.
    values: Lines<N::Element>,
    scores: Scores<N>,
    score_grad: Lines,
    /// Factors as products take them.
    taken: [Lines<N::Element>; 3],
}

impl<N: Factors> Default for Head<N> {
    fn default() -> Self {
        Self {
            keys: Lines::default(),
            values: Lines::default(),
            scores: Scores::default(),
            score_grad: Lines::default(),
            taken: Default::default(),
        }
    }
}

impl<N: Factors> Head<N> {
    fn forward(
        &mut self,
        out: &mut [f32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        head_dim: usize,
        rule: Rule<'_>,
    ) {
        let Self {
            keys,
            scores,
            taken: [along, right, _],
            ..
        } = self;
        to_columns(N::rows(k, head_dim, along), N::elements(head_dim), keys);
        let (keys, v) = (&**keys, N::columns(v, head_dim, right));
        let words = k.len() / head_dim;
        let sizes = [head_dim, words];
        let share = SHARE * N::QUERIES * head_dim;
        if out.len() <= share {
            return scores.attend(out, q, keys, v, sizes, rule);
        }
        // There may be a single head in a single image.
        out.par_chunks_mut(share)
            .zip(q.par_chunks(share))
            .enumerate()
            .for_each_init(Scores::<N>::default, |scores, (i, (out, q))| {
                let rule = rule.at_query(i * SHARE * N::QUERIES, words);
                scores.attend(out, q, keys, v, sizes, rule);
            });
    }

    fn backward(
        &mut self,
        [q_grad, k_grad, v_grad]: [&mut [f32]; 3],
        grad: &[f32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        head_dim: usize,
    ) {
        let Self {
            keys,
            values,
            scores:
                Scores {
                    scores,
                    factors,
                    queries: left,
                    weights,
                },
            score_grad,
            taken: [along, right, across],
        } = self;
        let elements = N::elements(head_dim);
        to_columns(N::rows(k, head_dim, along), elements, keys);
        to_columns(N::rows(v, head_dim, along), elements, values);
        let words = k.len() / head_dim;
        let k = N::columns(k, head_dim, right);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let block = N::QUERIES * head_dim;
        let blocks = q.chunks(block).zip(grad.chunks(block));
        for (i, (q_grad, (q, grad))) in q_grad.chunks_mut(block).zip(blocks).enumerate() {
            let scores = scores.resized(q.len() / head_dim * words);
            score(
                scores,
                N::rows(q, head_dim, left),
                keys,
                [head_dim, words],
                Rule::SCALED,
                factors,
            );
            scale_rows(scores, words, factors);
            let columns = Left::Columns(N::columns(scores, words, weights));
            let grad_columns = N::columns(grad, head_dim, across);
            multiply_small(v_grad, columns, grad_columns, head_dim, 1.0, i > 0);
            let score_grad = score_grad.resized(scores.len());
            let rows = Left::Rows(N::rows(grad, head_dim, left));
            multiply_small(score_grad, rows, values, words, 1.0, false);
            through_softmax(score_grad, scores, words);
            let rows = Left::Rows(N::rows(score_grad, words, left));
            multiply_small(q_grad, rows, k, head_dim, scale, false);
            let columns = Left::Columns(N::columns(score_grad, words, weights));
            let q = N::columns(q, head_dim, across);
            multiply_small(k_grad, columns, q, head_dim, scale, i > 0);
        }
    }
}

/// The exponentials of the scores of some queries, and the factors that make softmaxes of them.
fn score<E: Element>(
    scores: &mut [f32],
    q: &[E],
    keys: &[E],
    [head_dim, words]: [usize; 2],
    rule: Rule<'_>,
    factors: &mut Vec<f32>,
) {
    let scale = match rule.is_scaled {
        true => 1.0 / (head_dim as f32).sqrt(),
        false => 1.0,
    };
    if let Some(bias) = rule.bias {
        scores.copy_from_slice(&bias[..scores.len()]);
    }
    let is_begun = rule.bias.is_some();
    multiply_small(scores, Left::Rows(q), keys, words, scale, is_begun);
    if let Some(place) = rule.place {
        for (i, row) in scores.chunks_exact_mut(words).enumerate() {
            row[(place + i + 1).min(words)..].fill(f32::NEG_INFINITY);
        }
    }
    if let Some(padding) = rule.padding {
        simd(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(words) {
                    for (score, padding) in row.iter_mut().zip(padding) {
                        *score += padding;
                    }
                }
            },
        );
    }
    exponentials(scores, words, factors);
}

/// `[rows, columns]` to `[columns, rows]`.
fn to_columns<E: Element>(rows: &[E], columns: usize, out: &mut Lines<E>) {
    let out = out.resized(rows.len());
    transpose::transpose(cast_slice(rows), columns, cast_slice_mut(out));
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
            for (row, factor) in scores.chunks_exact(words).zip(factors) {
                *factor = 1.0 / sum(row, |x| x);
            }
        },
    );
}

fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for (row, factor) in rows.chunks_exact_mut(width).zip(factors) {
                for x in row {
                    *x *= factor;
                }
            }
        },
    );
}

/// The gradient `g` of a softmax `p` becomes that of its logits: `p (g - sum(g p))`.
fn through_softmax(grad: &mut [f32], softmax: &[f32], words: usize) {
    simd(
        #[inline(always)]
        || {
            let rows = softmax.chunks_exact(words);
            for (grad, softmax) in grad.chunks_exact_mut(words).zip(rows) {
                let along = dot(grad, softmax);
                for (g, p) in grad.iter_mut().zip(softmax) {
                    *g = p * (*g - along);
                }
            }
        },
    );
}
