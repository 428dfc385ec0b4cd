//! Products of packed pairs by the tiles of AMX.

use super::{
    super::bf16::{Factors, Sums, TILE, TOGETHER, Tiles, halves},
    packed::{Before, Left, PANEL},
};

/// What [`Products::add_product`](super::terms::Products::add_product) does, where pairs come in whole groups of [`TILE`].
#[inline(always)]
pub(super) fn add_by_tiles<'a: 'b, 'b, T: Tiles>(
    left: Left<'_, u32>,
    pieces: impl Iterator<Item = &'b mut [&'a mut [f32]]>,
    packed: &[u32],
    before: Before<'_>,
) {
    let mut tiles = T::take();
    let mut sums = Sums::ZERO;
    for (out, panel) in pieces.zip(packed.chunks_exact(left.inner * PANEL)) {
        let columns = out.first().map_or(0, |row| row.len());
        for column in (0..columns).step_by(TOGETHER) {
            let (beside, widths) = halves(TOGETHER.min(columns - column));
            for (i, out) in out.chunks_mut(TOGETHER).enumerate() {
                let row = i * TOGETHER;
                let (below, heights) = halves(out.len());
                tiles.shape(heights, widths);
                tiles.begin();
                tiles.add(Factors {
                    left: [row, row + below].map(|row| &left.data[row * left.stride..]),
                    left_stride: left.stride,
                    left_step: TILE,
                    right: [column, column + beside].map(|column| &panel[column..]),
                    right_stride: PANEL,
                    steps: left.inner / TILE,
                });
                tiles.store(sums.0.as_flattened_mut(), TOGETHER);
                for (j, (out, sums)) in out.iter_mut().zip(&sums.0).enumerate() {
                    let out = &mut out[column..];
                    match before {
                        Before::Sum => add(out, sums, |before, sum| before + sum),
                        Before::Start(None) => add(out, sums, |_, sum| sum),
                        Before::Start(Some(start)) => {
                            let start = start[row + j];
                            add(out, sums, |_, sum| start + sum);
                        }
                    }
                }
            }
        }
    }
}

/// What becomes of the output's first numbers and as many sums.
#[inline(always)]
fn add(out: &mut [f32], sums: &[f32; TOGETHER], of: impl Fn(f32, f32) -> f32) {
    match out.first_chunk_mut() {
        // Of a length that the compiler knows.
        Some(out) => add_all::<TOGETHER>(out, sums, of),
        None => {
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out = of(*out, sum);
            }
        }
    }
}

#[inline(always)]
fn add_all<const N: usize>(out: &mut [f32; N], sums: &[f32; N], of: impl Fn(f32, f32) -> f32) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = of(*out, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::flex::bf16::{self, Amx, Model, Unit};

    type Add = fn(Left<'_, u32>, &mut [&mut [&mut [f32]]], &[u32], Before<'_>);

    fn by<T: Tiles>(
        left: Left<'_, u32>,
        pieces: &mut [&mut [&mut [f32]]],
        packed: &[u32],
        before: Before<'_>,
    ) {
        add_by_tiles::<T>(
            left,
            pieces.iter_mut().map(|piece| &mut **piece),
            packed,
            before,
        );
    }

    /// Whole numbers, whose products and sums are exact.
    #[test]
    fn products_of_every_size_are_exact() {
        let number = |i: usize, step: usize| (i * step % 17) as f32 - 8.0;
        let pair = |i: usize, step: usize| bf16::pair(number(2 * i, step), number(2 * i + 1, step));
        let tiles: Option<Add> = (Unit::fastest() == Unit::Tiles).then_some(by::<Amx>);
        if tiles.is_none() {
            println!("AMX: skipped, the processor has none");
        }
        for add in [by::<Model> as Add].into_iter().chain(tiles) {
            for (rows, columns, inner) in [(1, 1, 16), (16, 64, 32), (33, 17, 16), (70, 40, 48)] {
                let stride = inner + 3;
                let data: Vec<u32> = (0..rows * stride).map(|i| pair(i, 5)).collect();
                let panels = 2;
                let packed: Vec<u32> = (0..panels * inner * PANEL).map(|i| pair(i, 3)).collect();
                let start: Vec<f32> = (0..rows).map(|i| number(i, 7)).collect();
                for before in [
                    Before::Start(None),
                    Before::Start(Some(&start)),
                    Before::Sum,
                ] {
                    let mut out = vec![vec![vec![2.0; columns]; rows]; panels];
                    let mut pieces: Vec<Vec<&mut [f32]>> = out
                        .iter_mut()
                        .map(|piece| piece.iter_mut().map(Vec::as_mut_slice).collect())
                        .collect();
                    let mut pieces: Vec<&mut [&mut [f32]]> =
                        pieces.iter_mut().map(Vec::as_mut_slice).collect();
                    let left = Left {
                        data: &data,
                        stride,
                        inner,
                    };
                    add(left, &mut pieces, &packed, before);
                    for (panel, out) in out.iter().enumerate() {
                        for (row, column) in
                            (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)))
                        {
                            let products = (0..2 * inner).map(|k| {
                                let right = (panel * inner + k / 2) * PANEL + column;
                                number(2 * row * stride + k, 5) * number(2 * right + k % 2, 3)
                            });
                            let before = match before {
                                Before::Start(start) => start.map_or(0.0, |start| start[row]),
                                Before::Sum => 2.0,
                            };
                            let expected = before + products.sum::<f32>();
                            assert_eq!(out[row][column], expected, "{rows} x {columns} x {inner}");
                        }
                    }
                }
            }
        }
    }
}
