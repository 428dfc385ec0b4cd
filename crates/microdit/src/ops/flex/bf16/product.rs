//! The product of some rows and a panel of columns, the piece of work that a unit of the processor does.

use super::{
    dot::{self, has_instruction},
    tiles, vectors,
};

/// Columns packed side by side: whole vectors and tiles on every processor.
pub(super) const PANEL: usize = 64;

/// Pairs of the inner dimension that are there always, with zeros behind the last: a tile of AMX takes so many at a time.
pub(super) const PAIRS: usize = 16;

/// Some pairs of some rows of the left factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left<'a> {
    /// Rows of pairs, `stride` apart.
    pub(super) data: &'a [u32],
    pub(super) stride: usize,
    pub(super) rows: usize,
}

/// The product of some rows and a panel, in a part of the inner dimension.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) left: Left<'a>,
    /// `[pairs, PANEL]`: as many pairs as [`PAIRS`] divides.
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
pub(super) enum Unit {
    /// Vectors, a pair of each element's products at a time.
    Vectors,
    /// The tiles of AMX, [`PAIRS`] of them at a time.
    Tiles,
    /// What tiles compute, on every processor.
    #[cfg(test)]
    ModelOfTiles,
}

impl Unit {
    /// The fastest that the processor has.
    pub(super) fn fastest() -> Self {
        match tiles::are_there() {
            true => Self::Tiles,
            false => Self::Vectors,
        }
    }

    /// Rows that it computes together.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Vectors => vectors::ROWS,
            _ => tiles::ROWS,
        }
    }

    /// Whether it reads rows of the left factor behind the last, which must be there then.
    pub(super) fn reads_whole_tiles(self) -> bool {
        self != Self::Vectors
    }

    /// Computes a product.
    pub(super) fn compute(self, product: Product<'_>) {
        match self {
            Self::Vectors => dot::dispatch(product),
            Self::Tiles => tiles::compute(product),
            #[cfg(test)]
            Self::ModelOfTiles => tiles::model(product),
        }
    }
}

/// Whether the processor has an instruction for products of bf16.
pub(in super::super) fn are_fast() -> bool {
    Unit::fastest() == Unit::Tiles || has_instruction()
}
