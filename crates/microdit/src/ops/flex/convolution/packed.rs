//! Products whose right factor is nowhere in memory: whoever computes a piece of the output packs what it needs of it, a
//! block at a time. The left factor is read where it lies.
//!
//! Every element of the output is summed in the same order, whoever computes it and however the work is shared.

use super::{
    super::buffer::Lines,
    terms::{Products, Term, Work},
};
use pulp::Simd;
use rayon::prelude::*;
use std::array::from_fn;

/// Columns packed side by side: whole vectors on every processor.
pub(super) const PANEL: usize = 64;

/// Elements packed at a time, over which the rows of the left factor stay in the nearest cache: four panels of the deepest
/// blocks. Flat ones come in more panels, so that rows of the output are written in longer runs.
const PACKED: usize = 4 * PANEL * INNER;

/// The most panels at a time: 4 KiB of a row of the output, a page.
const PANELS: usize = 16;

/// Terms of the inner dimension that are packed at a time: a panel of them stays in the second cache.
pub(super) const INNER: usize = 256;

/// Rows of a tile: with [`PANEL`] columns, as many sums as 32 registers of 512 bits hold.
const TILE: usize = 6;

/// Rows below which packing costs a good part of what it is for.
const ROWS_PER_TASK: usize = 16 * TILE;

/// Neighboring columns of the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Which run of columns; they lie together within one.
    pub(super) run: usize,
    /// The first, within its run.
    pub(super) first: usize,
    /// How many, up to [`PANEL`].
    pub(super) count: usize,
}

/// The factors of a product, whose inner dimension comes in blocks.
pub(super) trait Factors<T>: Sync {
    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// How many terms of the inner dimension a block has; none has more than the first, nor than [`INNER`].
    fn inner(&self, block: usize) -> usize;

    /// The left factor's part of a block, from its first term on, and how far its rows are apart.
    fn left(&self, block: usize) -> (&[T], usize);

    /// Writes the right factor's part of a block, `[inner, PANEL]`, with zeros behind the last of `columns`.
    fn pack(&self, columns: Columns, block: usize, out: &mut [T]);
}

/// Some columns of some rows of the output.
#[derive(Debug)]
struct Piece<'a> {
    columns: Columns,
    rows: Vec<&'a mut [f32]>,
}

/// What one thread computes at a time: pieces of the same rows.
#[derive(Debug)]
struct Task<'a> {
    first_row: usize,
    pieces: Vec<Piece<'a>>,
}

/// How an output `[matrices, rows, runs, run]` lies in memory. A run of columns has the number `matrix x runs + run`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) runs: usize,
    pub(super) run: usize,
}

impl Layout {
    /// `together` panels at a time.
    fn tasks(self, out: &mut [f32], together: usize, threads: usize) -> Vec<Task<'_>> {
        let Self { rows, runs, run } = self;
        let row = runs * run;
        let panels = out.len() / (rows * row) * runs * run.div_ceil(PANEL);
        // Rows are shared where there are too few columns: each share packs them by itself.
        let shares = (4 * threads).div_ceil(panels.div_ceil(together));
        let share = rows
            .div_ceil(shares)
            .max(ROWS_PER_TASK)
            .next_multiple_of(TILE);
        let mut pieces: Vec<Vec<Piece<'_>>> = Vec::new();
        pieces.resize_with(rows.div_ceil(share), Vec::new);
        for (matrix, out) in out.chunks_exact_mut(rows * row).enumerate() {
            for (pieces, out) in pieces.iter_mut().zip(out.chunks_mut(share * row)) {
                let before = pieces.len();
                for i in 0..runs {
                    pieces.extend((0..run).step_by(PANEL).map(|first| Piece {
                        columns: Columns {
                            run: matrix * runs + i,
                            first,
                            count: PANEL.min(run - first),
                        },
                        rows: Vec::with_capacity(out.len() / row),
                    }));
                }
                for row in out.chunks_exact_mut(row) {
                    let parts = row.chunks_exact_mut(run).flat_map(|x| x.chunks_mut(PANEL));
                    for (piece, part) in pieces[before..].iter_mut().zip(parts) {
                        piece.rows.push(part);
                    }
                }
            }
        }
        let mut tasks = Vec::new();
        for (i, pieces) in pieces.into_iter().enumerate() {
            let mut pieces = pieces.into_iter().peekable();
            while pieces.peek().is_some() {
                tasks.push(Task {
                    first_row: i * share,
                    pieces: pieces.by_ref().take(together).collect(),
                });
            }
        }
        tasks
    }
}

/// Writes the product into `out`, with `start`, one number per row, added.
///
/// # Panics
/// If the output or a factor is empty or does not fit.
pub(super) fn multiply_packed<T: Term>(
    out: &mut [f32],
    layout: Layout,
    factors: &dyn Factors<T>,
    start: Option<&[f32]>,
) {
    let together = (PACKED / PANEL / factors.inner(0)).min(PANELS);
    layout
        .tasks(out, together, rayon::current_num_threads())
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Lines::default, |packed, task| {
            T::dispatch(Product {
                task,
                factors,
                start,
                packed,
            });
        });
}

struct Product<'a, T> {
    task: Task<'a>,
    factors: &'a dyn Factors<T>,
    start: Option<&'a [f32]>,
    packed: &'a mut Lines<T>,
}

impl<T: Term> Work<T> for Product<'_, T> {
    #[inline(always)]
    fn run<S: Simd, P: Products<S, T>>(self, simd: S, products: P) {
        let Task {
            first_row,
            mut pieces,
        } = self.task;
        for block in 0..self.factors.blocks() {
            let inner = self.factors.inner(block);
            let packed = self.packed.resized(pieces.len() * inner * PANEL);
            let panels = packed.chunks_exact_mut(inner * PANEL);
            for (piece, panel) in pieces.iter().zip(panels) {
                self.factors.pack(piece.columns, block, panel);
            }
            let (left, stride) = self.factors.left(block);
            let left = Left {
                data: &left[first_row * stride..],
                stride,
                inner,
            };
            let before = match block {
                0 => Before::Start(self.start.map(|start| &start[first_row..])),
                _ => Before::Sum,
            };
            let pieces = pieces.iter_mut().map(|piece| piece.rows.as_mut_slice());
            add_product(simd, products, left, pieces, packed, before);
        }
    }
}

/// Rows of the left factor, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left<'a, T> {
    pub(super) data: &'a [T],
    pub(super) stride: usize,
    pub(super) inner: usize,
}

/// What products are added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before<'a> {
    /// A number per row, or nothing.
    Start(Option<&'a [f32]>),
    /// What the output holds.
    Sum,
}

/// Adds the product of `left` and packed panels `[panels, inner, PANEL]` to `pieces`, the rows of the output in each panel's
/// columns.
#[inline(always)]
pub(super) fn add_product<'a: 'b, 'b, S: Simd, T: Term, P: Products<S, T>>(
    simd: S,
    products: P,
    left: Left<'_, T>,
    pieces: impl Iterator<Item = &'b mut [&'a mut [f32]]>,
    packed: &[T],
    before: Before<'_>,
) {
    let mut pieces: Vec<&mut [&mut [f32]]> = pieces.collect();
    let rows = pieces.first().map_or(0, |rows| rows.len());
    for row in (0..rows).step_by(TILE) {
        let panels = packed.chunks_exact(left.inner * PANEL);
        for (out, panel) in pieces.iter_mut().zip(panels) {
            let step = Step {
                left,
                before,
                panel,
                row,
            };
            let last = rows.min(row + TILE);
            step.rows(simd, products, &mut out[row..last]);
        }
    }
}

/// The product of some rows of the left factor, from `row` on, and a panel.
#[derive(Clone, Copy, Debug)]
struct Step<'a, T> {
    left: Left<'a, T>,
    before: Before<'a>,
    panel: &'a [T],
    row: usize,
}

impl<T: Term> Step<'_, T> {
    #[inline(always)]
    fn rows<S: Simd, P: Products<S, T>>(&self, simd: S, products: P, out: &mut [&mut [f32]]) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let (columns, mut column) = (out[0].len(), 0);
        while column < columns {
            let vectors = (columns - column).div_ceil(S::F32_LANES).min(most);
            match vectors {
                1 => self.columns::<S, P, 1>(simd, products, out, column),
                2 => self.columns::<S, P, 2>(simd, products, out, column),
                3 => self.columns::<S, P, 3>(simd, products, out, column),
                _ => self.columns::<S, P, 4>(simd, products, out, column),
            }
            column += vectors * S::F32_LANES;
        }
    }

    #[inline(always)]
    fn columns<S: Simd, P: Products<S, T>, const N: usize>(
        &self,
        simd: S,
        products: P,
        out: &mut [&mut [f32]],
        column: usize,
    ) {
        match out.len() {
            1 => self.tile::<S, P, 1, N>(simd, products, out, column),
            2 => self.tile::<S, P, 2, N>(simd, products, out, column),
            3 => self.tile::<S, P, 3, N>(simd, products, out, column),
            4 => self.tile::<S, P, 4, N>(simd, products, out, column),
            5 => self.tile::<S, P, 5, N>(simd, products, out, column),
            _ => self.tile::<S, P, TILE, N>(simd, products, out, column),
        }
    }

    /// `R` rows of `N` vectors.
    #[inline(always)]
    fn tile<S: Simd, P: Products<S, T>, const R: usize, const N: usize>(
        &self,
        simd: S,
        products: P,
        out: &mut [&mut [f32]],
        column: usize,
    ) {
        let Left {
            data,
            stride,
            inner,
        } = self.left;
        let left: [&[T]; R] = from_fn(|r| &data[(self.row + r) * stride..][..inner]);
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        for (k, right) in self.panel.chunks_exact(PANEL).take(inner).enumerate() {
            let right = products.load(&right[column..][..N * S::F32_LANES]);
            let right: [P::Vector; N] = from_fn(|i| right[i]);
            for (sums, left) in sums.iter_mut().zip(left) {
                let left = products.splat(simd, left[k]);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = products.add(simd, *sum, left, right);
                }
            }
        }
        for (r, (sums, out)) in sums.into_iter().zip(out).enumerate() {
            let vectors = out[column..].chunks_mut(S::F32_LANES);
            for (sum, out) in sums.into_iter().zip(vectors) {
                let before = match self.before {
                    Before::Start(None) => simd.splat_f32s(0.0),
                    Before::Start(Some(start)) => simd.splat_f32s(start[self.row + r]),
                    Before::Sum => simd.partial_load_f32s(out),
                };
                simd.partial_store_f32s(out, simd.add_f32s(before, sum));
            }
        }
    }
}
