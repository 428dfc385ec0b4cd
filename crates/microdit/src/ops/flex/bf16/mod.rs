//! Products of matrices whose elements are rounded to bf16, summed in f32.
//!
//! Every element is the sum of its products in one order, pair after pair: the same whoever computes it, however the work is
//! shared, and, but for subnormal numbers, whether the processor has an instruction for it or not.

mod dot;
mod pack;

#[cfg(test)]
pub(super) use dot::dispatch_portably;
pub(super) use dot::{Dot, WithDot, dispatch, has_instruction};
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

/// The most rows a thread takes at a time.
const ROWS: usize = 16 * TILE;

/// Panels whose sums it keeps: with [`ROWS`], 192 KiB of the second cache.
const PANELS: usize = 8;

/// Pairs of the inner dimension that it takes at a time: a panel of them is 64 KiB, the rows as much again and a half.
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
        let panels = count.div_ceil(PANEL);
        let len = panels * pairs * PANEL;
        if packed.len() < len {
            packed.resize(len, 0);
        }
        pack::right(b, first, count, &mut packed[..len], parallel);
        let (packed, end) = (&packed[..len], first + count);
        out.par_chunks_mut(share * columns)
            .enumerate()
            .with_max_len(1)
            .with_min_len(if parallel { 1 } else { usize::MAX })
            .for_each_init(Buffers::default, |buffers, (i, out)| {
                let part = Part {
                    first_row: i * share,
                    rows: out.len() / columns,
                    pairs,
                };
                for panel in (0..panels).step_by(PANELS) {
                    let first = first + panel * PANEL;
                    let count = (PANELS * PANEL).min(end - first);
                    let sums = part.sum(a, packed, panel, count, buffers);
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
    left: Vec<u32>,
    /// `[panels, rows, PANEL]`, of whole tiles of rows.
    sums: Vec<f32>,
}

/// Some rows of the output.
#[derive(Clone, Copy, Debug)]
struct Part {
    first_row: usize,
    rows: usize,
    /// Of the inner dimension.
    pairs: usize,
}

impl Part {
    /// Sums of one panel.
    fn of_panel(self) -> usize {
        self.rows.next_multiple_of(TILE) * PANEL
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
        let sums = count.div_ceil(PANEL) * self.of_panel();
        buffers.sums.resize(sums, 0.0);
        let in_place = self::pairs(a, self.first_row, self.rows);
        let panels = right.len() / (pairs * PANEL);
        for (i, block) in right.chunks(DEPTH * panels * PANEL).enumerate() {
            let (first, depth) = (i * DEPTH, block.len() / (panels * PANEL));
            let block = &block[panel * depth * PANEL..];
            let left = match in_place {
                Some(data) => Left::InPlace {
                    data: &data[first..],
                    stride: pairs,
                    rows: self.rows,
                },
                None => {
                    let rows = self.rows.next_multiple_of(TILE);
                    buffers.left.resize(depth * rows, 0);
                    pack::left(a, self, first, &mut buffers.left);
                    Left::Packed(&buffers.left)
                }
            };
            let sums = buffers.sums.chunks_exact_mut(self.of_panel());
            for ((i, panel), sums) in block.chunks_exact(depth * PANEL).enumerate().zip(sums) {
                dispatch(Product {
                    left,
                    panel,
                    count: PANEL.min(count - i * PANEL),
                    sums,
                    begins: first == 0,
                });
            }
        }
        &buffers.sums
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

/// Some pairs of some rows of the left factor.
#[derive(Clone, Copy, Debug)]
enum Left<'a> {
    /// Rows of pairs, `stride` apart.
    InPlace {
        data: &'a [u32],
        stride: usize,
        rows: usize,
    },
    /// `[tiles, pairs, TILE]`.
    Packed(&'a [u32]),
}

/// The product of some rows and a panel, in a part of the inner dimension.
#[derive(Debug)]
struct Product<'a> {
    left: Left<'a>,
    /// `[pairs, PANEL]`.
    panel: &'a [u32],
    /// Columns of the panel that are wanted.
    count: usize,
    /// `[rows, PANEL]`, of whole tiles of rows.
    sums: &'a mut [f32],
    /// Whether the sums begin here, or have been begun.
    begins: bool,
}

impl WithDot for Product<'_> {
    #[inline(always)]
    fn with_dot<S: Simd, D: Dot<S>>(mut self, simd: S, dot: D) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        for tile in 0..self.sums.len() / (TILE * PANEL) {
            let mut column = 0;
            while column < self.count {
                let vectors = (self.count - column).div_ceil(S::F32_LANES);
                column += S::F32_LANES
                    * match vectors {
                        3.. if most == 4 => self.tile::<S, D, 4>(simd, dot, tile, column),
                        1 => self.tile::<S, D, 1>(simd, dot, tile, column),
                        _ => self.tile::<S, D, 2>(simd, dot, tile, column),
                    };
            }
        }
    }
}

impl Product<'_> {
    /// A tile of as many columns as `N` vectors have; returns `N`.
    #[inline(always)]
    fn tile<S: Simd, D: Dot<S>, const N: usize>(
        &mut self,
        simd: S,
        dot: D,
        tile: usize,
        column: usize,
    ) -> usize {
        let width = N * S::F32_LANES;
        let all = &mut self.sums[tile * TILE * PANEL..][..TILE * PANEL];
        let mut sums = [[simd.splat_f32s(0.0); N]; TILE];
        if !self.begins {
            for (sums, row) in sums.iter_mut().zip(all.chunks_exact(PANEL)) {
                let (row, _) = S::as_simd_f32s(&row[column..][..width]);
                *sums = from_fn(|i| row[i]);
            }
        }
        let pairs = self.panel.len() / PANEL;
        let panel = self.panel.chunks_exact(PANEL);
        match self.left {
            Left::InPlace { data, stride, rows } => {
                // Behind the last row it stands again, for sums that nobody reads.
                let row = |r: usize| (tile * TILE + r).min(rows - 1);
                let left: [&[u32]; TILE] = from_fn(|r| &data[row(r) * stride..][..pairs]);
                for (i, right) in panel.take(pairs).enumerate() {
                    let left = from_fn(|r| left[r][i]);
                    add_products(simd, dot, &mut sums, left, &right[column..][..width]);
                }
            }
            Left::Packed(data) => {
                let left = data[tile * TILE * pairs..][..TILE * pairs]
                    .as_chunks::<TILE>()
                    .0;
                for (left, right) in left.iter().zip(panel) {
                    add_products(simd, dot, &mut sums, *left, &right[column..][..width]);
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

/// Adds the products of one pair per row and one per column.
#[inline(always)]
fn add_products<S: Simd, D: Dot<S>, const N: usize>(
    simd: S,
    dot: D,
    sums: &mut [[S::f32s; N]; TILE],
    left: [u32; TILE],
    right: &[u32],
) {
    let (right, _) = S::as_simd_u32s(right);
    let right: [S::u32s; N] = from_fn(|i| right[i]);
    for (sums, left) in sums.iter_mut().zip(left) {
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
