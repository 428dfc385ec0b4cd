//! Products of matrices whose elements are rounded to bf16, summed in f32.
//!
//! Every element is the sum of its products in one order, the same whoever computes it and however the work is shared. The order is
//! the processor's: that of the tiles of AMX where there are any, else pair after pair, by an instruction or, but for subnormal
//! numbers with the same bits, without.

mod dot;
mod pack;
mod product;
mod tiles;
mod vectors;

#[cfg(test)]
pub(super) use dot::dispatch_portably;
pub(super) use dot::{Dot, WithDot, dispatch};
pub(super) use pack::{pair, pair_rows, two_rows};
pub(super) use product::{Unit, are_fast, pairs_of};
#[cfg(test)]
pub(super) use tiles::Model;
pub(super) use tiles::{Amx, Factors, Sums, TILE, TOGETHER, Tiles, halves};

use super::{
    buffer::Lines,
    matrix::{Matrix, Threads},
    number::Number,
    simd::simd,
};
use burn::tensor::bf16;
use product::{Left, PANEL, Product};
use pulp::bytemuck::try_cast_slice;
use rayon::prelude::*;
use std::{any::TypeId, cell::Cell};

/// Panels whose sums a thread keeps: with [`Unit::most_rows`], they stay in the second cache.
const PANELS: usize = 8;

/// Pairs of the inner dimension that it takes at a time: a panel of them is 64 KiB.
const DEPTH: usize = 256;

/// The most pairs of the right factor that are packed at a time: 8 MiB, so that packing takes no memory worth mentioning.
const PACKED: usize = 1 << 21;

/// Multiplications below which more threads cost more than they save.
const PARALLEL_FROM: usize = 64 * 64 * 64;

/// Whether the columns of a matrix lie one after the other, and not its rows.
fn by_columns<N>(matrix: Matrix<'_, N>) -> bool {
    matrix.column_stride != 1
}

/// Whether there is nothing between its rows, or its columns.
fn is_dense<N: Copy>(matrix: Matrix<'_, N>) -> bool {
    let strides = match by_columns(matrix) {
        true => [matrix.row_stride, matrix.column_stride] == [1, matrix.rows],
        false => matrix.row_stride == matrix.columns || matrix.rows == 1,
    };
    strides && matrix.data.len() == matrix.rows * matrix.columns
}

/// `count` rows from `first` on as pairs, if they lie in memory like that.
fn pairs<N: Number>(matrix: Matrix<'_, N>, first: usize, count: usize) -> Option<&[u32]> {
    let columns = matrix.columns;
    let whole = columns.is_multiple_of(2 * TILE);
    if by_columns(matrix) || TypeId::of::<N>() != TypeId::of::<bf16>() || !whole {
        return None;
    }
    try_cast_slice(&matrix.data[first * columns..][..count * columns]).ok()
}

thread_local! {
    /// Memory of the packed right factor, used again for the next product.
    static RIGHT: Cell<Lines<u32>> = const { Cell::new(Lines::new()) };
}

/// `out = a b`, or `a b + bias` with a number per column; `out` lies row after row.
///
/// # Panics
/// If the sizes do not fit.
pub(super) fn multiply<O: Number, A: Number, B: Number>(
    out: &mut [O],
    a: Matrix<'_, A>,
    b: Matrix<'_, B>,
    bias: Option<&[f32]>,
    threads: Threads,
) {
    multiply_by(Unit::fastest(), out, a, b, bias, threads);
}

/// The same by a unit, which the processor has.
fn multiply_by<O: Number, A: Number, B: Number>(
    unit: Unit,
    out: &mut [O],
    a: Matrix<'_, A>,
    b: Matrix<'_, B>,
    bias: Option<&[f32]>,
    threads: Threads,
) {
    let (rows, columns) = (a.rows, b.columns);
    let pairs = a.columns.div_ceil(2).next_multiple_of(TILE);
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    assert_eq!(out.len(), rows * columns, "elements of the output");
    assert!(is_dense(a) && is_dense(b), "rows or columns lie together");
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    if out.is_empty() {
        return;
    }
    if pairs == 0 {
        for row in out.chunks_exact_mut(columns) {
            finish(row, &vec![0.0; columns], bias);
        }
        return;
    }
    let parallel = threads == Threads::All && rows * columns * a.columns >= PARALLEL_FROM;
    let threads = if parallel {
        rayon::current_num_threads()
    } else {
        1
    };
    let tasks = rows.div_ceil(unit.most_rows()).next_multiple_of(threads);
    let share = rows.div_ceil(tasks).next_multiple_of(unit.rows());
    // Taken out: while this thread waits for the others, it may be given another product.
    let mut packed = RIGHT.take();
    let group = (PACKED / pairs / PANEL).max(1) * PANEL;
    for first in (0..columns).step_by(group) {
        let count = group.min(columns - first);
        let panels = count.div_ceil(PANEL);
        let right = packed.resized(panels * pairs * PANEL);
        pack::right(b, first, count, right, parallel);
        let (right, end) = (&*right, first + count);
        out.par_chunks_mut(share * columns)
            .enumerate()
            .with_max_len(1)
            .with_min_len(if parallel { 1 } else { usize::MAX })
            .for_each_init(Buffers::default, |buffers, (i, out)| {
                let part = Part {
                    unit,
                    first_row: i * share,
                    rows: out.len() / columns,
                    pairs,
                };
                for panel in (0..panels).step_by(PANELS) {
                    let first = first + panel * PANEL;
                    let count = (PANELS * PANEL).min(end - first);
                    let sums = part.sum(a, right, panel, count, buffers);
                    let bias = bias.map(|bias| &bias[first..][..count]);
                    simd(
                        #[inline(always)]
                        || {
                            for (i, out) in out.chunks_exact_mut(columns).enumerate() {
                                let out = &mut out[first..][..count];
                                part.finish(i, out, sums, bias);
                            }
                        },
                    );
                }
            });
    }
    RIGHT.set(packed);
}

/// Memory of a thread, used again for the next rows.
#[derive(Debug, Default)]
struct Buffers {
    left: Lines<u32>,
    /// `[panels, rows, PANEL]`, of whole tiles of rows.
    sums: Lines,
}

/// Some rows of the output.
#[derive(Clone, Copy, Debug)]
struct Part {
    unit: Unit,
    first_row: usize,
    rows: usize,
    /// Of the inner dimension.
    pairs: usize,
}

impl Part {
    /// Rows of whole tiles.
    fn tiled_rows(self) -> usize {
        self.rows.next_multiple_of(self.unit.rows())
    }

    /// Sums of one panel.
    fn of_panel(self) -> usize {
        self.tiled_rows() * PANEL
    }

    /// The product with `count` columns of the packed right factor, from panel `panel` on: `[panels, rows, PANEL]`.
    fn sum<'a, N: Number>(
        self,
        a: Matrix<'_, N>,
        right: &[u32],
        panel: usize,
        count: usize,
        buffers: &'a mut Buffers,
    ) -> &'a [f32] {
        let pairs = self.pairs;
        let Buffers { left: packed, sums } = buffers;
        let sums = sums.resized(count.div_ceil(PANEL) * self.of_panel());
        let in_place =
            self::pairs(a, self.first_row, self.rows).filter(|_| !self.unit.packs_left());
        let panels = right.len() / (pairs * PANEL);
        for (i, block) in right.chunks(DEPTH * panels * PANEL).enumerate() {
            let (first, depth) = (i * DEPTH, block.len() / (panels * PANEL));
            let block = &block[panel * depth * PANEL..];
            let left = match in_place {
                Some(data) => Left::in_place(&data[first..], self.rows, pairs),
                None => {
                    let rows = self.tiled_rows();
                    let packed = packed.resized(rows.next_multiple_of(TILE) * depth);
                    pack::left(a, self, first, depth, packed);
                    Left::packed(packed, rows, depth)
                }
            };
            let sums = sums.chunks_exact_mut(self.of_panel());
            let panels = block.chunks_exact(depth * PANEL).enumerate().zip(sums);
            self.unit.compute(panels.map(|((i, panel), sums)| Product {
                left,
                panel,
                count: PANEL.min(count - i * PANEL),
                sums,
                begins: first == 0,
            }));
        }
        sums
    }

    /// Writes the sums of a row, with the bias added.
    #[inline(always)]
    fn finish<O: Number>(self, row: usize, out: &mut [O], sums: &[f32], bias: Option<&[f32]>) {
        let panels = out
            .chunks_mut(PANEL)
            .zip(sums.chunks_exact(self.of_panel()));
        for (i, (out, sums)) in panels.enumerate() {
            let bias = bias.map(|bias| &bias[i * PANEL..][..out.len()]);
            finish(out, &sums[row * PANEL..][..PANEL], bias);
        }
    }
}

/// Writes sums, with the bias added.
#[inline(always)]
fn finish<O: Number>(out: &mut [O], sums: &[f32], bias: Option<&[f32]>) {
    match bias {
        Some(bias) => {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                *out = O::of(sum + bias);
            }
        }
        None => {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = O::of(*sum);
            }
        }
    }
}

#[cfg(test)]
mod tests;
