//! Factors in the order the products read them: pairs of neighbors in the inner dimension, rounded to bf16.

use super::{
    super::{
        matrix::Matrix,
        number::Number,
        simd::simd,
        transpose::{BLOCK, transposed},
    },
    DEPTH, PANEL, Part, ROWS, TILE, by_columns,
};
use burn::tensor::bf16;
use rayon::prelude::*;

/// Two bf16 as 32 bits, the first in the lower ones.
#[inline(always)]
pub(in super::super) fn pair<N: Number>(first: N, second: N) -> u32 {
    let bits = |x: N| u32::from(bf16::of(x.wide()).to_bits());
    bits(first) | bits(second) << 16
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

/// Rows `2 i` and `2 i + 1` of what lies in memory, from `first` on, `count` columns of them.
#[inline(always)]
fn two_rows<N>(
    data: &[N],
    [rows, columns]: [usize; 2],
    i: usize,
    first: usize,
    count: usize,
) -> (&[N], Option<&[N]>) {
    let row = |row: usize| &data[row * columns + first..][..count];
    (row(2 * i), (2 * i + 1 < rows).then(|| row(2 * i + 1)))
}

/// Columns `first..first + count` of the right factor: `[blocks, panels, pairs, PANEL]`, the blocks of [`DEPTH`] pairs but for
/// the last, with zeros behind the last column.
pub(super) fn right<N: Number>(
    matrix: Matrix<'_, N>,
    first: usize,
    count: usize,
    out: &mut [u32],
    parallel: bool,
) {
    let panels = count.div_ceil(PANEL);
    out.par_chunks_mut(DEPTH * panels * PANEL)
        .enumerate()
        .with_min_len(if parallel { 1 } else { usize::MAX })
        .for_each(|(block, out)| {
            let pairs = out.len() / (panels * PANEL);
            simd(
                #[inline(always)]
                || match by_columns(matrix) {
                    false => {
                        let shape = [matrix.rows, matrix.columns];
                        for i in 0..pairs {
                            let pair = block * DEPTH + i;
                            let (one, other) = two_rows(matrix.data, shape, pair, first, count);
                            for (panel, out) in out.chunks_exact_mut(pairs * PANEL).enumerate() {
                                let part = panel * PANEL..count.min((panel + 1) * PANEL);
                                let out = &mut out[i * PANEL..][..PANEL];
                                let other = other.map(|other| &other[part.clone()]);
                                pair_rows(&one[part.clone()], other, out);
                                out[part.len()..].fill(0);
                            }
                        }
                    }
                    true => {
                        for (panel, out) in out.chunks_exact_mut(pairs * PANEL).enumerate() {
                            let begin = panel * PANEL;
                            let count = PANEL.min(count - begin);
                            columns_to_panel(matrix, first + begin, count, block * DEPTH, out);
                        }
                    }
                },
            );
        });
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
            let rows = block.iter_mut().zip(column..count);
            for (row, column) in rows {
                let values = &matrix.data[(first + column) * inner..][..inner][begin..];
                pair_neighbors(values, row);
            }
            for (out, row) in out.chunks_exact_mut(PANEL).zip(transposed(block)) {
                out[column..][..BLOCK].copy_from_slice(&row);
            }
        }
    }
}

/// Pairs of neighbors, as many as there are, the last perhaps with zero.
#[inline(always)]
fn pair_neighbors<N: Number>(values: &[N], out: &mut [u32; BLOCK]) {
    if let Some(values) = values.first_chunk::<{ 2 * BLOCK }>() {
        for (out, values) in out.iter_mut().zip(values.as_chunks::<2>().0) {
            *out = pair(values[0], values[1]);
        }
        return;
    }
    for (out, values) in out.iter_mut().zip(values.chunks(2)) {
        *out = pair(values[0], values.get(1).copied().unwrap_or(N::of(0.0)));
    }
}

/// Some rows of the left factor, in the inner dimension from pair `first` on: as many pairs as `out` `[tiles, pairs, TILE]`
/// has room for.
pub(super) fn left<N: Number>(matrix: Matrix<'_, N>, part: Part, first: usize, out: &mut [u32]) {
    let inner = matrix.columns;
    let Part {
        first_row, rows, ..
    } = part;
    let pairs = out.len() / rows.next_multiple_of(TILE);
    simd(
        #[inline(always)]
        || match by_columns(matrix) {
            true => {
                let shape = [inner, matrix.rows];
                let mut line = [0; ROWS];
                for i in 0..pairs {
                    let (one, other) = two_rows(matrix.data, shape, first + i, first_row, rows);
                    pair_rows(one, other, &mut line);
                    for (out, line) in out.chunks_exact_mut(pairs * TILE).zip(line.as_chunks().0) {
                        out.as_chunks_mut::<TILE>().0[i] = *line;
                    }
                }
            }
            false => {
                let values = matrix.data[first_row * inner..].chunks_exact(inner);
                for (row, values) in values.take(rows).enumerate() {
                    let out = &mut out[row / TILE * pairs * TILE..][..pairs * TILE];
                    let values = values[2 * first..].chunks(2);
                    for (out, values) in out.as_chunks_mut::<TILE>().0.iter_mut().zip(values) {
                        let second = values.get(1).copied().unwrap_or(N::of(0.0));
                        out[row % TILE] = pair(values[0], second);
                    }
                }
            }
        },
    );
}
