//! The product of some rows and a panel of columns, the piece of work that a unit of the processor does.

use super::{
    ROOM,
    dot::has_instruction,
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

    /// What stands behind the first pairs, whole groups of them.
    pub(super) fn behind(self, pairs: usize) -> Self {
        Self {
            data: &self.data[pairs / TILE * self.step..],
            ..self
        }
    }

    /// A row's pairs, from its first group of them on; those of the next begin `step` behind.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> &'a [u32] {
        &self.data[row / TILE * self.tile + row % TILE * self.stride..]
    }
}

/// The product of some rows and a panel.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) left: Left<'a>,
    /// `[groups of columns, pairs, columns]`, the pairs in whole groups; tiles have two groups of 32 columns, vectors one.
    pub(super) panel: &'a [u32],
    /// Columns of the panel that are wanted.
    pub(super) count: usize,
    /// `[rows, PANEL]`, of whole tiles of rows.
    pub(super) sums: &'a mut [f32],
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

    /// The most rows a thread takes at a time, of whole tiles, if they have so many pairs.
    pub(super) fn most_rows(self, pairs: usize) -> usize {
        let [least, most] = match self {
            Self::Vectors => [48, 96],
            _ => [64, 192],
        };
        (ROOM / pairs).clamp(least, most) / self.rows() * self.rows()
    }

    /// Whether it is faster where the left factor is packed, wherever it lies.
    pub(super) fn packs_left(self) -> bool {
        self != Self::Vectors
    }

    /// Computes a product.
    pub(super) fn compute(self, product: Product<'_>) {
        match self {
            Self::Vectors => vectors::compute(product),
            Self::Tiles => tiles::compute::<Amx>(product),
            #[cfg(test)]
            Self::ModelOfTiles => tiles::compute::<tiles::Model>(product),
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
