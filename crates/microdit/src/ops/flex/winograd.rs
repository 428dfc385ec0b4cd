//! Convolutions of 3 x 3 with fewer multiplications: Winograd's F(2 x 2, 3 x 3), as in arXiv 1509.09308.
//!
//! Four pixels of the output take 16 multiplications for each pair of channels instead of 36. The input's patches of 4 x 4 pixels
//! and the kernels are transformed, multiplied element by element, summed over the input's channels, which is sixteen matrix
//! products, and transformed back. The transforms add, subtract and halve, so that errors of rounding stay those of the sum.

use super::{
    buffer::{Lines, unwritten},
    packed::{Before, Left, PANEL, add_product},
    patches::Patches,
    simd::simd,
};
use pulp::{Arch, Simd, WithSimd};
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
    let [top, left] = corner(patches);
    let place = |tap: usize| {
        let tap = if turned { TAPS - 1 - tap } else { tap };
        [top + tap as isize / 3, left + tap as isize % 3]
    };
    patches.stride == [1; 2]
        && patches.taps.iter().copied().eq((0..TAPS).map(place))
        && channels.into_iter().all(|channels| channels >= CHANNELS)
        && patches.pixels() >= PIXELS
}

/// The first row and column that any tap sees.
fn corner(patches: &Patches) -> [isize; 2] {
    from_fn(|i| patches.taps.iter().map(|tap| tap[i]).min().unwrap_or(0))
}

fn is_turned(patches: &Patches) -> bool {
    patches.taps.first() > patches.taps.last()
}

/// `[batch, output, ..]` of `x` `[batch, input, ..]`, `weight` `[output, input, taps]` and `bias` `[output]`, where it
/// [`pays`].
pub(super) fn convolve(
    batch: usize,
    channels: [usize; 2],
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    patches: &Patches,
) -> Vec<f32> {
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
            taps: vec![corner(patches)],
            ..*patches
        },
    };
    let fair = (batch * high * wide).div_ceil(2 * rayon::current_num_threads());
    let rows = (PATCHES.min(fair) / wide).max(1);
    let mut out = unwritten(batch * channels[1] * height * width);
    let mut tasks = Vec::new();
    let images = out.chunks_exact_mut(channels[1] * height * width);
    for (image, out) in images.enumerate() {
        let before = tasks.len();
        tasks.extend((0..high).step_by(rows).map(|first_row| Task {
            image,
            first_row,
            rows: rows.min(high - first_row),
            out: Vec::with_capacity(channels[1]),
        }));
        for channel in out.chunks_exact_mut(height * width) {
            let parts = channel.chunks_mut(rows * SIDE * width);
            for (task, part) in tasks[before..].iter_mut().zip(parts) {
                task.out.push(part);
            }
        }
    }
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Buffers::default, |buffers, task| {
            Arch::new().dispatch(Product {
                winograd: &winograd,
                task,
                buffers,
            });
        });
    out
}

/// Kernels `[output, input, TAPS]`, turned around or not, to `G g G^T` `[POINTS, output, input]`.
fn transformed(weight: &[f32], [inputs, outputs]: [usize; 2], turned: bool) -> Vec<f32> {
    let mut out = unwritten(POINTS * outputs * inputs);
    let mut rows: Vec<Vec<&mut [f32]>> = Vec::new();
    rows.resize_with(outputs, || Vec::with_capacity(POINTS));
    for point in out.chunks_exact_mut(outputs * inputs) {
        for (rows, row) in rows.iter_mut().zip(point.chunks_exact_mut(inputs)) {
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
                            let row = &mut row[i * LANES..];
                            let count = row.len().min(LANES);
                            row[..count].copy_from_slice(&point[..count]);
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

/// Some rows of an image's patches, and the pixels they make, of every channel.
struct Task<'a> {
    image: usize,
    first_row: usize,
    rows: usize,
    out: Vec<&'a mut [f32]>,
}

/// Memory a thread uses again.
#[derive(Default)]
struct Buffers {
    /// Pixels and patches of one channel.
    channel: Lines,
    /// Transformed patches `[POINTS, panels, input, PANEL]`.
    packed: Lines,
    /// Their products with some kernels `[POINTS, rows, patches]`.
    products: Lines,
}

/// A convolution.
struct Winograd<'a> {
    x: &'a [f32],
    /// Of the input and the output.
    channels: [usize; 2],
    /// `[POINTS, output, input]`.
    kernels: Vec<f32>,
    bias: Option<&'a [f32]>,
    /// Of the output.
    width: usize,
    /// Patches in height and width.
    grid: [usize; 2],
    /// The pixels of the input under all patches, with zeros around.
    seen: Patches,
}

struct Product<'a> {
    winograd: &'a Winograd<'a>,
    task: Task<'a>,
    buffers: &'a mut Buffers,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            winograd,
            mut task,
            buffers,
        } = self;
        let [inputs, outputs] = winograd.channels;
        let count = winograd.patches(task.rows);
        let point = count.div_ceil(PANEL) * inputs * PANEL;
        let packed = buffers.packed.resized(POINTS * point);
        winograd.pack(&task, &mut buffers.channel, packed);
        for first in (0..outputs).step_by(ROWS) {
            let rows = ROWS.min(outputs - first);
            let products = buffers.products.resized(POINTS * rows * count);
            let points = products.chunks_exact_mut(rows * count);
            for (i, (products, packed)) in points.zip(packed.chunks_exact(point)).enumerate() {
                let mut pieces: Vec<Vec<&mut [f32]>> = Vec::new();
                pieces.resize_with(count.div_ceil(PANEL), || Vec::with_capacity(rows));
                for row in products.chunks_exact_mut(count) {
                    for (piece, part) in pieces.iter_mut().zip(row.chunks_mut(PANEL)) {
                        piece.push(part);
                    }
                }
                let kernels = Left {
                    data: &winograd.kernels[(i * outputs + first) * inputs..],
                    stride: inputs,
                    inner: inputs,
                };
                let pieces = pieces.iter_mut().map(Vec::as_mut_slice);
                add_product(simd, kernels, pieces, packed, Before::Start(None));
            }
            for (row, out) in task.out[first..][..rows].iter_mut().enumerate() {
                let bias = winograd.bias.map_or(0.0, |bias| bias[first + row]);
                let products = from_fn(|i| &products[(i * rows + row) * count..][..count]);
                winograd.write(products, bias, out);
            }
        }
    }
}

impl Winograd<'_> {
    /// Patches in some rows, the last of which ends with a whole vector.
    fn patches(&self, rows: usize) -> usize {
        let wide = self.grid[1];
        (rows - 1) * wide + wide.next_multiple_of(LANES)
    }

    /// `B^T d B` of every patch of a task.
    #[inline(always)]
    fn pack(&self, task: &Task<'_>, buffer: &mut Lines, packed: &mut [f32]) {
        let (inputs, wide) = (self.channels[0], self.grid[1]);
        let vectors = wide.div_ceil(LANES);
        let (high, width) = (SIDE * task.rows + 2, self.seen.output[1]);
        let point = self.patches(task.rows).next_multiple_of(PANEL);
        let size = self.seen.input[0] * self.seen.input[1];
        let image = &self.x[task.image * inputs * size..][..inputs * size];
        let [seen, across] = [high * width, high * PATCH * vectors * LANES];
        let buffer = buffer.resized(seen + across + POINTS * point);
        let (seen, buffer) = buffer.split_at_mut(seen);
        let (across, patches) = buffer.split_at_mut(across);
        // `[high, vectors, PATCH]`
        let (across, _) = across.as_chunks_mut::<LANES>();
        patches.fill(0.0);
        for (channel, pixels) in image.chunks_exact(size).enumerate() {
            let first = SIDE * task.first_row * width;
            self.seen.row(pixels, 0, first, seen);
            let rows = across.chunks_exact_mut(PATCH * vectors);
            for (seen, across) in seen.chunks_exact(width).zip(rows) {
                for (i, out) in across.as_chunks_mut().0.iter_mut().enumerate() {
                    across_patches(&seen[SIDE * i * LANES..], out);
                }
            }
            for (y, i, j) in places(task.rows, vectors) {
                let rows: [&Lanes; PATCH] =
                    from_fn(|row| &across[((SIDE * y + row) * vectors + i) * PATCH + j]);
                for (k, down) in down_patches(rows).iter().enumerate() {
                    let to = (k * PATCH + j) * point + y * wide + i * LANES;
                    patches[to..][..LANES].copy_from_slice(down);
                }
            }
            for (panel, patches) in patches.chunks_exact(PANEL).enumerate() {
                let to = (panel * inputs + channel) * PANEL;
                packed[to..][..PANEL].copy_from_slice(patches);
            }
        }
    }

    /// `A^T m A` of the products, plus the bias, to the pixels of a channel.
    #[inline(always)]
    fn write(&self, products: [&[f32]; POINTS], bias: f32, out: &mut [f32]) {
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
                    out[..count].copy_from_slice(&pixels[..count]);
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
