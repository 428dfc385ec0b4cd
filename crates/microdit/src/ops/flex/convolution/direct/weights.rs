//! Weights as columns of tiles.

use super::{
    super::super::{
        bf16::{TILE, pair_rows},
        buffer::Lines,
        simd::simd,
        transpose::transpose_rows,
    },
    CHANNELS,
};
use pulp::bytemuck::{cast, cast_slice};
use rayon::prelude::*;

/// Weights `[output, input, taps]`, the taps in some order, as `[groups of outputs, groups of inputs, taps, TILE, TILE]`, with zeros
/// behind the last output and input.
pub(super) fn pack(
    weight: &[f32],
    [inputs, outputs]: [usize; 2],
    order: &[usize],
    tiles: &mut Lines<u32>,
) {
    let taps = order.len();
    let group = inputs.div_ceil(CHANNELS) * taps * TILE * TILE;
    tiles
        .resized(outputs.div_ceil(TILE) * group)
        .par_chunks_exact_mut(group)
        .zip(weight.par_chunks(TILE * inputs * taps))
        .for_each_init(Lines::default, |turned, (tiles, weight)| {
            let turned = turned.resized(CHANNELS * taps * TILE);
            simd(
                #[inline(always)]
                || {
                    let groups = tiles.chunks_exact_mut(taps * TILE * TILE);
                    for (i, tiles) in groups.enumerate() {
                        turn(weight, inputs * taps, i * CHANNELS * taps, turned);
                        let rows = turned.as_chunks::<TILE>().0;
                        let rows = |input: usize, tap: usize| &rows[input * taps + tap];
                        let tiles = tiles.as_chunks_mut::<TILE>().0.chunks_exact_mut(TILE);
                        for (tile, &tap) in tiles.zip(order) {
                            for (j, out) in tile.iter_mut().enumerate() {
                                pair_rows(rows(2 * j, tap), Some(rows(2 * j + 1, tap)), out);
                            }
                        }
                    }
                },
            );
        });
}

/// Columns from `first` on of up to [`TILE`] rows of `length` numbers, as rows of [`TILE`] numbers, with zeros in place of what is
/// not there.
#[inline(always)]
fn turn(rows: &[f32], length: usize, first: usize, out: &mut [f32]) {
    let blocks = out.as_chunks_mut::<{ TILE * TILE }>().0;
    for (i, out) in blocks.iter_mut().enumerate() {
        let mut block = [[0; TILE]; TILE];
        let rows = rows.chunks_exact(length);
        let rows = rows.map(|row| row.get(first + i * TILE..).unwrap_or_default());
        transpose_rows(rows.map(cast_slice), &mut block);
        *out = cast(block);
    }
}
