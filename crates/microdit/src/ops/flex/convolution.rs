//! Two-dimensional convolutions of one group, of any kernel, stride, padding and dilation.
//!
//! All are products in which one factor lies in memory and the other is packed from an image as it is needed: the output is
//! the weights times the patches that the kernel sees; the input's gradient the same with the kernel turned around, for
//! strides above 1 once for every pixel within a step; the weights' gradient is the output's gradient times the input.

use super::{
    buffer::unwritten,
    packed::{Columns, Factors, Layout, PANEL, multiply_packed},
    patches::Patches,
    simd::simd,
    winograd,
};
use burn::tensor::ops::PaddedConvOptions;
use rayon::prelude::*;
use std::array::from_fn;

/// Elements of the inner dimension that are packed at a time: a panel of them stays in the second cache.
const INNER: usize = 256;

/// The sizes of a convolution; none is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    batch: usize,
    /// Channels of the input and of the output.
    channels: [usize; 2],
    /// Height and width each.
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// At the top and at the left.
    padding: [usize; 2],
}

impl Convolution {
    /// Of an input `[batch, input, height, width]` and weights `[output, input, height, width]`; `None` if it has groups, is
    /// empty, or the sizes do not fit.
    pub(super) fn new(
        x: [usize; 4],
        weight: [usize; 4],
        options: &PaddedConvOptions<2>,
    ) -> Option<Self> {
        let ([batch, inputs, height, width], [outputs, of, rows, columns]) = (x, weight);
        let PaddedConvOptions {
            options,
            padding_end,
        } = options;
        let (begin, end) = (options.padding, padding_end.unwrap_or(options.padding));
        let (input, kernel) = ([height, width], [rows, columns]);
        let steps = |i: usize| {
            let padded = input[i] + begin[i] + end[i];
            let beyond = padded.checked_sub(options.dilation[i] * kernel[i].checked_sub(1)? + 1)?;
            Some(beyond / options.stride[i] + 1)
        };
        let fits = options.groups == 1 && inputs == of && x.iter().chain(&weight).all(|&n| n > 0);
        fits.then_some(Self {
            batch,
            channels: [inputs, outputs],
            input,
            output: [steps(0)?, steps(1)?],
            kernel,
            stride: options.stride,
            dilation: options.dilation,
            padding: begin,
        })
    }

    /// `[batch, output, height, width]` of the output.
    pub(super) fn output_shape(&self) -> [usize; 4] {
        let [height, width] = self.output;
        [self.batch, self.channels[1], height, width]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// How far a tap lies from the first pixel of the kernel.
    fn reach(&self, tap: usize) -> [usize; 2] {
        let at = [tap / self.kernel[1], tap % self.kernel[1]];
        [0, 1].map(|i| at[i] * self.dilation[i])
    }

    fn patches(&self) -> Patches {
        let from = |reach: [usize; 2]| [0, 1].map(|i| reach[i] as isize - self.padding[i] as isize);
        Patches {
            input: self.input,
            output: self.output,
            stride: self.stride,
            taps: (0..self.taps()).map(|tap| from(self.reach(tap))).collect(),
        }
    }

    /// `[batch, output, ..]` of `x`, `weight` and `bias` `[output]`.
    pub(super) fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        convolve(self.batch, self.channels, x, weight, bias, &self.patches())
    }

    /// Gradient of the input, from the output's.
    pub(super) fn input_gradient(&self, weight: &[f32], grad: &[f32]) -> Vec<f32> {
        let phases = self.stride[0] * self.stride[1];
        let phase = |phase: usize| {
            let (taps, patches) = self.phase([phase / self.stride[1], phase % self.stride[1]]);
            let [inputs, outputs] = self.channels;
            let image = inputs * patches.pixels();
            if taps.is_empty() || image == 0 {
                return vec![0.0; self.batch * image];
            }
            let weight = self.turned(weight, &taps);
            convolve(self.batch, [outputs, inputs], grad, &weight, None, &patches)
        };
        if phases == 1 {
            return phase(0);
        }
        let parts: Vec<Vec<f32>> = (0..phases).map(phase).collect();
        self.interleaved(&parts)
    }

    /// The pixels of the input at row and column `phase` of a step: the taps that see them, and where these lie in the output.
    fn phase(&self, phase: [usize; 2]) -> (Vec<usize>, Patches) {
        // An input's pixel p is seen by the output's pixel (p + padding - reach) / stride, if that is a whole number.
        let seen = |tap: usize| {
            let reach = self.reach(tap);
            let from = [0, 1].map(|i| {
                let from = (phase[i] + self.padding[i]) as isize - reach[i] as isize;
                let stride = self.stride[i] as isize;
                (from % stride == 0).then_some(from / stride)
            });
            Some([from[0]?, from[1]?])
        };
        let taps = (0..self.taps()).filter_map(|tap| Some((tap, seen(tap)?)));
        let (taps, places) = taps.unzip();
        let size = |i: usize| {
            self.input[i]
                .saturating_sub(phase[i])
                .div_ceil(self.stride[i])
        };
        let patches = Patches {
            input: self.output,
            output: [0, 1].map(size),
            stride: [1; 2],
            taps: places,
        };
        (taps, patches)
    }

    /// Some taps of the weights, `[output, input, taps]` to `[input, output, taps]`.
    fn turned(&self, weight: &[f32], taps: &[usize]) -> Vec<f32> {
        /// Channels a thread turns at a time, which lie together in the weights.
        const TOGETHER: usize = 32;
        let ([inputs, outputs], all) = (self.channels, self.taps());
        let row = outputs * taps.len();
        let mut out = unwritten(inputs * row);
        out.par_chunks_mut(TOGETHER * row)
            .enumerate()
            .for_each(|(i, out)| {
                for output in 0..outputs {
                    let from = &weight[(output * inputs + i * TOGETHER) * all..];
                    for (out, from) in out.chunks_exact_mut(row).zip(from.chunks_exact(all)) {
                        let out = &mut out[output * taps.len()..][..taps.len()];
                        for (out, &tap) in out.iter_mut().zip(taps) {
                            *out = from[tap];
                        }
                    }
                }
            });
        out
    }

    /// The input's pixels from those of every phase.
    fn interleaved(&self, phases: &[Vec<f32>]) -> Vec<f32> {
        let ([height, width], [rows, columns]) = (self.input, self.stride);
        let mut out = unwritten(self.batch * self.channels[0] * height * width);
        out.par_chunks_mut(height * width)
            .enumerate()
            .for_each(|(channel, out)| {
                for (y, out) in out.chunks_exact_mut(width).enumerate() {
                    let phases = &phases[y % rows * columns..][..columns];
                    for (x, phase) in phases.iter().enumerate().take(width) {
                        let wide = (width - x).div_ceil(columns);
                        let high = (height - y % rows).div_ceil(rows);
                        let from = &phase[(channel * high + y / rows) * wide..][..wide];
                        for (out, from) in out[x..].iter_mut().step_by(columns).zip(from) {
                            *out = *from;
                        }
                    }
                }
            });
        out
    }

    /// Gradient of the weights, from the output's.
    pub(super) fn weight_gradient(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let ([inputs, outputs], patches) = (self.channels, self.patches());
        let layout = Layout {
            rows: outputs,
            runs: 1,
            run: inputs * self.taps(),
        };
        let factors = WeightGradient {
            grad,
            x,
            batch: self.batch,
            channels: self.channels,
            patches: &patches,
        };
        let mut out = unwritten(outputs * layout.run);
        multiply_packed(&mut out, layout, &factors, None);
        out
    }
}

/// `[batch, output, ..]` of `x` `[batch, input, ..]`, `weight` `[output, input, taps]` and `bias` `[output]`.
fn convolve(
    batch: usize,
    [inputs, outputs]: [usize; 2],
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    patches: &Patches,
) -> Vec<f32> {
    if winograd::pays([inputs, outputs], patches) {
        return winograd::convolve(batch, [inputs, outputs], x, weight, bias, patches);
    }
    let mut out = unwritten(batch * outputs * patches.pixels());
    let layout = Layout {
        rows: outputs,
        runs: 1,
        run: patches.pixels(),
    };
    let factors = Forward {
        weight,
        x,
        inputs,
        patches,
    };
    multiply_packed(&mut out, layout, &factors, bias);
    out
}

/// Weights `[output, input x taps]` times patches `[input x taps, pixels]` of every image.
struct Forward<'a> {
    weight: &'a [f32],
    x: &'a [f32],
    inputs: usize,
    patches: &'a Patches,
}

impl Forward<'_> {
    fn rows(&self) -> usize {
        self.inputs * self.patches.taps.len()
    }
}

impl Factors for Forward<'_> {
    fn blocks(&self) -> usize {
        self.rows().div_ceil(INNER)
    }

    fn inner(&self, block: usize) -> usize {
        INNER.min(self.rows() - block * INNER)
    }

    fn left(&self, block: usize) -> (&[f32], usize) {
        (&self.weight[block * INNER..], self.rows())
    }

    fn pack(&self, columns: Columns, block: usize, out: &mut [f32]) {
        let (size, taps) = (self.patches.input, self.patches.taps.len());
        let size = size[0] * size[1];
        let image = &self.x[columns.run * self.inputs * size..];
        for (row, out) in (block * INNER..).zip(out.chunks_exact_mut(PANEL)) {
            let (out, rest) = out.split_at_mut(columns.count);
            let channel = &image[row / taps * size..][..size];
            self.patches.row(channel, row % taps, columns.first, out);
            rest.fill(0.0);
        }
    }
}

/// The output's gradient `[output, pixels]` times the patches turned around `[pixels, input x taps]`, over all images.
struct WeightGradient<'a> {
    grad: &'a [f32],
    x: &'a [f32],
    batch: usize,
    channels: [usize; 2],
    patches: &'a Patches,
}

impl WeightGradient<'_> {
    fn blocks_per_image(&self) -> usize {
        self.patches.pixels().div_ceil(INNER)
    }

    /// The image of a block, and its first pixel.
    fn place(&self, block: usize) -> (usize, usize) {
        let blocks = self.blocks_per_image();
        (block / blocks, block % blocks * INNER)
    }
}

impl Factors for WeightGradient<'_> {
    fn blocks(&self) -> usize {
        self.batch * self.blocks_per_image()
    }

    fn inner(&self, block: usize) -> usize {
        INNER.min(self.patches.pixels() - self.place(block).1)
    }

    fn left(&self, block: usize) -> (&[f32], usize) {
        let (image, first) = self.place(block);
        let pixels = self.patches.pixels();
        let image = image * self.channels[1] * pixels;
        (&self.grad[image + first..], pixels)
    }

    fn pack(&self, columns: Columns, block: usize, out: &mut [f32]) {
        let ((image, first), taps) = (self.place(block), self.patches.taps.len());
        let size = self.patches.input[0] * self.patches.input[1];
        let image = &self.x[image * self.channels[0] * size..];
        let mut rows = [[0.0; PIXELS]; PANEL];
        for (i, out) in out.chunks_mut(PIXELS * PANEL).enumerate() {
            let pixels = out.len() / PANEL;
            for (column, row) in (columns.first..).zip(&mut rows[..columns.count]) {
                let channel = &image[column / taps * size..][..size];
                let row = &mut row[..pixels];
                self.patches
                    .row(channel, column % taps, first + i * PIXELS, row);
            }
            simd(
                #[inline(always)]
                || transpose(&rows, out),
            );
        }
    }
}

/// Pixels that are turned around at a time, in the nearest cache.
const PIXELS: usize = 64;

/// The first columns of `rows`, one after the other.
#[inline(always)]
fn transpose(rows: &[[f32; PIXELS]; PANEL], columns: &mut [f32]) {
    /// Rows and columns of a block that is turned around in registers.
    const BLOCK: usize = 4;
    let (columns, _) = columns.as_chunks_mut::<PANEL>();
    for (i, columns) in columns.chunks_mut(BLOCK).enumerate() {
        for (j, rows) in rows.as_chunks::<BLOCK>().0.iter().enumerate() {
            let block: [[f32; BLOCK]; BLOCK] =
                from_fn(|row| from_fn(|column| rows[row][i * BLOCK + column]));
            for (column, out) in columns.iter_mut().enumerate() {
                let out = &mut out[j * BLOCK..][..BLOCK];
                out.copy_from_slice(&block.map(|row| row[column]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::ops::ConvOptions;
    use rayon::ThreadPoolBuilder;

    /// `[images, inputs, outputs]`, height and width, kernel, stride, padding.
    type Case = ([usize; 3], [usize; 2], [usize; 2], usize, usize);

    /// One pixel, one panel and several, rows shared by threads or not, channels that fill no tile, one block and several.
    const CASES: [Case; 9] = [
        ([1, 1, 1], [1, 1], [1, 1], 1, 0),
        ([2, 3, 130], [9, 31], [3, 3], 1, 1),
        ([3, 130, 3], [8, 8], [3, 3], 1, 1),
        ([1, 40, 200], [7, 5], [3, 3], 2, 1),
        ([2, 70, 50], [33, 20], [1, 1], 1, 0),
        ([2, 30, 65], [20, 30], [2, 5], 3, 2),
        // Large enough for Winograd's: odd sizes, several rows of patches in a panel, several panels in a row of patches.
        ([1, 64, 70], [33, 35], [3, 3], 1, 1),
        ([2, 65, 64], [40, 30], [3, 3], 1, 2),
        ([1, 64, 65], [8, 300], [3, 3], 1, 0),
    ];

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (i * step % 1009) as f32 * 1e-3 - 0.5)
            .collect()
    }

    /// The output and the gradients of input and weights, by the definition, in f64.
    fn exact(sizes: &Convolution, x: &[f32], weight: &[f32], grad: &[f32]) -> [Vec<f64>; 3] {
        let ([inputs, outputs], [height, width]) = (sizes.channels, sizes.output);
        let mut exact = [grad, x, weight].map(|like| vec![0.0; like.len()]);
        let patches = sizes.patches();
        for (pixel, &grad) in grad.iter().enumerate() {
            let (column, row) = (pixel % width, pixel / width % height);
            let (output, image) = (
                pixel / (width * height) % outputs,
                pixel / (width * height * outputs),
            );
            for (tap, [top, left]) in patches.taps.iter().enumerate() {
                let row = top + (row * sizes.stride[0]) as isize;
                let column = left + (column * sizes.stride[1]) as isize;
                let inside = (0..sizes.input[0] as isize).contains(&row)
                    && (0..sizes.input[1] as isize).contains(&column);
                for input in (0..inputs).filter(|_| inside) {
                    let channel = (image * inputs + input) * sizes.input[0];
                    let from = (channel + row as usize) * sizes.input[1] + column as usize;
                    let by = (output * inputs + input) * sizes.taps() + tap;
                    exact[0][pixel] += f64::from(x[from]) * f64::from(weight[by]);
                    exact[1][from] += f64::from(weight[by]) * f64::from(grad);
                    exact[2][by] += f64::from(x[from]) * f64::from(grad);
                }
            }
        }
        exact
    }

    #[test]
    fn convolutions_are_exact_and_the_same_for_any_number_of_threads() {
        for ([batch, inputs, outputs], size, kernel, stride, pad) in CASES {
            let shape = [batch, inputs, size[0], size[1]];
            let weights = [outputs, inputs, kernel[0], kernel[1]];
            let options = ConvOptions::new([stride; 2], [pad; 2], [1; 2], 1).into();
            let sizes = Convolution::new(shape, weights, &options).unwrap();
            let x = numbers(shape.iter().product(), 617);
            let weight = numbers(weights.iter().product(), 389);
            let grad = numbers(sizes.output_shape().iter().product(), 331);
            let with = |threads: usize| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                pool.unwrap().install(|| {
                    [
                        sizes.forward(&x, &weight, None),
                        sizes.input_gradient(&weight, &grad),
                        sizes.weight_gradient(&x, &grad),
                    ]
                })
            };
            let one = with(1);
            for (found, exact) in one.iter().zip(exact(&sizes, &x, &weight, &grad)) {
                assert_eq!(found.len(), exact.len());
                for (i, (&found, exact)) in found.iter().zip(exact).enumerate() {
                    // Sums of a thousand products below 0.25, each rounded to 6e-8 of the sum so far.
                    let error = (f64::from(found) - exact).abs();
                    assert!(error < 1e-4, "{shape:?}: element {i} is off by {error:e}");
                }
            }
            for threads in [2, 3, 5] {
                assert!(with(threads) == one, "{shape:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn sizes_that_are_not_computed_here() {
        let sizes = |x, weight, groups| {
            let options = ConvOptions::new([1; 2], [0; 2], [1; 2], groups).into();
            Convolution::new(x, weight, &options).map(|sizes| sizes.output_shape())
        };
        assert_eq!(sizes([1, 4, 5, 5], [6, 4, 3, 2], 1), Some([1, 6, 3, 4]));
        assert_eq!(sizes([1, 4, 5, 5], [6, 2, 3, 3], 2), None, "groups");
        assert_eq!(sizes([1, 4, 5, 5], [6, 3, 3, 3], 1), None, "other channels");
        assert_eq!(
            sizes([1, 4, 5, 2], [6, 4, 3, 3], 1),
            None,
            "too large a kernel"
        );
        assert_eq!(sizes([0, 4, 5, 5], [6, 4, 3, 3], 1), None, "no images");
    }
}
