//! The product of some rows and a panel of columns, the piece of work that a unit of the processor does.

use super::{
    dot::{self, has_instruction},
    tiles::{self, Amx, TILE},
    vectors,
};

/// Columns packed side by side: whole vectors and tiles on every processor.
pub(super) const PANEL: usize = 64;

/// Some pairs of some rows of the left factor, in groups of [`TILE`] of either.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [u32],
    pub(super) rows: usize,
    /// How far rows of a group are apart, ...
    pub(super) stride: usize,
    /// ... groups of pairs, ...
    pub(super) step: usize,
    /// ... and groups of rows.
    pub(super) tile: usize,
}

impl<'a> Left<'a> {
    /// Rows of pairs that begin `stride` apart.
    pub(super) fn in_place(data: &'a [u32], rows: usize, stride: usize) -> Self {
        Self {
            data,
            rows,
            stride,
            step: TILE,
            tile: TILE * stride,
        }
    }

    /// `[groups of rows, groups of pairs, TILE, TILE]`, for `pairs` of each row.
    pub(super) fn packed(data: &'a [u32], rows: usize, pairs: usize) -> Self {
        Self {
            data,
            rows,
            stride: TILE,
            step: TILE * TILE,
            tile: TILE * pairs,
        }
    }

    /// A row's pairs, from its first group of them on; those of the next begin `step` behind.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> &'a [u32] {
        &self.data[row / TILE * self.tile + row % TILE * self.stride..]
    }
}

/// The product of some rows and a panel, in a part of the inner dimension.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) left: Left<'a>,
    /// `[pairs, PANEL]`, of whole groups of pairs.
    pub(super) panel: &'a [u32],
    /// Columns of the panel that are wanted.
    pub(super) count: usize,
    /// `[rows, PANEL]`, of whole tiles of rows.
    pub(super) sums: &'a mut [f32],
    /// Whether the sums begin here, or have been begun.
    pub(super) begins: bool,
}

/// What multiplies pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Unit {
    /// Vectors, a pair of each element's products at a time.
    Vectors,
    /// The tiles of AMX, [`TILE`] of them at a time.
    Tiles,
    /// What tiles compute, on every processor.
    #[cfg(test)]
    ModelOfTiles,
}

impl Unit {
    /// The fastest that the processor has.
    pub(in super::super) fn fastest() -> Self {
        match tiles::are_there() {
            true => Self::Tiles,
            false => Self::Vectors,
        }
    }

    /// Rows that it computes together.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Vectors => vectors::ROWS,
            _ => tiles::TOGETHER,
        }
    }

    /// The most rows a thread takes at a time, of whole tiles: their sums in [`PANELS`](super::PANELS) panels, 192 or 384 KiB, stay in
    /// the second cache.
    pub(super) fn most_rows(self) -> usize {
        match self {
            Self::Vectors => 96,
            _ => 192,
        }
    }

    /// Whether it is faster where the left factor is packed, wherever it lies.
    pub(super) fn packs_left(self) -> bool {
        self != Self::Vectors
    }

    /// Computes products.
    pub(super) fn compute<'a>(self, products: impl Iterator<Item = Product<'a>>) {
        match self {
            Self::Vectors => products.for_each(dot::dispatch),
            Self::Tiles => tiles::compute::<Amx>(products),
            #[cfg(test)]
            Self::ModelOfTiles => tiles::compute::<tiles::Model>(products),
        }
    }
}

/// Whether the processor has an instruction for products of bf16.
pub(in super::super) fn are_fast() -> bool {
    Unit::fastest() == Unit::Tiles || has_instruction()
}

/// Pairs that numbers take along the inner dimension of a product whose factors [`multiply_small`] is given.
///
/// [`multiply_small`]: super::super::small::multiply_small
pub(in super::super) fn pairs_of(numbers: usize) -> usize {
    let pairs = numbers.div_ceil(2);
    match Unit::fastest() {
        Unit::Vectors => pairs,
        _ => pairs.next_multiple_of(TILE),
    }
}
