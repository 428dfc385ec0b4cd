//! Products by the tiles of AMX: 16 rows times 16 columns, 16 pairs at a time.
//!
//! `tdpbf16ps` sums the products of first numbers and those of second ones apart, one after the other, each rounded to f32; then it
//! adds the two sums, and what it gets to the element. Subnormal numbers are taken and left as zero (Intel's manual, volume 2,
//! "TDPBF16PS"). So an element's bits differ from those that vectors compute; its error is bounded alike.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(any(test, not(all(target_arch = "x86_64", target_os = "linux"))))]
mod model;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(in super::super) use amx::{Amx, are_there};
#[cfg(test)]
pub(in super::super) use model::Model;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(in super::super) use model::{Model as Amx, are_there};

use super::product::{PANEL, Product};

/// The most rows and columns of a tile, and the pairs of each that are multiplied at a time.
pub(in super::super) const TILE: usize = 16;

/// Rows and columns that are computed together: two tiles of either share what they load.
pub(in super::super) const TOGETHER: usize = 2 * TILE;

/// Sums of two tiles of rows and two of columns, on cache lines.
#[derive(Debug)]
#[repr(align(64))]
pub(in super::super) struct Sums(pub(in super::super) [[f32; TOGETHER]; TOGETHER]);

impl Sums {
    pub(in super::super) const ZERO: Self = Self([[0.0; TOGETHER]; TOGETHER]);
}

/// Where the second of two tiles of up to 32 rows or columns begins, and how many each has. If the first has all, the second has one of
/// them once more, for sums that nobody reads.
pub(in super::super) fn halves(count: usize) -> (usize, [usize; 2]) {
    match count.checked_sub(TILE) {
        None | Some(0) => (0, [count, 1]),
        Some(rest) => (TILE, [TILE, rest]),
    }
}

/// What multiplies tiles: two of rows times two of columns, into four of sums.
pub(in super::super) trait Tiles {
    /// Takes this thread's tiles, until it is dropped.
    fn take() -> Self;

    /// From now on two tiles of rows have so many, and two of columns: 1 to 16 each. What they held is lost.
    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]);

    /// Begins sums with zeros.
    fn begin(&mut self);

    /// Goes on with sums that [`store`](Self::store) wrote.
    ///
    /// # Panics
    /// If they end too early for the shapes of the tiles.
    fn load(&mut self, sums: &[f32], stride: usize);

    /// Adds products to the sums.
    ///
    /// # Panics
    /// If a factor ends too early for the shapes of the tiles.
    fn add(&mut self, factors: Factors<'_>);

    /// Writes the sums of up to 32 rows and columns, those of the second tiles from 16 on; rows are `stride` apart.
    ///
    /// # Panics
    /// If they have no room.
    fn store(&self, sums: &mut [f32], stride: usize);
}

/// Two tiles of rows and two of columns, 16 pairs at a time.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Factors<'a> {
    /// Rows of 16 pairs, `left_stride` apart; those of the next step begin `left_step` behind.
    pub(in super::super) left: [&'a [u32]; 2],
    pub(in super::super) left_stride: usize,
    pub(in super::super) left_step: usize,
    /// 16 rows of columns, `right_stride` apart; those of the next step follow.
    pub(in super::super) right: [&'a [u32]; 2],
    pub(in super::super) right_stride: usize,
    /// How many times 16 pairs; at least one.
    pub(in super::super) steps: usize,
}

/// How many rows and columns tiles have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: [usize; 2],
    columns: [usize; 2],
}

impl Shape {
    /// Panics if factors end too early.
    fn assert_has(self, factors: &Factors<'_>) {
        let Factors { steps, .. } = *factors;
        assert!(steps > 0);
        for (left, rows) in factors.left.iter().zip(self.rows) {
            let steps = (steps - 1) * factors.left_step;
            assert!((rows - 1) * factors.left_stride + steps + TILE <= left.len());
        }
        for (right, columns) in factors.right.iter().zip(self.columns) {
            assert!((steps * TILE - 1) * factors.right_stride + columns <= right.len());
        }
    }

    /// Panics if sums end too early.
    fn assert_fits(self, sums: &[f32], stride: usize) {
        let ends = [self.rows, self.columns].map(|[first, second]| first.max(TILE + second));
        assert!((ends[0] - 1) * stride + ends[1] <= sums.len());
    }
}

/// Pairs of the inner dimension that are taken at a time: 32 columns of them, 16 KiB, stay in the first cache.
const DEPTH: usize = 128;

/// Computes a product.
pub(super) fn compute<T: Tiles>(product: Product<'_>) {
    let pairs = product.panel.len() / PANEL;
    let groups = product.panel.chunks_exact(pairs * TOGETHER);
    let mut tiles = T::take();
    tiles.shape([TILE; 2], [TILE; 2]);
    for (i, columns) in groups.take(product.count.div_ceil(TOGETHER)).enumerate() {
        for (block, right) in columns.chunks(DEPTH * TOGETHER).enumerate() {
            let left = product.left.behind(block * DEPTH);
            for row in (0..left.rows).step_by(TOGETHER) {
                let sums = &mut product.sums[row * PANEL + i * TOGETHER..];
                match block {
                    0 => tiles.begin(),
                    _ => tiles.load(sums, PANEL),
                }
                tiles.add(Factors {
                    left: [row, row + TILE].map(|row| &left.data[row / TILE * left.tile..]),
                    left_stride: left.stride,
                    left_step: left.step,
                    right: [0, TILE].map(|column| &right[column..]),
                    right_stride: TOGETHER,
                    steps: right.len() / TOGETHER / TILE,
                });
                tiles.store(sums, PANEL);
            }
        }
    }
}
