//! Convolutions of stride 1 with few channels on one side, such as the first and the last of an autoencoder. Packing what the
//! kernel sees would cost more than the product: here every tap is a shift of a strip of a channel.

use super::{
    super::{
        buffer::{Lines, unwritten},
        number::Number,
    },
    Operands,
    patches::Patches,
    strips::{Strip, strips},
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{array::from_fn, ops::Range};

/// Channels that are few: with [`VECTORS`], as many sums as registers hold.
const FEW: usize = 4;

/// Vectors side by side.
const VECTORS: usize = 4;

/// Numbers that strips are filled up to: whole groups of vectors on every processor.
const GROUP: usize = VECTORS * 16;

/// Numbers of a strip of a channel: with those of the other side, a part of the second cache.
const STRIP: usize = 1 << 12;

/// Channels of the side with many that a thread takes at a time.
const TOGETHER: usize = 8;

/// Whether it pays to compute an output of so many channels.
pub(super) fn pays(outputs: usize, patches: &Patches) -> bool {
    outputs <= FEW && patches.stride == [1; 2]
}

/// Whether it pays to compute the gradient of weights between so many channels.
pub(super) fn pays_for_weights(channels: [usize; 2], patches: &Patches) -> bool {
    channels.into_iter().any(|channels| channels <= FEW) && patches.stride == [1; 2]
}

/// Rows of the output, spread as wide as what the kernel sees for them.
struct Sheet {
    /// The pixels of the input that any tap sees, with zeros around.
    seen: Patches,
    /// Width of that.
    wide: usize,
    /// How far each tap lies behind the first.
    shifts: Vec<usize>,
    /// Rows of the output and of the input that are taken at a time.
    rows: [usize; 2],
}

impl Sheet {
    fn new(patches: &Patches) -> Self {
        let (corner, [height, width]) = (patches.corner(), patches.output);
        let places = patches.taps.iter();
        let places = places.map(|tap| [0, 1].map(|i| (tap[i] - corner[i]) as usize));
        let span = [0, 1].map(|i| places.clone().map(|place| place[i]).max().unwrap_or(0));
        let wide = width + span[1];
        let rows = (STRIP / wide).clamp(1, height);
        Self {
            seen: Patches {
                output: [height + span[0], wide],
                taps: vec![corner],
                ..*patches
            },
            wide,
            shifts: places.map(|[row, column]| row * wide + column).collect(),
            rows: [rows, rows + span[0]],
        }
    }

    /// Numbers of a strip.
    fn len(&self) -> usize {
        (self.rows[0] * self.wide).next_multiple_of(GROUP)
    }

    /// Numbers of what is seen for it.
    fn seen_len(&self) -> usize {
        self.len() + self.shifts.iter().max().unwrap_or(&0)
    }

    /// What is seen of a channel for the strip from `row` on.
    fn look<N: Number>(&self, channel: &[N], row: usize, out: &mut [f32]) {
        let rows = self.rows[1].min(self.seen.output[0] - row);
        let (seen, rest) = out.split_at_mut(rows * self.wide);
        self.seen.row(channel, 0, row * self.wide, seen);
        rest.fill(0.0);
    }

    /// The numbers of a channel of the input.
    fn channel<'a, N>(&self, x: &'a [N], channel: usize) -> &'a [N] {
        let size = self.seen.input[0] * self.seen.input[1];
        &x[channel * size..][..size]
    }
}

/// The output `[batch, output, ..]`, where it [`pays`].
pub(super) fn convolve<N: Number>(operands: Operands<'_, N>) -> Vec<N> {
    let Operands {
        batch,
        channels: [inputs, outputs],
        x,
        weight,
        bias,
        patches,
    } = operands;
    let sheet = Sheet::new(patches);
    let [height, width] = patches.output;
    let mut out = unwritten(batch * outputs * height * width);
    strips(&mut out, [outputs, height, width], sheet.rows[0])
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(
            || [Lines::default(), Lines::default()],
            |buffers, strip| {
                Arch::new().dispatch(Forward {
                    sheet: &sheet,
                    x: &x[strip.image * inputs * sheet.channel(x, 0).len()..],
                    weight,
                    bias,
                    inputs,
                    width,
                    strip,
                    buffers,
                });
            },
        );
    out
}

struct Forward<'a, 'b, N> {
    sheet: &'a Sheet,
    /// From the strip's image on.
    x: &'a [N],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    inputs: usize,
    width: usize,
    strip: Strip<'b, N>,
    /// What is seen of a channel, and sums.
    buffers: &'a mut [Lines; 2],
}

impl<N: Number> WithSimd for Forward<'_, '_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.strip.channels.len() {
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            3 => self.run::<S, 3>(simd),
            _ => self.run::<S, FEW>(simd),
        }
    }
}

impl<N: Number> Forward<'_, '_, N> {
    #[inline(always)]
    fn run<S: Simd, const O: usize>(self, simd: S) {
        let (sheet, taps, len) = (self.sheet, self.sheet.shifts.len(), self.sheet.len());
        let [seen, sums] = self.buffers;
        let (seen, sums) = (seen.resized(sheet.seen_len()), sums.resized(O * len));
        for (output, sums) in sums.chunks_exact_mut(len).enumerate() {
            sums.fill(self.bias.map_or(0.0, |bias| bias[output]));
        }
        for input in 0..self.inputs {
            let channel = sheet.channel(self.x, input);
            sheet.look(channel, self.strip.first_row, seen);
            let weight: [&[f32]; O] =
                from_fn(|output| &self.weight[(output * self.inputs + input) * taps..][..taps]);
            for first in (0..len).step_by(VECTORS * S::F32_LANES) {
                let mut all: [[S::f32s; VECTORS]; O] = from_fn(|output| {
                    let (sums, _) = S::as_simd_f32s(&sums[output * len + first..]);
                    from_fn(|i| sums[i])
                });
                for (tap, shift) in sheet.shifts.iter().enumerate() {
                    let seen = &seen[first + shift..][..VECTORS * S::F32_LANES];
                    let (seen, _) = S::as_simd_f32s(seen);
                    let seen: [S::f32s; VECTORS] = from_fn(|i| seen[i]);
                    for (sums, weight) in all.iter_mut().zip(weight) {
                        let weight = simd.splat_f32s(weight[tap]);
                        for (sum, seen) in sums.iter_mut().zip(seen) {
                            *sum = simd.mul_add_e_f32s(weight, seen, *sum);
                        }
                    }
                }
                for (output, all) in all.into_iter().enumerate() {
                    let (sums, _) = S::as_mut_simd_f32s(&mut sums[output * len + first..]);
                    for (sum, all) in sums.iter_mut().zip(all) {
                        *sum = all;
                    }
                }
            }
        }
        let channels = self.strip.channels.into_iter();
        for (out, sums) in channels.zip(sums.chunks_exact(len)) {
            let rows = out.chunks_exact_mut(self.width);
            for (out, sums) in rows.zip(sums.chunks_exact(sheet.wide)) {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = N::of(*sum);
                }
            }
        }
    }
}

/// Gradient of the weights `[output, input, taps]` from the output's, where it [`pays_for_weights`].
pub(super) fn weight_gradient(
    channels @ [inputs, outputs]: [usize; 2],
    x: &[f32],
    grad: &[f32],
    patches: &Patches,
) -> Vec<f32> {
    let sheet = Sheet::new(patches);
    let taps = sheet.shifts.len();
    let parts = |count: usize| {
        let begins = (0..count).step_by(TOGETHER);
        begins.map(move |begin| begin..count.min(begin + TOGETHER))
    };
    let blocks: Vec<[Range<usize>; 2]> = match inputs > outputs {
        true => parts(inputs).map(|part| [part, 0..outputs]).collect(),
        false => parts(outputs).map(|part| [0..inputs, part]).collect(),
    };
    let sums: Vec<Vec<f32>> = blocks
        .par_iter()
        .with_max_len(1)
        .map_init(
            || [Lines::default(), Lines::default()],
            |buffers, block| {
                Arch::new().dispatch(Backward {
                    sheet: &sheet,
                    output: patches.output,
                    channels,
                    block,
                    x,
                    grad,
                    buffers,
                })
            },
        )
        .collect();
    let mut out = unwritten(outputs * inputs * taps);
    for ([some, others], sums) in blocks.iter().zip(&sums) {
        let row = some.len() * taps;
        for (output, sums) in others.clone().zip(sums.chunks_exact(row)) {
            out[(output * inputs + some.start) * taps..][..row].copy_from_slice(sums);
        }
    }
    out
}

/// The gradient of the weights between some channels of the input and some of the output.
struct Backward<'a> {
    sheet: &'a Sheet,
    /// Height and width.
    output: [usize; 2],
    channels: [usize; 2],
    block: &'a [Range<usize>; 2],
    x: &'a [f32],
    grad: &'a [f32],
    /// What is seen of a channel, and the output's gradients.
    buffers: &'a mut [Lines; 2],
}

impl WithSimd for Backward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let ([inputs, outputs], [height, width]) = (self.channels, self.output);
        let (sheet, [some, others], len) = (self.sheet, self.block, self.sheet.len());
        let [seen, grads] = self.buffers;
        let seen = seen.resized(sheet.seen_len());
        let grads = grads.resized(others.len() * len);
        let taps = sheet.shifts.len();
        let mut sums = vec![0.0; others.len() * some.len() * taps];
        for image in 0..self.x.len() / (inputs * sheet.channel(self.x, 0).len()) {
            for row in (0..height).step_by(sheet.rows[0]) {
                // Zeros between the rows, where what is seen is nobody's.
                grads.fill(0.0);
                let rows = sheet.rows[0].min(height - row);
                for (output, grads) in others.clone().zip(grads.chunks_exact_mut(len)) {
                    let from = &self.grad[((image * outputs + output) * height + row) * width..];
                    let to = grads.chunks_mut(sheet.wide).take(rows);
                    for (to, from) in to.zip(from.chunks_exact(width)) {
                        to[..width].copy_from_slice(from);
                    }
                }
                for (i, input) in some.clone().enumerate() {
                    sheet.look(sheet.channel(self.x, image * inputs + input), row, seen);
                    let mut sums = sums
                        .chunks_exact_mut(some.len() * taps)
                        .map(|sums| &mut sums[i * taps..][..taps]);
                    for grads in grads.chunks(FEW * len) {
                        let mut sums: Vec<&mut [f32]> = sums.by_ref().take(FEW).collect();
                        match grads.len() / len {
                            1 => correlate::<S, 1>(simd, sheet, grads, seen, &mut sums),
                            2 => correlate::<S, 2>(simd, sheet, grads, seen, &mut sums),
                            3 => correlate::<S, 3>(simd, sheet, grads, seen, &mut sums),
                            _ => correlate::<S, FEW>(simd, sheet, grads, seen, &mut sums),
                        }
                    }
                }
            }
        }
        sums
    }
}

/// Adds the products of `G` gradients and what every tap sees to their sums.
#[inline(always)]
fn correlate<S: Simd, const G: usize>(
    simd: S,
    sheet: &Sheet,
    grads: &[f32],
    seen: &[f32],
    sums: &mut [&mut [f32]],
) {
    /// Taps at a time.
    const TAPS: usize = 3;
    let len = sheet.len();
    for (i, shifts) in sheet.shifts.chunks(TAPS).enumerate() {
        // Behind the last tap it stands again, for sums that nobody reads.
        let shift = |tap: usize| shifts[tap.min(shifts.len() - 1)];
        let seen: [&[S::f32s]; TAPS] = from_fn(|tap| S::as_simd_f32s(&seen[shift(tap)..][..len]).0);
        let grads: [&[S::f32s]; G] = from_fn(|g| S::as_simd_f32s(&grads[g * len..][..len]).0);
        let mut all = [[simd.splat_f32s(0.0); TAPS]; G];
        for place in 0..len / S::F32_LANES {
            let seen: [S::f32s; TAPS] = from_fn(|tap| seen[tap][place]);
            for (all, grads) in all.iter_mut().zip(grads) {
                for (sum, seen) in all.iter_mut().zip(seen) {
                    *sum = simd.mul_add_e_f32s(grads[place], seen, *sum);
                }
            }
        }
        for (sums, all) in sums.iter_mut().zip(all) {
            let sums = sums[i * TAPS..].iter_mut().take(shifts.len());
            for (sum, all) in sums.zip(all) {
                *sum += simd.reduce_sum_f32s(all);
            }
        }
    }
}
