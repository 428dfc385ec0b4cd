//! Factors in the order the products read them: pairs of neighbors in the inner dimension, rounded to bf16.

use super::{
    super::{
        matrix::Matrix,
        number::Number,
        simd::simd,
        transpose::{BLOCK, transpose_block},
    },
    DEPTH, PANEL, Part, by_columns,
    tiles::TILE,
};
use rayon::prelude::*;

/// Two bf16 as 32 bits, the first in the lower ones.
#[inline(always)]
pub(in super::super) fn pair<N: Number>(first: N, second: N) -> u32 {
    u32::from(first.narrow()) | u32::from(second.narrow()) << 16
}

/// A row of pairs from two rows, or from one and zeros.
#[inline(always)]
pub(in super::super) fn pair_rows<N: Number>(first: &[N], second: Option<&[N]>, out: &mut [u32]) {
    match second {
        Some(second) => {
            for ((out, &first), &second) in out.iter_mut().zip(first).zip(second) {
                *out = pair(first, second);
            }
        }
        None => {
            for (out, &first) in out.iter_mut().zip(first) {
                *out = pair(first, N::of(0.0));
            }
        }
    }
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

/// Columns `first..first + count` of the right factor: `[blocks, panels, pairs, PANEL]`, the blocks of [`DEPTH`] pairs but for
/// the last, with zeros behind the last column and row.
pub(super) fn right<N: Number>(
    matrix: Matrix<'_, N>,
    first: usize,
    count: usize,
    out: &mut [u32],
    parallel: bool,
) {
    let panels = count.div_ceil(PANEL);
    let at_once = if parallel { 1 } else { usize::MAX };
    out.par_chunks_mut(DEPTH * panels * PANEL)
        .enumerate()
        .with_min_len(at_once)
        .for_each(|(block, out)| {
            let pairs = out.len() / (panels * PANEL);
            out.par_chunks_mut(pairs * PANEL)
                .enumerate()
                .with_min_len(at_once)
                .for_each(|(panel, out)| {
                    let begin = panel * PANEL;
                    let (first, count) = (first + begin, PANEL.min(count - begin));
                    simd(
                        #[inline(always)]
                        || match by_columns(matrix) {
                            true => columns_to_panel(matrix, first, count, block * DEPTH, out),
                            false => rows_to_panel(matrix, first, count, block * DEPTH, out),
                        },
                    );
                });
        });
}

/// A panel of a matrix whose rows lie in memory: of `count` columns, from pair `pair` on.
#[inline(always)]
fn rows_to_panel<N: Number>(
    matrix: Matrix<'_, N>,
    first: usize,
    count: usize,
    pair: usize,
    out: &mut [u32],
) {
    let shape = [matrix.rows, matrix.columns];
    for (i, out) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        match count {
            // Of a length that the compiler knows.
            PANEL => two_rows(matrix.data, shape, pair + i, first, out),
            _ => {
                two_rows(matrix.data, shape, pair + i, first, &mut out[..count]);
                out[count..].fill(0);
            }
        }
    }
}

/// A panel of a matrix whose columns lie in memory: of `count` columns, from pair `pair` on.
#[inline(always)]
fn columns_to_panel<N: Number>(
    matrix: Matrix<'_, N>,
    first: usize,
    count: usize,
    pair: usize,
    out: &mut [u32],
) {
    let inner = matrix.rows;
    for (i, out) in out.chunks_mut(BLOCK * PANEL).enumerate() {
        let begin = 2 * (pair + BLOCK * i);
        for column in (0..PANEL).step_by(BLOCK) {
            let mut block = [[0; BLOCK]; BLOCK];
            for (row, column) in block.iter_mut().zip(column..count) {
                let values = &matrix.data[(first + column) * inner..][..inner];
                pair_neighbors(values.get(begin..).unwrap_or_default(), row);
            }
            transpose_block(&mut block);
            for (out, row) in out.chunks_exact_mut(PANEL).zip(&block) {
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

/// Some rows of the left factor, `pairs` of each from pair `first` on: `[groups of rows, groups of pairs, TILE, TILE]`, with zeros
/// behind the last column.
pub(super) fn left<N: Number>(
    matrix: Matrix<'_, N>,
    part: Part,
    first: usize,
    pairs: usize,
    out: &mut [u32],
) {
    let Part {
        first_row, rows, ..
    } = part;
    let groups = out.as_chunks_mut::<TILE>().0.as_chunks_mut::<TILE>().0;
    simd(
        #[inline(always)]
        || {
            let along = pairs / TILE;
            let groups = groups.iter_mut().take(rows.div_ceil(TILE) * along);
            for (i, group) in groups.enumerate() {
                let (row, pair) = (i / along * TILE, i % along * TILE);
                let count = TILE.min(rows - row);
                let (row, pair) = (first_row + row, first + pair);
                match by_columns(matrix) {
                    true => {
                        let shape = [matrix.columns, matrix.rows];
                        for (j, line) in group.iter_mut().enumerate() {
                            match count {
                                // Of a length that the compiler knows.
                                TILE => two_rows(matrix.data, shape, pair + j, row, line),
                                _ => {
                                    two_rows(matrix.data, shape, pair + j, row, &mut line[..count])
                                }
                            }
                        }
                        transpose_block(group);
                    }
                    false => {
                        let inner = matrix.columns;
                        for (j, line) in group.iter_mut().take(count).enumerate() {
                            let values = &matrix.data[(row + j) * inner..][..inner];
                            pair_neighbors(values.get(2 * pair..).unwrap_or_default(), line);
                        }
                    }
                }
            }
        },
    );
}
