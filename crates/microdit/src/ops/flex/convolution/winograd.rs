//! Convolutions of 3 x 3 with fewer multiplications: Winograd's F(2 x 2, 3 x 3), as in arXiv 1509.09308.
//!
//! Four pixels of the output take 16 multiplications for each pair of channels instead of 36. The input's patches of 4 x 4 pixels
//! and the kernels are transformed, multiplied element by element, summed over the input's channels, which is sixteen matrix
//! products, and transformed back. The transforms add, subtract and halve, so that errors of rounding stay those of the sum.

use super::{
    super::{
        buffer::{Lines, unwritten},
        simd::simd,
    },
    Operands,
    packed::{Before, Left, PANEL, add_product},
    patches::Patches,
    strips::{Strip, strips},
    terms::{Pixel, Products, Term, Work},
};
use pulp::Simd;
use rayon::prelude::*;
use std::array::from_fn;

/// Channels below which the transforms cost more than they save.
const CHANNELS: usize = 64;

/// Pixels of an image below which transforming the kernels does.
const PIXELS: usize = 1024;

/// Side of what a patch makes of the output, and of the patch.
const SIDE: usize = 2;
const PATCH: usize = SIDE + 2;

/// Elements of a transformed patch or kernel.
const POINTS: usize = PATCH * PATCH;

/// Taps of a kernel.
const TAPS: usize = 9;

/// Patches that are transformed at a time, in whole rows of them.
const PATCHES: usize = 2 * PANEL;

/// Channels of the output whose products, of a task's patches, stay in the second cache.
const ROWS: usize = 48;

/// One number of several patches or kernels side by side.
type Lanes = [f32; LANES];
const LANES: usize = 16;

/// Whether it pays for these channels of the input and the output.
pub(super) fn pays(channels: [usize; 2], patches: &Patches) -> bool {
    // Upright, or turned around as for gradients.
    let turned = is_turned(patches);
    let [top, left] = patches.corner();
    let place = |tap: usize| {
        let tap = if turned { TAPS - 1 - tap } else { tap };
        [top + tap as isize / 3, left + tap as isize % 3]
    };
    patches.stride == [1; 2]
        && patches.taps.iter().copied().eq((0..TAPS).map(place))
        && channels.into_iter().all(|channels| channels >= CHANNELS)
        && patches.pixels() >= PIXELS
}

fn is_turned(patches: &Patches) -> bool {
    patches.taps.first() > patches.taps.last()
}

/// The output `[batch, output, ..]`, where it [`pays`].
pub(super) fn convolve<N: Pixel>(operands: Operands<'_, N>) -> Vec<N> {
    let Operands {
        batch,
        channels,
        x,
        weight,
        bias,
        patches,
    } = operands;
    let [height, width] = patches.output;
    let grid @ [high, wide] = patches.output.map(|size| size.div_ceil(SIDE));
    let winograd = Winograd {
        x,
        channels,
        kernels: transformed(weight, channels, is_turned(patches)),
        bias,
        width,
        grid,
        seen: Patches {
            // A row ends with a whole vector of patches.
            output: [high, wide.next_multiple_of(LANES)].map(|size| SIDE * size + 2),
            taps: vec![patches.corner()],
            ..*patches
        },
    };
    let fair = (batch * high * wide).div_ceil(2 * rayon::current_num_threads());
    let rows = (PATCHES.min(fair) / wide).max(1);
    let mut out = unwritten(batch * channels[1] * height * width);
    strips(&mut out, [channels[1], height, width], SIDE * rows)
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Buffers::default, |buffers, strip| {
            N::Term::dispatch(Product {
                winograd: &winograd,
                strip,
                buffers,
            });
        });
    out
}

/// Kernels `[output, input, TAPS]`, turned around or not, to `G g G^T` `[POINTS, output, input]` in terms of the input.
fn transformed<T: Term>(weight: &[f32], [inputs, outputs]: [usize; 2], turned: bool) -> Vec<T> {
    let terms = inputs.div_ceil(T::NUMBERS);
    let mut out = vec![T::default(); POINTS * outputs * terms];
    let mut rows: Vec<Vec<&mut [T]>> = Vec::new();
    rows.resize_with(outputs, || Vec::with_capacity(POINTS));
    for point in out.chunks_exact_mut(outputs * terms) {
        for (rows, row) in rows.iter_mut().zip(point.chunks_exact_mut(terms)) {
            rows.push(row);
        }
    }
    rows.into_par_iter()
        .zip(weight.par_chunks_exact(inputs * TAPS))
        .for_each(|(mut rows, weight)| {
            simd(
                #[inline(always)]
                || {
                    for (i, weight) in weight.chunks(LANES * TAPS).enumerate() {
                        let mut kernels = [0.0; LANES * TAPS];
                        kernels[..weight.len()].copy_from_slice(weight);
                        let points = transformed_kernels(&kernels, turned);
                        for (row, point) in rows.iter_mut().zip(&points) {
                            let row = &mut row[i * LANES / T::NUMBERS..];
                            let count = row.len().min(LANES / T::NUMBERS);
                            T::neighbors(point, &mut row[..count]);
                        }
                    }
                },
            );
        });
    out
}

/// `G g G^T` of kernels that lie one after the other.
#[inline(always)]
fn transformed_kernels(kernels: &[f32; LANES * TAPS], turned: bool) -> [Lanes; POINTS] {
    let mut taps = [[0.0; LANES]; TAPS];
    for (tap, to) in taps.iter_mut().enumerate() {
        let tap = if turned { TAPS - 1 - tap } else { tap };
        for i in 0..LANES {
            to[i] = kernels[i * TAPS + tap];
        }
    }
    // `[PATCH, 3]`
    let mut down = [[0.0; LANES]; PATCH * 3];
    for j in 0..3 {
        for i in 0..LANES {
            let [a, b, c] = [taps[j][i], taps[3 + j][i], taps[6 + j][i]];
            let (outer, inner) = (0.5 * (a + c), 0.5 * b);
            down[j][i] = a;
            down[3 + j][i] = outer + inner;
            down[6 + j][i] = outer - inner;
            down[9 + j][i] = c;
        }
    }
    let mut points = [[0.0; LANES]; POINTS];
    for j in 0..PATCH {
        for i in 0..LANES {
            let [a, b, c] = [down[3 * j][i], down[3 * j + 1][i], down[3 * j + 2][i]];
            let (outer, inner) = (0.5 * (a + c), 0.5 * b);
            points[PATCH * j][i] = a;
            points[PATCH * j + 1][i] = outer + inner;
            points[PATCH * j + 2][i] = outer - inner;
            points[PATCH * j + 3][i] = c;
        }
    }
    points
}

/// Memory a thread uses again.
#[derive(Default)]
struct Buffers<T> {
    /// Pixels of one channel, and patches of those in a term.
    channel: Lines,
    /// Transformed patches `[POINTS, panels, terms, PANEL]`.
    packed: Lines<T>,
    /// Their products with some kernels `[POINTS, rows, patches]`.
    products: Lines,
}

/// A convolution.
struct Winograd<'a, N: Pixel> {
    x: &'a [N],
    /// Of the input and the output.
    channels: [usize; 2],
    /// `[POINTS, output, terms]`.
    kernels: Vec<N::Term>,
    bias: Option<&'a [f32]>,
    /// Of the output.
    width: usize,
    /// Patches in height and width.
    grid: [usize; 2],
    /// The pixels of the input under all patches, with zeros around.
    seen: Patches,
}

struct Product<'a, N: Pixel> {
    winograd: &'a Winograd<'a, N>,
    strip: Strip<'a, N>,
    buffers: &'a mut Buffers<N::Term>,
}

impl<N: Pixel> Work<N::Term> for Product<'_, N> {
    #[inline(always)]
    fn run<S: Simd, P: Products<S, N::Term>>(self, simd: S, products: P) {
        let Self {
            winograd,
            mut strip,
            buffers,
        } = self;
        let outputs = winograd.channels[1];
        let (rows, terms) = (winograd.rows(&strip), winograd.terms());
        let count = winograd.patches(rows);
        let point = count.div_ceil(PANEL) * terms * PANEL;
        let packed = buffers.packed.resized(POINTS * point);
        winograd.pack(&strip, rows, &mut buffers.channel, packed);
        for first in (0..outputs).step_by(ROWS) {
            let rows = ROWS.min(outputs - first);
            let sums = buffers.products.resized(POINTS * rows * count);
            let points = sums.chunks_exact_mut(rows * count);
            for (i, (sums, packed)) in points.zip(packed.chunks_exact(point)).enumerate() {
                let mut pieces: Vec<Vec<&mut [f32]>> = Vec::new();
                pieces.resize_with(count.div_ceil(PANEL), || Vec::with_capacity(rows));
                for row in sums.chunks_exact_mut(count) {
                    for (piece, part) in pieces.iter_mut().zip(row.chunks_mut(PANEL)) {
                        piece.push(part);
                    }
                }
                let kernels = Left {
                    data: &winograd.kernels[(i * outputs + first) * terms..],
                    stride: terms,
                    inner: terms,
                };
                let pieces = pieces.iter_mut().map(Vec::as_mut_slice);
                let before = Before::Start(None);
                add_product(simd, products, kernels, pieces, packed, before);
            }
            for (row, out) in strip.channels[first..][..rows].iter_mut().enumerate() {
                let bias = winograd.bias.map_or(0.0, |bias| bias[first + row]);
                let sums = from_fn(|i| &sums[(i * rows + row) * count..][..count]);
                winograd.write(sums, bias, out);
            }
        }
    }
}

impl<N: Pixel> Winograd<'_, N> {
    /// Terms of the channels of the input.
    fn terms(&self) -> usize {
        self.channels[0].div_ceil(N::Term::NUMBERS)
    }

    /// Rows of patches that make a strip.
    fn rows(&self, strip: &Strip<'_, N>) -> usize {
        strip.channels[0].len().div_ceil(SIDE * self.width)
    }

    /// Patches in some rows, the last of which ends with a whole vector.
    fn patches(&self, rows: usize) -> usize {
        let wide = self.grid[1];
        (rows - 1) * wide + wide.next_multiple_of(LANES)
    }

    /// `B^T d B` of every patch of a strip.
    #[inline(always)]
    fn pack(&self, strip: &Strip<'_, N>, rows: usize, buffer: &mut Lines, packed: &mut [N::Term]) {
        let numbers = N::Term::NUMBERS;
        let (inputs, wide) = (self.channels[0], self.grid[1]);
        let vectors = wide.div_ceil(LANES);
        let (high, width) = (SIDE * rows + 2, self.seen.output[1]);
        let point = self.patches(rows).next_multiple_of(PANEL);
        let size = self.seen.input[0] * self.seen.input[1];
        let image = &self.x[strip.image * inputs * size..][..inputs * size];
        let [seen, across] = [high * width, high * PATCH * vectors * LANES];
        let buffer = buffer.resized(seen + across + numbers * POINTS * point);
        let (seen, buffer) = buffer.split_at_mut(seen);
        let (across, patches) = buffer.split_at_mut(across);
        // `[high, vectors, PATCH]`
        let (across, _) = across.as_chunks_mut::<LANES>();
        patches.fill(0.0);
        for (term, pixels) in image.chunks(numbers * size).enumerate() {
            let mut channels = pixels.chunks_exact(size);
            for patches in patches.chunks_exact_mut(POINTS * point) {
                let Some(pixels) = channels.next() else {
                    // Nothing stands beside the last channel of an odd number.
                    patches.fill(0.0);
                    break;
                };
                self.seen.row(pixels, 0, strip.first_row * width, seen);
                let lines = across.chunks_exact_mut(PATCH * vectors);
                for (seen, across) in seen.chunks_exact(width).zip(lines) {
                    for (i, out) in across.as_chunks_mut().0.iter_mut().enumerate() {
                        across_patches(&seen[SIDE * i * LANES..], out);
                    }
                }
                for (y, i, j) in places(rows, vectors) {
                    let rows: [&Lanes; PATCH] =
                        from_fn(|row| &across[((SIDE * y + row) * vectors + i) * PATCH + j]);
                    for (k, down) in down_patches(rows).iter().enumerate() {
                        let to = (k * PATCH + j) * point + y * wide + i * LANES;
                        patches[to..][..LANES].copy_from_slice(down);
                    }
                }
            }
            let panels = packed.as_chunks_mut::<PANEL>().0.iter_mut();
            let panels = panels.skip(term).step_by(self.terms());
            for (panel, out) in panels.enumerate() {
                N::Term::across(
                    out,
                    #[inline(always)]
                    |i, out| {
                        let from = &patches[i * POINTS * point + panel * PANEL..];
                        out.copy_from_slice(&from[..PANEL]);
                    },
                );
            }
        }
    }

    /// `A^T m A` of the products, plus the bias, to the pixels of a channel.
    #[inline(always)]
    fn write(&self, products: [&[f32]; POINTS], bias: f32, out: &mut [N]) {
        let (width, wide) = (self.width, self.grid[1]);
        for (y, out) in out.chunks_mut(SIDE * width).enumerate() {
            for x in (0..wide).step_by(LANES) {
                let vectors = products.map(|products| {
                    let vector = products[y * wide + x..].first_chunk();
                    vector.expect("rows of patches end with whole vectors")
                });
                let pixels = pixels(vectors, bias);
                for (pixels, out) in pixels.iter().zip(out.chunks_mut(width)) {
                    let out = &mut out[SIDE * x..];
                    let count = out.len().min(SIDE * LANES);
                    for (out, pixel) in out[..count].iter_mut().zip(pixels) {
                        *out = N::of(*pixel);
                    }
                }
            }
        }
    }
}

/// Row, vector and column of a patch, in the order in which a vector that reaches into the next row is written before it.
fn places(rows: usize, vectors: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let all = 0..rows * vectors * PATCH;
    all.map(move |i| (i / PATCH / vectors, i / PATCH % vectors, i % PATCH))
}

/// `d B` of a row of pixels, two of which every patch shares with the next.
#[inline(always)]
fn across_patches(pixels: &[f32], [p, q, r, s]: &mut [Lanes; PATCH]) {
    let pixels = &pixels[..SIDE * LANES + 2];
    for i in 0..LANES {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| pixels[SIDE * i + j]);
        p[i] = a - c;
        q[i] = b + c;
        r[i] = c - b;
        s[i] = b - d;
    }
}

/// `B^T d`.
#[inline(always)]
fn down_patches([a, b, c, d]: [&Lanes; PATCH]) -> [Lanes; PATCH] {
    let mut down = [[0.0; LANES]; PATCH];
    for i in 0..LANES {
        down[0][i] = a[i] - c[i];
        down[1][i] = b[i] + c[i];
        down[2][i] = c[i] - b[i];
        down[3][i] = b[i] - d[i];
    }
    down
}

/// `A^T m A`, two rows of pixels.
#[inline(always)]
fn pixels(m: [&Lanes; POINTS], bias: f32) -> [[f32; SIDE * LANES]; SIDE] {
    let mut down = [[[0.0; LANES]; PATCH]; SIDE];
    for j in 0..PATCH {
        let [a, b, c, d]: [&Lanes; PATCH] = from_fn(|k| m[k * PATCH + j]);
        for i in 0..LANES {
            down[0][j][i] = a[i] + b[i] + c[i];
            down[1][j][i] = b[i] - c[i] - d[i];
        }
    }
    let mut pixels = [[0.0; SIDE * LANES]; SIDE];
    for ([a, b, c, d], pixels) in down.iter().zip(&mut pixels) {
        for i in 0..LANES {
            pixels[SIDE * i] = a[i] + b[i] + c[i] + bias;
            pixels[SIDE * i + 1] = b[i] - c[i] - d[i] + bias;
        }
    }
    pixels
}
