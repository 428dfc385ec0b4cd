//! Products of matrices whose elements are rounded to bf16, summed in f32.
//!
//! Every element is the sum of its products in one order, pair after pair: the same whoever computes it, however the work is
//! shared, and whether the processor has an instruction for it or not.

mod dot;
mod pack;

pub(super) use dot::{Dot, WithDot, dispatch};
pub(super) use pack::{pair, pair_rows};

use super::{
    matrix::{Matrix, Threads},
    number::Number,
    simd::simd,
};
use burn::tensor::bf16;
use pulp::{Simd, bytemuck::try_cast_slice};
use rayon::prelude::*;
use std::{any::TypeId, array::from_fn, cell::Cell};

/// Columns packed side by side: whole vectors on every processor.
const PANEL: usize = 64;

/// Rows of a tile: with [`PANEL`] columns, as many sums as 32 registers of 512 bits hold.
const TILE: usize = 6;

/// The most rows whose sums of one panel lie in the nearest cache.
const ROWS: usize = 16 * TILE;

/// Pairs of the inner dimension that a tile goes through before the next tile does: so many of a panel stay in the second
/// cache.
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
        false => matrix.row_stride == matrix.columns,
    };
    strides && matrix.data.len() == matrix.rows * matrix.columns
}

/// `count` rows from `first` on as pairs, if they lie in memory like that.
fn pairs<N: Number>(matrix: Matrix<'_, N>, first: usize, count: usize) -> Option<&[u32]> {
    let columns = matrix.columns;
    if by_columns(matrix) || TypeId::of::<N>() != TypeId::of::<bf16>() || columns % 2 == 1 {
        return None;
    }
    try_cast_slice(&matrix.data[first * columns..][..count * columns]).ok()
}

thread_local! {
    /// Memory of the packed right factor, used again for the next product.
    static RIGHT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
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
    let (rows, columns, pairs) = (a.rows, b.columns, a.columns.div_ceil(2));
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
    let tasks = rows.div_ceil(ROWS).next_multiple_of(threads);
    let share = rows.div_ceil(tasks).next_multiple_of(TILE);
    // Taken out: while this thread waits for the others, it may be given another product.
    let mut packed = RIGHT.take();
    let group = (PACKED / pairs / PANEL).max(1) * PANEL;
    for first in (0..columns).step_by(group) {
        let count = group.min(columns - first);
        let len = count.div_ceil(PANEL) * pairs * PANEL;
        if packed.len() < len {
            packed.resize(len, 0);
        }
        pack::right(b, first, count, &mut packed[..len], parallel);
        let panels = packed[..len].chunks_exact(pairs * PANEL);
        out.par_chunks_mut(share * columns)
            .enumerate()
            .with_max_len(1)
            .with_min_len(if parallel { 1 } else { usize::MAX })
            .for_each_init(Buffers::default, |buffers, (i, out)| {
                let rows = out.len() / columns;
                let whole = rows.next_multiple_of(TILE);
                buffers.sums.resize(share * PANEL, 0.0);
                let sums = &mut buffers.sums[..whole * PANEL];
                let left = match self::pairs(a, i * share, rows) {
                    Some(data) => Left {
                        data,
                        packed: false,
                        stride: pairs,
                        rows,
                    },
                    None => {
                        buffers.left.resize(pairs * whole, 0);
                        pack::left(a, i * share, rows, whole, &mut buffers.left);
                        Left {
                            data: &buffers.left,
                            packed: true,
                            stride: whole,
                            rows,
                        }
                    }
                };
                for (i, panel) in panels.clone().enumerate() {
                    let place = first + i * PANEL;
                    let count = PANEL.min(columns - place);
                    let product = Product {
                        left,
                        panel,
                        count,
                        sums,
                    };
                    dispatch(product);
                    let bias = bias.map(|bias| &bias[place..][..count]);
                    simd(
                        #[inline(always)]
                        || {
                            let sums = sums.chunks_exact(PANEL);
                            for (out, sums) in out.chunks_exact_mut(columns).zip(sums) {
                                finish(&mut out[place..][..count], &sums[..count], bias);
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
    left: Vec<u32>,
    /// `[rows, PANEL]`, of whole tiles of rows.
    sums: Vec<f32>,
}

/// Some rows of the left factor.
#[derive(Clone, Copy, Debug)]
struct Left<'a> {
    data: &'a [u32],
    /// Whether it is `[pairs, stride]` and not `[rows, stride]`; then of whole tiles of rows.
    packed: bool,
    stride: usize,
    rows: usize,
}

/// The product of some rows and a panel.
#[derive(Debug)]
struct Product<'a> {
    left: Left<'a>,
    /// `[pairs, PANEL]`.
    panel: &'a [u32],
    /// Columns of the panel that are wanted.
    count: usize,
    /// `[rows, PANEL]`, of whole tiles of rows.
    sums: &'a mut [f32],
}

impl WithDot for Product<'_> {
    #[inline(always)]
    fn with_dot<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        for (i, panel) in self.panel.chunks(DEPTH * PANEL).enumerate() {
            let step = Step {
                left: self.left,
                panel,
                first_pair: i * DEPTH,
            };
            for (i, sums) in self.sums.chunks_exact_mut(TILE * PANEL).enumerate() {
                step.tiles(simd, dot, sums, i * TILE, self.count);
            }
        }
    }
}

/// Some pairs of the inner dimension.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    left: Left<'a>,
    /// `[pairs, PANEL]`.
    panel: &'a [u32],
    first_pair: usize,
}

impl Step<'_> {
    /// Adds the products of a tile's rows of the left factor, from `row` on, to `sums` `[TILE, PANEL]`.
    #[inline(always)]
    fn tiles<S: Simd, D: Dot<S>>(
        &self,
        simd: S,
        dot: D,
        sums: &mut [f32],
        row: usize,
        count: usize,
    ) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let mut column = 0;
        while column < count {
            let vectors = (count - column).div_ceil(S::F32_LANES);
            column += S::F32_LANES
                * match vectors {
                    3.. if most == 4 => self.tile::<S, D, 4>(simd, dot, sums, row, column),
                    1 => self.tile::<S, D, 1>(simd, dot, sums, row, column),
                    _ => self.tile::<S, D, 2>(simd, dot, sums, row, column),
                };
        }
    }

    /// As many columns as `N` vectors have; returns `N`.
    #[inline(always)]
    fn tile<S: Simd, D: Dot<S>, const N: usize>(
        &self,
        simd: S,
        dot: D,
        sums: &mut [f32],
        row: usize,
        column: usize,
    ) -> usize {
        let width = N * S::F32_LANES;
        let mut tile = [[simd.splat_f32s(0.0); N]; TILE];
        if self.first_pair > 0 {
            for (tile, sums) in tile.iter_mut().zip(sums.chunks_exact(PANEL)) {
                let (sums, _) = S::as_simd_f32s(&sums[column..][..width]);
                *tile = from_fn(|i| sums[i]);
            }
        }
        let Left {
            data, stride, rows, ..
        } = self.left;
        let pairs = self.panel.len() / PANEL;
        let panel = self.panel.chunks_exact(PANEL);
        if self.left.packed {
            let left = data[self.first_pair * stride..].chunks_exact(stride);
            for (left, right) in left.zip(panel) {
                let left: &[u32; TILE] = left[row..].first_chunk().expect("a tile of rows");
                add_products(simd, dot, &mut tile, *left, &right[column..][..width]);
            }
        } else {
            // Behind the last row it stands again, for sums that nobody reads.
            let left: [&[u32]; TILE] =
                from_fn(|r| &data[(row + r).min(rows - 1) * stride + self.first_pair..][..pairs]);
            for (i, right) in panel.take(pairs).enumerate() {
                let left = from_fn(|r| left[r][i]);
                add_products(simd, dot, &mut tile, left, &right[column..][..width]);
            }
        }
        for (tile, sums) in tile.into_iter().zip(sums.chunks_exact_mut(PANEL)) {
            let (sums, _) = S::as_mut_simd_f32s(&mut sums[column..][..width]);
            for (sums, tile) in sums.iter_mut().zip(tile) {
                *sums = tile;
            }
        }
        N
    }
}

/// Adds the products of one pair per row and one per column.
#[inline(always)]
fn add_products<S: Simd, D: Dot<S>, const N: usize>(
    simd: S,
    dot: D,
    tile: &mut [[S::f32s; N]; TILE],
    left: [u32; TILE],
    right: &[u32],
) {
    let (right, _) = S::as_simd_u32s(right);
    let right: [S::u32s; N] = from_fn(|i| right[i]);
    for (sums, left) in tile.iter_mut().zip(left) {
        let left = simd.splat_u32s(left);
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = dot.dot(simd, *sum, left, right);
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
