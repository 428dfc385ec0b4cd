//! Products by vectors: a pair of a row, in every lane, times the pairs of as many columns.

use super::{
    dot::{self, Dot, WithDot},
    product::{Left, PANEL, Product},
    tiles::TILE,
};
use pulp::Simd;
use std::array::from_fn;

/// Rows of a tile: with [`PANEL`] columns, as many sums as 32 registers of 512 bits hold.
pub(super) const ROWS: usize = 6;

/// Pairs of the inner dimension that are taken at a time: a panel of them, 64 KiB, stays in the second cache.
const DEPTH: usize = 256;

/// Computes a product.
pub(super) fn compute(product: Product<'_>) {
    blocks(product, |block| dot::dispatch(block));
}

/// A product's blocks of [`DEPTH`] pairs, one after the other.
pub(super) fn blocks(product: Product<'_>, compute: impl Fn(Block<'_>)) {
    for (i, panel) in product.panel.chunks(DEPTH * PANEL).enumerate() {
        compute(Block {
            left: product.left.behind(i * DEPTH),
            panel,
            count: product.count,
            sums: &mut *product.sums,
            begins: i == 0,
        });
    }
}

/// A product in a part of the inner dimension.
#[derive(Debug)]
pub(super) struct Block<'a> {
    left: Left<'a>,
    panel: &'a [u32],
    count: usize,
    sums: &'a mut [f32],
    /// Whether the sums begin here, or have been begun.
    begins: bool,
}

impl WithDot for Block<'_> {
    #[inline(always)]
    fn with_dot<S: Simd, D: Dot<S>>(mut self, simd: S, dot: D) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        for first in (0..self.left.rows).step_by(ROWS) {
            let mut column = 0;
            while column < self.count {
                let vectors = (self.count - column).div_ceil(S::F32_LANES);
                column += S::F32_LANES
                    * match vectors {
                        3.. if most == 4 => self.tile::<S, D, 4>(simd, dot, first, column),
                        1 => self.tile::<S, D, 1>(simd, dot, first, column),
                        _ => self.tile::<S, D, 2>(simd, dot, first, column),
                    };
            }
        }
    }
}

impl Block<'_> {
    /// A tile of as many columns as `N` vectors have; returns `N`.
    #[inline(always)]
    fn tile<S: Simd, D: Dot<S>, const N: usize>(
        &mut self,
        simd: S,
        dot: D,
        first: usize,
        column: usize,
    ) -> usize {
        let width = N * S::F32_LANES;
        let all = &mut self.sums[first * PANEL..][..ROWS * PANEL];
        let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
        if !self.begins {
            for (sums, row) in sums.iter_mut().zip(all.chunks_exact(PANEL)) {
                let (row, _) = S::as_simd_f32s(&row[column..][..width]);
                *sums = from_fn(|i| row[i]);
            }
        }
        let left = self.left;
        // Behind the last row it stands again, for sums that nobody reads.
        let rows: [&[u32]; ROWS] = from_fn(|r| left.row((first + r).min(left.rows - 1)));
        for (step, right) in self.panel.chunks_exact(TILE * PANEL).enumerate() {
            let rows: [&[u32]; ROWS] = rows.map(|row| &row[step * left.step..][..TILE]);
            for (i, right) in right.chunks_exact(PANEL).take(TILE).enumerate() {
                let (right, _) = S::as_simd_u32s(&right[column..][..width]);
                let right: [S::u32s; N] = from_fn(|i| right[i]);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let left = simd.splat_u32s(row[i]);
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = dot.dot(simd, *sum, left, right);
                    }
                }
            }
        }
        for (sums, row) in sums.into_iter().zip(all.chunks_exact_mut(PANEL)) {
            let (row, _) = S::as_mut_simd_f32s(&mut row[column..][..width]);
            for (row, sum) in row.iter_mut().zip(sums) {
                *row = sum;
            }
        }
        N
    }
}
