//! Convolutions of bf16 by the tiles of AMX, of stride 1, without packing what the kernel sees.
//!
//! A tile's columns are neighboring pixels, its pairs those of two channels. So rows of an image are laid out once, channels in pairs
//! and zeros around; for every tap of the kernel the tile is then read from where the tap's first pixel lies.

use super::{
    super::{
        bf16::{Factors, Sums, TILE, TOGETHER, Tiles, Unit, halves, pair, pair_rows},
        buffer::{Lines, unwritten},
        simd::simd,
    },
    patches::Patches,
    strips::{Strip, strips},
    terms::{Pixel, Term},
};
use rayon::prelude::*;

/// Pairs of pixels of the rows that a thread lays out at a time: with some kernels, they stay in the second cache.
const ROOM: usize = 1 << 17;

/// Whether it pays, that is wherever it can be done.
pub(super) fn pays<N: Pixel>(patches: &Patches) -> bool {
    N::Term::NUMBERS == 2 && patches.stride == [1; 2] && Unit::fastest() == Unit::Tiles
}

/// `[batch, output, ..]` of `x` `[batch, input, ..]`, `weight` `[output, input, taps]` and `bias` `[output]`.
pub(super) fn convolve<T: Tiles, N: Pixel>(
    batch: usize,
    channels @ [inputs, outputs]: [usize; 2],
    x: &[N],
    weight: &[f32],
    bias: Option<&[f32]>,
    patches: &Patches,
) -> Vec<N> {
    let ([height, width], corner) = (patches.output, patches.corner());
    let shifts = patches.taps.iter();
    let shifts = shifts.map(|tap| [0, 1].map(|i| (tap[i] - corner[i]) as usize));
    let shifts: Vec<[usize; 2]> = shifts.collect();
    let span = [0, 1].map(|i| shifts.iter().map(|shift| shift[i]).max().unwrap_or(0));
    let direct = Direct {
        x,
        channels,
        weight: tiles_of(weight, channels, shifts.len()),
        bias,
        width,
        pairs: inputs.div_ceil(2).next_multiple_of(TILE),
        seen: Patches {
            input: patches.input,
            output: [height + span[0], width + span[1]],
            stride: [1; 2],
            taps: vec![corner],
        },
        shifts,
    };
    let room = (ROOM / (direct.pairs * (width + span[1]))).saturating_sub(span[0]);
    let fair = (batch * height).div_ceil(2 * rayon::current_num_threads());
    let rows = room.min(fair).max(1);
    let mut out = unwritten(batch * outputs * height * width);
    strips(&mut out, [outputs, height, width], rows)
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Lines::default, |laid, strip| {
            simd(
                #[inline(always)]
                || {
                    direct.lay_out(&strip, laid);
                    direct.compute::<T>(strip, laid);
                },
            );
        });
    out
}

/// Weights `[output, input, taps]` as rows of tiles: `[groups of outputs, taps, groups of pairs, TILE, TILE]`, with zeros behind the
/// last output and input.
fn tiles_of(weight: &[f32], [inputs, outputs]: [usize; 2], taps: usize) -> Lines<u32> {
    let groups = inputs.div_ceil(2 * TILE);
    let group = taps * groups * TILE * TILE;
    let mut tiles = Lines::default();
    tiles
        .resized(outputs.div_ceil(TILE) * group)
        .par_chunks_exact_mut(group)
        .enumerate()
        .for_each(|(i, tiles)| {
            tiles.fill(0);
            let outputs = weight.chunks_exact(inputs * taps).skip(i * TILE).take(TILE);
            for (row, weight) in outputs.enumerate() {
                for (i, weight) in weight.chunks(2 * taps).enumerate() {
                    let (first, second) = weight.split_at(taps);
                    let place = (i / TILE * TILE + row) * TILE + i % TILE;
                    for (tap, &first) in first.iter().enumerate() {
                        let second = second.get(tap).copied().unwrap_or(0.0);
                        tiles[tap * groups * TILE * TILE + place] = pair(first, second);
                    }
                }
            }
        });
    tiles
}

/// What all strips share.
struct Direct<'a, N> {
    x: &'a [N],
    channels: [usize; 2],
    weight: Lines<u32>,
    bias: Option<&'a [f32]>,
    /// Of the output.
    width: usize,
    /// Of channels of the input, in whole groups of [`TILE`].
    pairs: usize,
    /// All pixels that any tap sees.
    seen: Patches,
    /// Where the taps lie behind the first of these pixels.
    shifts: Vec<[usize; 2]>,
}

impl<N: Pixel> Direct<'_, N> {
    /// The rows that a strip sees: `[rows, pairs, columns]`.
    #[inline(always)]
    fn lay_out(&self, strip: &Strip<'_, N>, laid: &mut Lines<u32>) {
        let (wide, inputs) = (self.seen.output[1], self.channels[0]);
        let taps = self.shifts.iter().map(|shift| shift[0]);
        let span = taps.max().unwrap_or(0);
        let rows = strip.channels[0].len() / self.width + span;
        let size = self.seen.input[0] * self.seen.input[1];
        let image = &self.x[strip.image * inputs * size..][..inputs * size];
        let mut lines = [vec![0.0; wide], vec![0.0; wide]];
        let laid = laid
            .resized(rows * self.pairs * wide)
            .chunks_exact_mut(wide);
        for (i, out) in laid.enumerate() {
            let (row, pair) = (strip.first_row + i / self.pairs, i % self.pairs);
            for (j, line) in lines.iter_mut().enumerate() {
                match image.chunks_exact(size).nth(2 * pair + j) {
                    Some(channel) => self.seen.row(channel, 0, row * wide, line),
                    None => line.fill(0.0),
                }
            }
            pair_rows(&lines[0], Some(&lines[1]), out);
        }
    }

    #[inline(always)]
    fn compute<T: Tiles>(&self, mut strip: Strip<'_, N>, laid: &[u32]) {
        let (width, wide, groups) = (self.width, self.seen.output[1], self.pairs / TILE);
        let of_tile = self.shifts.len() * groups * TILE * TILE;
        let mut tiles = T::take();
        let mut sums = Sums::ZERO;
        for (i, channels) in strip.channels.chunks_mut(TOGETHER).enumerate() {
            let (below, heights) = halves(channels.len());
            let kernels = [0, below].map(|row| (i * TOGETHER + row) / TILE * of_tile);
            for y in 0..channels[0].len() / width {
                for x in (0..width).step_by(TOGETHER) {
                    let (beside, widths) = halves(TOGETHER.min(width - x));
                    tiles.shape(heights, widths);
                    tiles.begin();
                    for (tap, shift) in self.shifts.iter().enumerate() {
                        let first = (y + shift[0]) * self.pairs * wide + x + shift[1];
                        let tap = tap * groups * TILE * TILE;
                        tiles.add(Factors {
                            left: kernels.map(|kernel| &self.weight[kernel + tap..]),
                            left_stride: TILE,
                            left_step: TILE * TILE,
                            right: [0, beside].map(|column| &laid[first + column..]),
                            right_stride: wide,
                            steps: groups,
                        });
                    }
                    tiles.store(sums.0.as_flattened_mut(), TOGETHER);
                    for (j, (channel, sums)) in channels.iter_mut().zip(&sums.0).enumerate() {
                        let bias = self.bias.map_or(0.0, |bias| bias[i * TOGETHER + j]);
                        let out = &mut channel[y * width + x..(y + 1) * width];
                        match out.first_chunk_mut::<TOGETHER>() {
                            // Of a length that the compiler knows.
                            Some(out) => write(out, sums, bias),
                            None => write(out, sums, bias),
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn write<N: Pixel>(out: &mut [N], sums: &[f32], bias: f32) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = N::of(sum + bias);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Convolution, *};
    use crate::ops::flex::bf16::{Amx, Model};
    use burn::tensor::{bf16, ops::ConvOptions};

    /// Whole numbers, whose products and sums are exact in f32; the results are rounded as they are written.
    fn numbers<N: Pixel>(count: usize, step: usize) -> Vec<N> {
        (0..count)
            .map(|i| N::of((i * step % 7) as f32 - 3.0))
            .collect()
    }

    #[test]
    fn convolutions_of_every_size_are_exact() {
        type Convolve =
            fn(usize, [usize; 2], &[bf16], &[f32], Option<&[f32]>, &Patches) -> Vec<bf16>;
        let tiles: Option<Convolve> =
            (Unit::fastest() == Unit::Tiles).then_some(convolve::<Amx, bf16>);
        if tiles.is_none() {
            println!("AMX: skipped, the processor has none");
        }
        let ways = [convolve::<Model, bf16> as Convolve]
            .into_iter()
            .chain(tiles);
        for (way, convolve) in ways.enumerate() {
            for (batch, channels, input, kernel, padding, dilation) in [
                (1, [1, 1], [1, 1], [1, 1], 0, 1),
                (2, [3, 5], [9, 37], [3, 3], 1, 1),
                (1, [33, 40], [7, 70], [3, 3], 1, 1),
                (1, [40, 33], [20, 16], [1, 1], 0, 1),
                (3, [2, 17], [12, 33], [3, 5], 2, 2),
            ] {
                let [inputs, outputs] = channels;
                let x: Vec<bf16> = numbers(batch * inputs * input[0] * input[1], 5);
                let weight: Vec<f32> = numbers(outputs * inputs * kernel[0] * kernel[1], 3);
                let bias: Vec<f32> = numbers(outputs, 2);
                let options = ConvOptions::new([1; 2], [padding; 2], [dilation; 2], 1).into();
                let shape = [batch, inputs, input[0], input[1]];
                let sizes = [outputs, inputs, kernel[0], kernel[1]];
                let convolution = Convolution::new(shape, sizes, &options).unwrap();
                let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                let expected = convolution.forward(&wide, &weight, Some(&bias));
                let patches = convolution.patches();
                let found = convolve(batch, channels, &x, &weight, Some(&bias), &patches);
                let expected: Vec<bf16> = expected.into_iter().map(bf16::from_f32).collect();
                assert!(found == expected, "{way}: {shape:?} by {sizes:?}");
            }
        }
    }
}
