//! Products by the tiles of AMX, of whatever size.

use super::{Left, Product};
use crate::ops::flex::{
    bf16::{Factors, Sums, TILE, TOGETHER, Tiles, halves},
    buffer::Lines,
    simd::simd,
    transpose::transpose_rows,
};
use std::{cell::Cell, ops::Range};

thread_local! {
    /// Memory of a transposed left factor, used again for the next product.
    static TURNED: Cell<Lines<u32>> = const { Cell::new(Lines::new()) };
}

/// Computes a product, whose pairs come in whole groups of [`TILE`].
pub(super) fn compute<T: Tiles>(mut product: Product<'_, u32>) {
    assert!(product.inner.is_multiple_of(TILE), "whole groups of pairs");
    let mut turned = TURNED.take();
    simd(
        #[inline(always)]
        || {
            let mut tiles = T::take();
            let mut sums = Sums::ZERO;
            for rows in ranges(product.rows) {
                let left = product.left_rows(&rows, &mut turned);
                for columns in ranges(product.columns) {
                    if product.inner > 0 {
                        product.add::<T>(&mut tiles, &mut sums, left, &rows, &columns);
                    }
                    product.write(&sums, &rows, columns);
                }
            }
        },
    );
    TURNED.set(turned);
}

fn ranges(count: usize) -> impl Iterator<Item = Range<usize>> {
    let range = move |first: usize| first..count.min(first + TOGETHER);
    (0..count).step_by(TOGETHER).map(range)
}

/// Two tiles of rows of the left factor, how far their rows are apart, and their steps.
type Rows<'a> = ([&'a [u32]; 2], usize, usize);

impl<'p> Product<'p, u32> {
    #[inline(always)]
    fn left_rows<'a>(&self, rows: &Range<usize>, turned: &'a mut Lines<u32>) -> Rows<'a>
    where
        'p: 'a,
    {
        let (inner, (second, _)) = (self.inner, halves(rows.len()));
        match self.left {
            Left::Rows(values) => {
                let row = |row: usize| &values[(rows.start + row) * inner..];
                ([row(0), row(second)], inner, TILE)
            }
            Left::Columns(values) => {
                let turned = turned.resized(TOGETHER * inner);
                let blocks = turned.as_chunks_mut::<TILE>().0.as_chunks_mut::<TILE>().0;
                let groups = inner / TILE;
                for (i, block) in blocks.iter_mut().enumerate() {
                    let (first, group) = (rows.start + i / groups * TILE, i % groups);
                    let count = TILE.min(rows.end.saturating_sub(first));
                    let columns = values[group * TILE * self.rows..].chunks_exact(self.rows);
                    let columns = columns.map(|column| column.get(first..first + count));
                    transpose_rows(columns.map(Option::unwrap_or_default), block);
                }
                let tile = |row: usize| &turned[row * inner..];
                ([tile(0), tile(second)], TILE, TILE * TILE)
            }
        }
    }

    #[inline(always)]
    fn add<T: Tiles>(
        &self,
        tiles: &mut T,
        sums: &mut Sums,
        (left, left_stride, left_step): Rows<'_>,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) {
        let (beside, widths) = halves(columns.len());
        tiles.shape(halves(rows.len()).1, widths);
        tiles.begin();
        tiles.add(Factors {
            left,
            left_stride,
            left_step,
            right: [0, beside].map(|column| &self.right[columns.start + column..]),
            right_stride: self.columns,
            steps: self.inner / TILE,
        });
        tiles.store(sums.0.as_flattened_mut(), TOGETHER);
    }

    #[inline(always)]
    fn write(&mut self, sums: &Sums, rows: &Range<usize>, columns: Range<usize>) {
        for (sums, row) in sums.0.iter().zip(rows.clone()) {
            let out = &mut self.out[row * self.columns..][..self.columns][columns.clone()];
            match out.first_chunk_mut::<TOGETHER>() {
                // Of a length that the compiler knows.
                Some(out) => write_scaled(out, sums, self.scale, self.accumulate),
                None => write_scaled(out, sums, self.scale, self.accumulate),
            }
        }
    }
}

#[inline(always)]
fn write_scaled(out: &mut [f32], sums: &[f32], scale: f32, accumulate: bool) {
    match accumulate {
        true => {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.mul_add(scale, *out);
            }
        }
        false => {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * scale;
            }
        }
    }
}
