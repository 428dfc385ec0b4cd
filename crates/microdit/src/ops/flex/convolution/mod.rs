//! Two-dimensional convolutions of one group, of any kernel, stride, padding and dilation.
//!
//! Most are products in which one factor lies in memory and the other is packed from an image as it is needed: the output is
//! the weights times the patches that the kernel sees; the input's gradient the same with the kernel turned around, for
//! strides above 1 once for every pixel within a step; the weights' gradient is the output's gradient times the input. A kernel of
//! one pixel at stride 1 has both factors in memory, and at most four channels on a side are summed by shifts of the image, without
//! products. Where the processor has tiles for bf16, they compute every output and input's gradient of bf16 (`direct`).

mod direct;
mod factors;
mod few;
mod one_by_one;
mod packed;
mod patches;
mod strips;
mod terms;
mod winograd;

use super::{bf16::Amx, buffer::unwritten};
use burn::tensor::ops::PaddedConvOptions;
use factors::{Forward, WeightGradient};
use one_by_one::OneByOne;
use packed::{Layout, multiply_packed};
use patches::Patches;
use rayon::prelude::*;
use terms::{Pixel, Term};

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

    /// What multiplies images in memory, if the kernel sees every pixel by itself.
    fn one_by_one(&self) -> Option<OneByOne> {
        let fits = self.taps() == 1 && self.stride == [1; 2] && self.padding == [0; 2];
        (fits && self.output == self.input).then(|| OneByOne {
            channels: self.channels,
            pixels: self.input[0] * self.input[1],
        })
    }

    /// `[batch, output, ..]` of `x`, `weight` and `bias` `[output]`.
    pub(super) fn forward<N: Pixel>(
        &self,
        x: &[N],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Vec<N> {
        if let (Some(sizes), Some(x)) = (self.one_by_one(), N::in_f32(x)) {
            return N::of_f32(sizes.forward(x, weight, bias));
        }
        convolve(Operands {
            batch: self.batch,
            channels: self.channels,
            x,
            weight,
            bias,
            patches: &self.patches(),
        })
    }

    /// Gradient of the input, from the output's.
    pub(super) fn input_gradient<N: Pixel>(&self, weight: &[f32], grad: &[N]) -> Vec<N> {
        if let (Some(sizes), Some(grad)) = (self.one_by_one(), N::in_f32(grad)) {
            return N::of_f32(sizes.input_gradient(weight, grad));
        }
        let phases = self.stride[0] * self.stride[1];
        let phase = |phase: usize| {
            let (taps, patches) = self.phase([phase / self.stride[1], phase % self.stride[1]]);
            let [inputs, outputs] = self.channels;
            let image = inputs * patches.pixels();
            if taps.is_empty() || image == 0 {
                return vec![N::of(0.0); self.batch * image];
            }
            let weight = self.turned(weight, &taps);
            convolve(Operands {
                batch: self.batch,
                channels: [outputs, inputs],
                x: grad,
                weight: &weight,
                bias: None,
                patches: &patches,
            })
        };
        if phases == 1 {
            return phase(0);
        }
        let parts: Vec<Vec<N>> = (0..phases).map(phase).collect();
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
    fn interleaved<N: Pixel>(&self, phases: &[Vec<N>]) -> Vec<N> {
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
        if let Some(sizes) = self.one_by_one() {
            return sizes.weight_gradient(x, grad);
        }
        let ([inputs, outputs], patches) = (self.channels, self.patches());
        if few::pays_for_weights(self.channels, &patches) {
            return few::weight_gradient(self.channels, x, grad, &patches);
        }
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

/// What is convolved.
#[derive(Clone, Copy, Debug)]
struct Operands<'a, N> {
    batch: usize,
    /// Of the input and of the output.
    channels: [usize; 2],
    /// `[batch, input, ..]`.
    x: &'a [N],
    /// `[output, input, taps]`.
    weight: &'a [f32],
    /// `[output]`.
    bias: Option<&'a [f32]>,
    patches: &'a Patches,
}

/// The output `[batch, output, ..]`.
fn convolve<N: Pixel>(operands: Operands<'_, N>) -> Vec<N> {
    if direct::is_possible::<N>() {
        return direct::convolve::<Amx, N>(operands);
    }
    by_vectors(operands)
}

/// The same without tiles.
fn by_vectors<N: Pixel>(operands: Operands<'_, N>) -> Vec<N> {
    let Operands {
        batch,
        channels: [inputs, outputs],
        x,
        weight,
        bias,
        patches,
    } = operands;
    if few::pays(outputs, patches) {
        return few::convolve(operands);
    }
    if winograd::pays(operands.channels, patches) {
        return winograd::convolve(operands);
    }
    let mut out = unwritten(batch * outputs * patches.pixels());
    let layout = Layout {
        rows: outputs,
        runs: 1,
        run: patches.pixels(),
    };
    let factors = Forward::<N, N::Term> {
        weight: &N::Term::rows(weight, inputs * patches.taps.len()),
        x,
        inputs,
        patches,
    };
    multiply_packed(&mut out, layout, &factors, bias);
    N::of_f32(out)
}

#[cfg(test)]
mod tests;
