//! What the factors of a product are made of: numbers of f32, or pairs of bf16, which are multiplied two at a time.

use super::super::{
    bf16::{self, Dot, WithDot, pair, pair_rows},
    number::Number,
    pointwise::convert,
    simd::simd,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::borrow::Cow;

/// A number of an image, and what it is multiplied as.
pub(in super::super) trait Pixel: Number {
    type Term: Term;

    /// The numbers, if they are f32.
    fn in_f32(x: &[Self]) -> Option<&[f32]>;

    /// Rounded.
    fn of_f32(x: Vec<f32>) -> Vec<Self>;
}

impl Pixel for f32 {
    type Term = Self;

    fn in_f32(x: &[Self]) -> Option<&[f32]> {
        Some(x)
    }

    fn of_f32(x: Vec<f32>) -> Vec<Self> {
        x
    }
}

impl Pixel for burn::tensor::bf16 {
    type Term = u32;

    fn in_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn of_f32(x: Vec<f32>) -> Vec<Self> {
        convert(&x)
    }
}

/// One or two neighboring elements of a product's inner dimension.
pub(in super::super) trait Term: Copy + Default + Send + Sync {
    /// How many elements.
    const NUMBERS: usize;

    /// The elements of a row, the last perhaps with zero; a row of `out` has room for as many.
    fn neighbors(row: &[f32], out: &mut [Self]);

    /// A row of terms, from as many rows of elements as each has; `fill` writes the one it is given the number of.
    fn across<const N: usize>(out: &mut [Self; N], fill: impl FnMut(usize, &mut [f32; N]));

    /// Rows of `inner` elements as rows of terms.
    fn rows(values: &[f32], inner: usize) -> Cow<'_, [Self]>;

    /// Does work on vectors of terms, the widest that the processor has.
    fn dispatch(work: impl Work<Self>);
}

/// Work for which terms are multiplied.
pub(in super::super) trait Work<T: Term> {
    /// Does it; to be inlined, with everything it calls.
    fn run<S: Simd, P: Products<S, T>>(self, simd: S, products: P);
}

/// Multiplies vectors of terms.
pub(in super::super) trait Products<S: Simd, T>: Copy {
    type Vector: Copy;

    fn splat(self, simd: S, term: T) -> Self::Vector;

    /// Whole vectors.
    fn load(self, terms: &[T]) -> &[Self::Vector];

    /// `sum + left right`.
    fn add(self, simd: S, sum: S::f32s, left: Self::Vector, right: Self::Vector) -> S::f32s;
}

impl Term for f32 {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn neighbors(row: &[f32], out: &mut [Self]) {
        out.copy_from_slice(&row[..out.len()]);
    }

    #[inline(always)]
    fn across<const N: usize>(out: &mut [Self; N], mut fill: impl FnMut(usize, &mut [f32; N])) {
        fill(0, out);
    }

    fn rows(values: &[f32], _inner: usize) -> Cow<'_, [Self]> {
        Cow::Borrowed(values)
    }

    fn dispatch(work: impl Work<Self>) {
        struct Single<W>(W);
        impl<W: Work<f32>> WithSimd for Single<W> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                self.0.run(simd, Singles);
            }
        }
        Arch::new().dispatch(Single(work));
    }
}

/// By fused multiply-adds.
#[derive(Clone, Copy, Debug)]
struct Singles;

impl<S: Simd> Products<S, f32> for Singles {
    type Vector = S::f32s;

    #[inline(always)]
    fn splat(self, simd: S, term: f32) -> S::f32s {
        simd.splat_f32s(term)
    }

    #[inline(always)]
    fn load(self, terms: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(terms).0
    }

    #[inline(always)]
    fn add(self, simd: S, sum: S::f32s, left: S::f32s, right: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(left, right, sum)
    }
}

impl Term for u32 {
    const NUMBERS: usize = 2;

    #[inline(always)]
    fn neighbors(row: &[f32], out: &mut [Self]) {
        let (pairs, rest) = row.as_chunks::<2>();
        for (out, [first, second]) in out.iter_mut().zip(pairs) {
            *out = pair(*first, *second);
        }
        if let (Some(out), [last]) = (out.get_mut(pairs.len()), rest) {
            *out = pair(*last, 0.0);
        }
    }

    #[inline(always)]
    fn across<const N: usize>(out: &mut [Self; N], mut fill: impl FnMut(usize, &mut [f32; N])) {
        let mut rows = [[0.0; N]; 2];
        for (i, row) in rows.iter_mut().enumerate() {
            fill(i, row);
        }
        pair_rows(&rows[0], Some(&rows[1]), out);
    }

    fn rows(values: &[f32], inner: usize) -> Cow<'_, [Self]> {
        let pairs = inner.div_ceil(2);
        let mut out = vec![0; values.len() / inner * pairs];
        out.par_chunks_exact_mut(pairs)
            .zip(values.par_chunks_exact(inner))
            .for_each(|(out, row)| {
                simd(
                    #[inline(always)]
                    || Self::neighbors(row, out),
                );
            });
        Cow::Owned(out)
    }

    fn dispatch(work: impl Work<Self>) {
        bf16::dispatch(Paired(work));
    }
}

/// Work on pairs.
pub(super) struct Paired<W>(pub(super) W);

impl<W: Work<u32>> WithDot for Paired<W> {
    #[inline(always)]
    fn with_dot<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        self.0.run(simd, Pairs(dot));
    }
}

/// By the instruction for pairs, or its model.
#[derive(Clone, Copy, Debug)]
struct Pairs<D>(D);

impl<S: Simd, D: Dot<S>> Products<S, u32> for Pairs<D> {
    type Vector = S::u32s;

    #[inline(always)]
    fn splat(self, simd: S, term: u32) -> S::u32s {
        simd.splat_u32s(term)
    }

    #[inline(always)]
    fn load(self, terms: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(terms).0
    }

    #[inline(always)]
    fn add(self, simd: S, sum: S::f32s, left: S::u32s, right: S::u32s) -> S::f32s {
        self.0.dot(simd, sum, left, right)
    }
}
