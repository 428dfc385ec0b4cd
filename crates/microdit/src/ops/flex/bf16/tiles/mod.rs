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

/// What multiplies tiles.
pub(in super::super) trait Tiles {
    /// Takes this thread's tiles, until it is dropped.
    fn take() -> Self;

    /// From now on two tiles of rows have so many, and two of columns: 1 to 16 each.
    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]);

    /// Adds products to sums, or begins with them.
    ///
    /// # Panics
    /// If a slice ends too early for the shapes of the tiles.
    fn add(&mut self, block: Block<'_>);
}

/// Two tiles of rows times two of columns.
#[derive(Debug)]
pub(in super::super) struct Block<'a> {
    /// Sums of 32 rows and columns, of which the tiles have those from 0 and from 16 on; rows are `sums_stride` apart.
    pub(in super::super) sums: &'a mut [f32],
    pub(in super::super) sums_stride: usize,
    pub(in super::super) begins: bool,
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

impl Block<'_> {
    fn assert_fits(&self, rows: [usize; 2], columns: [usize; 2]) {
        let last = self.steps - 1;
        for (left, rows) in self.left.iter().zip(rows) {
            assert!((rows - 1) * self.left_stride + last * self.left_step + TILE <= left.len());
        }
        for (right, columns) in self.right.iter().zip(columns) {
            assert!((self.steps * TILE - 1) * self.right_stride + columns <= right.len());
        }
        let [rows, columns] = [rows, columns].map(|[first, second]| first.max(TILE + second));
        assert!((rows - 1) * self.sums_stride + columns <= self.sums.len());
    }
}

/// Computes products.
pub(super) fn compute<'a, T: Tiles>(products: impl Iterator<Item = Product<'a>>) {
    let mut tiles = T::take();
    tiles.shape([TILE; 2], [TILE; 2]);
    for product in products {
        let Product { left, panel, .. } = product;
        for column in (0..product.count).step_by(TOGETHER) {
            for row in (0..left.rows).step_by(TOGETHER) {
                tiles.add(Block {
                    sums: &mut product.sums[row * PANEL + column..],
                    sums_stride: PANEL,
                    begins: product.begins,
                    left: [row, row + TILE].map(|row| &left.data[row / TILE * left.tile..]),
                    left_stride: left.stride,
                    left_step: left.step,
                    right: [column, column + TILE].map(|column| &panel[column..]),
                    right_stride: PANEL,
                    steps: panel.len() / PANEL / TILE,
                });
            }
        }
    }
}
