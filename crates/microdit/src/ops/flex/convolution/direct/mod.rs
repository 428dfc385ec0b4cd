//! Convolutions of bf16 by the tiles of AMX, without packing what the kernel sees.
//!
//! A tile's rows are neighboring pixels, each with 32 channels, which fill a cache line. So rows of an image are laid out once, with
//! zeros around; for every tap of the kernel the tile is then read from where the tap's first pixel lies, and no pixel straddles two
//! lines. Its columns are channels of the output, so what it sums is transposed before it is written.

mod seen;
mod weights;

use super::{
    super::{
        bf16::{Factors, Sums, TILE, TOGETHER, Tiles, Unit, halves},
        buffer::{Lines, unwritten},
        simd::simd,
        transpose::{transpose_rows, write_line},
    },
    Operands,
    strips::{Strip, strips},
    terms::{Pixel, Term},
};
use pulp::bytemuck::cast_slice;
use rayon::prelude::*;
use seen::Seen;
use std::cell::Cell;

/// Channels of a pixel in a row of a tile.
const CHANNELS: usize = 2 * TILE;

/// Pairs of numbers of the rows that a thread lays out at a time: with some kernels, they stay in the second cache.
const ROOM: usize = 1 << 18;

/// Pixels of the rows whose sums a thread keeps before it writes them.
const BAND: usize = 512;

thread_local! {
    /// Memory of the packed weights, used again for the next convolution.
    static WEIGHT: Cell<Lines<u32>> = const { Cell::new(Lines::new()) };
    /// Of a strip.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::new()) };
}

/// Whether it can be done.
pub(super) fn is_possible<N: Pixel>() -> bool {
    N::Term::NUMBERS == 2 && Unit::fastest() == Unit::Tiles
}

/// The output `[batch, output, ..]`.
pub(super) fn convolve<T: Tiles, N: Pixel>(operands: Operands<'_, N>) -> Vec<N> {
    let Operands {
        batch,
        channels: channels @ [inputs, outputs],
        x,
        weight,
        bias,
        patches,
    } = operands;
    let seen = Seen::by(inputs, patches);
    // Taken out: while this thread waits for the others, it may be given another convolution.
    let mut packed = WEIGHT.take();
    weights::pack(weight, channels, &seen.order, &mut packed);
    let direct = Direct {
        weight: &packed,
        bias,
        seen: &seen,
    };
    let [height, width] = patches.output;
    let fair = (batch * height).div_ceil(rayon::current_num_threads());
    let rows = seen.output_rows(ROOM).min(fair).max(1);
    let image = inputs * patches.input[0] * patches.input[1];
    let mut out = unwritten(batch * outputs * height * width);
    strips(&mut out, [outputs, height, width], rows)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|mut strip| {
            let image = &x[strip.image * image..][..image];
            let mut buffers = BUFFERS.take();
            let Buffers { paired, laid, band } = &mut buffers;
            simd(
                #[inline(always)]
                || {
                    let rows = strip.channels[0].len() / width;
                    seen.lay_out(image, strip.first_row, rows, paired, laid);
                    direct.compute::<T>(&mut strip, laid, band);
                },
            );
            BUFFERS.set(buffers);
        });
    WEIGHT.set(packed);
    out
}

/// What a thread computes a strip in.
#[derive(Debug, Default)]
struct Buffers {
    /// Channels in pairs, of one row: `[TILE, columns]`.
    paired: Lines<u32>,
    laid: Lines<u32>,
    /// Sums of [`TOGETHER`] channels: `[channels, pixels]`.
    band: Lines<u32>,
}

impl Buffers {
    const fn new() -> Self {
        Self {
            paired: Lines::new(),
            laid: Lines::new(),
            band: Lines::new(),
        }
    }
}

/// Up to [`TILE`] neighboring pixels of a strip.
#[derive(Clone, Copy, Debug)]
struct Segment {
    y: usize,
    x: usize,
    count: usize,
}

impl Segment {
    /// All of some rows.
    fn of(rows: usize, width: usize) -> Vec<Self> {
        let row = |y: usize| {
            let segments = (0..width).step_by(TILE);
            segments.map(move |x| Self {
                y,
                x,
                count: TILE.min(width - x),
            })
        };
        (0..rows).flat_map(row).collect()
    }
}

/// What all strips share.
struct Direct<'a> {
    weight: &'a [u32],
    bias: Option<&'a [f32]>,
    seen: &'a Seen<'a>,
}

impl Direct<'_> {
    #[inline(always)]
    fn compute<T: Tiles>(
        &self,
        strip: &mut Strip<'_, impl Pixel>,
        laid: &[u32],
        band: &mut Lines<u32>,
    ) {
        let width = self.seen.patches.output[1];
        let of_row = width.div_ceil(TILE);
        let segments = Segment::of(strip.channels[0].len() / width, width);
        let of_tile = self.seen.groups * self.seen.order.len() * TILE * TILE;
        let mut tiles = T::take();
        let mut sums = Sums::ZERO;
        for (i, channels) in strip.channels.chunks_mut(TOGETHER).enumerate() {
            let (beside, widths) = halves(channels.len());
            let weight = [0, beside].map(|output| {
                let tile = (i * TOGETHER + output) / TILE;
                &self.weight[tile * of_tile..][..of_tile]
            });
            for segments in segments.chunks((BAND / width).max(1) * of_row) {
                let (begin, pixels) = (segments[0].y * width, segments.len() / of_row * width);
                let band = band.resized(TOGETHER * pixels);
                for segments in segments.chunks(2) {
                    self.sum(segments, widths, weight, laid, &mut tiles);
                    tiles.store(sums.0.as_flattened_mut(), TOGETHER);
                    for (segment, sums) in segments.iter().zip(sums.0.as_chunks::<TILE>().0) {
                        let first = segment.y * width + segment.x - begin;
                        turn(sums, first, segment.count, pixels, band);
                    }
                }
                for (j, (channel, sums)) in channels
                    .iter_mut()
                    .zip(band.chunks_exact(pixels))
                    .enumerate()
                {
                    let bias = self.bias.map_or(0.0, |bias| bias[i * TOGETHER + j]);
                    write(&mut channel[begin..][..pixels], sums, bias);
                }
            }
        }
    }

    /// Sums of one or two segments, in their tiles.
    #[inline(always)]
    fn sum<T: Tiles>(
        &self,
        segments: &[Segment],
        widths: [usize; 2],
        weight: [&[u32]; 2],
        laid: &[u32],
        tiles: &mut T,
    ) {
        let Seen {
            patches, groups, ..
        } = *self.seen;
        let (stride, columns) = (patches.stride, self.seen.columns());
        let (first, second) = (segments[0], segments.get(1));
        let heights = [first.count, second.map_or(1, |second| second.count)];
        let at = [first, *second.unwrap_or(&first)];
        let at = at.map(|Segment { y, x, .. }| [y * stride[0], x * stride[1]]);
        tiles.shape(heights, widths);
        tiles.begin();
        let mut tap = 0;
        for group in 0..groups {
            for run in &self.seen.runs {
                tiles.add(Factors {
                    left: at.map(|[row, column]| {
                        let row = (row + run.first[0]) * groups + group;
                        &laid[(row * columns + column + run.first[1]) * TILE..]
                    }),
                    left_stride: stride[1] * TILE,
                    left_step: run.step * TILE,
                    right: weight.map(|weight| &weight[tap * TILE * TILE..]),
                    right_stride: TILE,
                    steps: run.count,
                });
                tap += run.count;
            }
        }
    }
}

/// Sums of `count` pixels `[pixels, channels]` into a band `[channels, pixels]`, from its pixel `first` on.
#[inline(always)]
fn turn(
    sums: &[[f32; TOGETHER]; TILE],
    first: usize,
    count: usize,
    pixels: usize,
    band: &mut [u32],
) {
    for (half, channels) in band.chunks_exact_mut(TILE * pixels).enumerate() {
        let mut block = [[0; TILE]; TILE];
        let halves = sums.iter().map(|sums| &sums.as_chunks::<TILE>().0[half]);
        transpose_rows(halves.map(|sums| cast_slice(sums)), &mut block);
        for (out, line) in channels.chunks_exact_mut(pixels).zip(&block) {
            write_line(line, &mut out[first..][..count]);
        }
    }
}

#[inline(always)]
fn write<N: Pixel>(out: &mut [N], sums: &[u32], bias: f32) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = N::of(f32::from_bits(sum) + bias);
    }
}

#[cfg(test)]
mod tests;
