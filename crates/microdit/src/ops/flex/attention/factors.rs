//! What the numbers of tensors are in attention's products: f32 as they are, bf16 as pairs.

use super::super::{
    bf16::{pair, pair_rows, pairs_of},
    buffer::Lines,
    number::Number,
    simd::simd,
    small::Element,
};
use burn::tensor::bf16;

/// Numbers whose products [`multiply_small`](super::super::small::multiply_small) computes.
pub(in super::super) trait Factors: Number {
    /// What it takes.
    type Element: Element;

    /// Queries whose scores are computed at once: whole tiles of products, few enough for the cache.
    const QUERIES: usize;

    /// How many of them `count` numbers are along the inner dimension.
    fn elements(count: usize) -> usize;

    /// Rows of `width` numbers that lie along the inner dimension: `[rows, width]`.
    fn rows<'a>(
        x: &'a [f32],
        width: usize,
        buffer: &'a mut Lines<Self::Element>,
    ) -> &'a [Self::Element];

    /// Rows of `width` numbers that lie across it: `[rows, width]`, of which each row is one step along it.
    fn columns<'a>(
        x: &'a [f32],
        width: usize,
        buffer: &'a mut Lines<Self::Element>,
    ) -> &'a [Self::Element];
}

impl Factors for f32 {
    type Element = Self;

    const QUERIES: usize = 48;

    fn elements(count: usize) -> usize {
        count
    }

    fn rows<'a>(x: &'a [f32], _: usize, _: &'a mut Lines) -> &'a [f32] {
        x
    }

    fn columns<'a>(x: &'a [f32], _: usize, _: &'a mut Lines) -> &'a [f32] {
        x
    }
}

impl Factors for bf16 {
    type Element = u32;

    const QUERIES: usize = 64;

    fn elements(count: usize) -> usize {
        pairs_of(count)
    }

    fn rows<'a>(x: &'a [f32], width: usize, buffer: &'a mut Lines<u32>) -> &'a [u32] {
        let pairs = pairs_of(width);
        let out = buffer.resized(x.len() / width * pairs);
        simd(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(pairs).zip(x.chunks_exact(width)) {
                    let (whole, last) = row.as_chunks::<2>();
                    let (pairs, rest) = out.split_at_mut(whole.len());
                    for (out, &[first, second]) in pairs.iter_mut().zip(whole) {
                        *out = pair(first, second);
                    }
                    rest.fill(0);
                    if let [last] = last {
                        rest[0] = pair(*last, 0.0);
                    }
                }
            },
        );
        out
    }

    fn columns<'a>(x: &'a [f32], width: usize, buffer: &'a mut Lines<u32>) -> &'a [u32] {
        let rows = x.len() / width;
        let out = buffer.resized(pairs_of(rows) * width);
        simd(
            #[inline(always)]
            || {
                for (out, rows) in out.chunks_exact_mut(width).zip(x.chunks(2 * width)) {
                    let (first, second) = rows.split_at(width);
                    pair_rows(first, (!second.is_empty()).then_some(second), out);
                }
                out[rows.div_ceil(2) * width..].fill(0);
            },
        );
        out
    }
}
