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

/// Pairs of the left factor that a thread takes at a time, unless its fewest rows have more: 1 MiB, which stays in the second cache.
const ROOM: usize = 1 << 18;

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
    /// Of some rows.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::new()) };
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
    let (rows, width) = (a.rows, b.columns);
    let pairs = a.columns.div_ceil(2).next_multiple_of(TILE);
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    assert_eq!(out.len(), rows * width, "elements of the output");
    assert!(is_dense(a) && is_dense(b), "rows or columns lie together");
    assert!(bias.is_none_or(|bias| bias.len() == width));
    if out.is_empty() {
        return;
    }
    if pairs == 0 {
        for row in out.chunks_exact_mut(width) {
            finish(row, &vec![0.0; width], bias);
        }
        return;
    }
    let parallel = threads == Threads::All && rows * width * a.columns >= PARALLEL_FROM;
    let threads = if parallel {
        rayon::current_num_threads()
    } else {
        1
    };
    let tasks = rows
        .div_ceil(unit.most_rows(pairs))
        .next_multiple_of(threads);
    let share = rows.div_ceil(tasks).next_multiple_of(unit.rows());
    // Taken out: while this thread waits for the others, it may be given another product.
    let mut packed = RIGHT.take();
    let group = (PACKED / pairs / PANEL).max(1) * PANEL;
    for first in (0..width).step_by(group) {
        let count = group.min(width - first);
        let panels = count.div_ceil(PANEL);
        let right = packed.resized(panels * pairs * PANEL);
        let end = first + count;
        pack::right(unit, b, first..end, pairs, right, parallel);
        let right = &*right;
        out.par_chunks_mut(share * width)
            .enumerate()
            .with_max_len(1)
            .with_min_len(if parallel { 1 } else { usize::MAX })
            .for_each(|(i, out)| {
                let mut buffers = BUFFERS.take();
                let part = Part {
                    unit,
                    first_row: i * share,
                    rows: out.len() / width,
                    pairs,
                };
                let Buffers { left, sums } = &mut buffers;
                let left = part.left(a, left);
                let sums = sums.resized(part.tiled_rows() * PANEL);
                for (i, panel) in right.chunks_exact(pairs * PANEL).enumerate() {
                    let first = first + i * PANEL;
                    let columns = first..end.min(first + PANEL);
                    unit.compute(Product {
                        left,
                        panel,
                        count: columns.len(),
                        sums,
                    });
                    let bias = bias.map(|bias| &bias[columns.clone()]);
                    simd(
                        #[inline(always)]
                        || {
                            let rows = out.chunks_exact_mut(width).zip(sums.chunks_exact(PANEL));
                            for (out, sums) in rows {
                                finish(&mut out[columns.clone()], sums, bias);
                            }
                        },
                    );
                }
                BUFFERS.set(buffers);
            });
    }
    RIGHT.set(packed);
}

/// What a thread computes rows in.
#[derive(Debug, Default)]
struct Buffers {
    left: Lines<u32>,
    /// `[rows, PANEL]`, of whole tiles of rows.
    sums: Lines,
}

impl Buffers {
    const fn new() -> Self {
        Self {
            left: Lines::new(),
            sums: Lines::new(),
        }
    }
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

    /// The rows of the left factor, packed unless they are read where they lie.
    fn left<'a, N: Number>(self, a: Matrix<'a, N>, packed: &'a mut Lines<u32>) -> Left<'a> {
        if let Some(data) = pairs(a, self.first_row, self.rows)
            && !self.unit.packs_left()
        {
            return Left::in_place(data, self.rows, self.pairs);
        }
        let rows = self.tiled_rows();
        let packed = packed.resized(rows.next_multiple_of(TILE) * self.pairs);
        pack::left(a, self, packed);
        Left::packed(packed, rows, self.pairs)
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
