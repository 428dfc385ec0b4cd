//! Factors in the order the products read them: pairs of neighbors in the inner dimension, rounded to bf16.

use super::{
    super::{
        matrix::Matrix,
        number::Number,
        simd::simd,
        transpose::{BLOCK, transpose_block},
    },
    PANEL, Part, Unit, by_columns,
    tiles::{TILE, TOGETHER},
};
use rayon::prelude::*;
use std::ops::Range;

/// Two bf16 as 32 bits, the first in the lower ones.
#[inline(always)]
pub(in super::super) fn pair<N: Number>(first: N, second: N) -> u32 {
    u32::from(first.narrow()) | u32::from(second.narrow()) << 16
}

/// A row of pairs from two rows, or from one and zeros.
#[inline(always)]
pub(in super::super) fn pair_rows<N: Number>(first: &[N], second: Option<&[N]>, out: &mut [u32]) {
    let Some(second) = second else {
        for (out, &first) in out.iter_mut().zip(first) {
            *out = pair(first, N::of(0.0));
        }
        return;
    };
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let (firsts, first) = first.as_chunks();
    let (seconds, second) = second.as_chunks();
    for ((out, first), second) in blocks.iter_mut().zip(firsts).zip(seconds) {
        *out = pair_blocks(*first, *second);
    }
    for ((out, &first), &second) in rest.iter_mut().zip(first).zip(second) {
        *out = pair(first, second);
    }
}

/// By value: of memory that may overlap, the compiler makes no vectors in loops that it unrolls.
#[inline(always)]
fn pair_blocks<N: Number>(first: [N; BLOCK], second: [N; BLOCK]) -> [u32; BLOCK] {
    let mut out = [0; BLOCK];
    for i in 0..BLOCK {
        out[i] = pair(first[i], second[i]);
    }
    out
}

/// Columns from `column` on of rows `2 i` and `2 i + 1` of what lies in memory, in place of a row that is not there zeros.
#[inline(always)]
pub(in super::super) fn two_rows<N: Number>(
    data: &[N],
    [rows, columns]: [usize; 2],
    i: usize,
    column: usize,
    out: &mut [u32],
) {
    let row = |row: usize| &data[row * columns + column..][..out.len()];
    match rows.saturating_sub(2 * i) {
        0 => out.fill(0),
        1 => pair_rows(row(2 * i), None, out),
        _ => pair_rows(row(2 * i), Some(row(2 * i + 1)), out),
    }
}

/// Columns of the right factor, in panels as the unit reads them: `[panels, groups of columns, pairs, columns]`, with zeros behind the
/// last row. What stands behind the last column makes sums that nobody reads.
pub(super) fn right<N: Number>(
    unit: Unit,
    matrix: Matrix<'_, N>,
    columns: Range<usize>,
    pairs: usize,
    out: &mut [u32],
    parallel: bool,
) {
    let at_once = if parallel { 1 } else { usize::MAX };
    out.par_chunks_exact_mut(pairs * PANEL)
        .enumerate()
        .with_min_len(at_once)
        .for_each(|(i, out)| {
            let first = columns.start + i * PANEL;
            let columns = first..columns.end.min(first + PANEL);
            match unit {
                Unit::Vectors => panel::<N, PANEL>(matrix, columns, pairs, out, at_once),
                _ => panel::<N, TOGETHER>(matrix, columns, pairs, out, at_once),
            }
        });
}

/// A panel, in groups of `WIDTH` columns.
fn panel<N: Number, const WIDTH: usize>(
    matrix: Matrix<'_, N>,
    columns: Range<usize>,
    pairs: usize,
    out: &mut [u32],
    at_once: usize,
) {
    /// Pairs that are packed at a time.
    const DEPTH: usize = 256;
    let groups: Vec<Range<usize>> = columns
        .clone()
        .step_by(WIDTH)
        .map(|first| first..columns.end.min(first + WIDTH))
        .collect();
    if !by_columns(matrix) {
        return simd(
            #[inline(always)]
            || rows_to_panel::<N, WIDTH>(matrix, &groups, pairs, out),
        );
    }
    for (columns, out) in groups.iter().zip(out.chunks_exact_mut(pairs * WIDTH)) {
        out.par_chunks_mut(DEPTH * WIDTH)
            .enumerate()
            .with_min_len(at_once)
            .for_each(|(block, out)| {
                let out = out.as_chunks_mut::<WIDTH>().0;
                simd(
                    #[inline(always)]
                    || columns_to_group(matrix, columns.start, columns.len(), block * DEPTH, out),
                );
            });
    }
}

/// A panel of a matrix whose rows lie in memory, all groups of a row one after the other.
#[inline(always)]
fn rows_to_panel<N: Number, const WIDTH: usize>(
    matrix: Matrix<'_, N>,
    groups: &[Range<usize>],
    pairs: usize,
    out: &mut [u32],
) {
    let shape = [matrix.rows, matrix.columns];
    let out = out.as_chunks_mut::<WIDTH>().0;
    for pair in 0..pairs {
        for (i, columns) in groups.iter().enumerate() {
            let out = &mut out[i * pairs + pair];
            if columns.len() == WIDTH {
                // Of a length that the compiler knows.
                two_rows(matrix.data, shape, pair, columns.start, out);
            } else {
                let out = &mut out[..columns.len()];
                two_rows(matrix.data, shape, pair, columns.start, out);
            }
        }
    }
}

/// Columns of a matrix whose columns lie in memory: `count`, from pair `pair` on.
#[inline(always)]
fn columns_to_group<N: Number, const WIDTH: usize>(
    matrix: Matrix<'_, N>,
    first: usize,
    count: usize,
    pair: usize,
    out: &mut [[u32; WIDTH]],
) {
    let inner = matrix.rows;
    for (i, out) in out.chunks_mut(BLOCK).enumerate() {
        let begin = 2 * (pair + BLOCK * i);
        for column in (0..WIDTH).step_by(BLOCK) {
            let mut block = [[0; BLOCK]; BLOCK];
            for (row, column) in block.iter_mut().zip(column..count) {
                let values = &matrix.data[(first + column) * inner..][..inner];
                pair_neighbors(values.get(begin..).unwrap_or_default(), row);
            }
            transpose_block(&mut block);
            for (out, row) in out.iter_mut().zip(&block) {
                out[column..][..BLOCK].copy_from_slice(row);
            }
        }
    }
}

/// Pairs of neighbors, with zeros behind the last.
#[inline(always)]
fn pair_neighbors<N: Number>(values: &[N], out: &mut [u32; BLOCK]) {
    if let Some(values) = values.first_chunk::<{ 2 * BLOCK }>() {
        *out = N::pairs(values);
        return;
    }
    out.fill(0);
    for (out, values) in out.iter_mut().zip(values.chunks(2)) {
        *out = pair(values[0], values.get(1).copied().unwrap_or(N::of(0.0)));
    }
}

/// Some rows of the left factor: `[groups of rows, groups of pairs, TILE, TILE]`, with zeros behind the last column.
pub(super) fn left<N: Number>(matrix: Matrix<'_, N>, part: Part, out: &mut [u32]) {
    let Part {
        first_row,
        rows,
        pairs,
        ..
    } = part;
    let groups = out.as_chunks_mut::<TILE>().0.as_chunks_mut::<TILE>().0;
    let size = [rows.div_ceil(TILE), pairs / TILE];
    simd(
        #[inline(always)]
        || match by_columns(matrix) {
            // Neighbors of a column lie in the same cache line, also those of two groups.
            true => {
                let shape = [matrix.columns, matrix.rows];
                for (pair, row) in every(size[1], size[0]) {
                    let group = &mut groups[row * size[1] + pair];
                    let (pair, row) = (pair * TILE, row * TILE);
                    let (first, count) = (first_row + row, TILE.min(rows - row));
                    for (j, line) in group.iter_mut().enumerate() {
                        match count {
                            // Of a length that the compiler knows.
                            TILE => two_rows(matrix.data, shape, pair + j, first, line),
                            _ => two_rows(matrix.data, shape, pair + j, first, &mut line[..count]),
                        }
                    }
                    transpose_block(group);
                }
            }
            false => {
                let inner = matrix.columns;
                for (row, pair) in every(size[0], size[1]) {
                    let group = &mut groups[row * size[1] + pair];
                    let rows = first_row + row * TILE..first_row + rows.min((row + 1) * TILE);
                    for (line, row) in group.iter_mut().zip(rows) {
                        let values = &matrix.data[row * inner..][..inner];
                        let values = values.get(2 * pair * TILE..).unwrap_or_default();
                        pair_neighbors(values, line);
                    }
                }
            }
        },
    );
}

/// Pairs of indices up to these counts, the second ones of every first.
fn every(first: usize, second: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..first).flat_map(move |i| (0..second).map(move |j| (i, j)))
}
