//! Residual blocks of convolutions, and the changes of height and width between levels.

use super::steps::ResnetConfig;
use crate::{
    nn::{Conv2d, Linear, group_norm::GroupNorm, init::Init},
    ops::DitBackend,
};
use burn::{
    module::Module,
    tensor::{
        Tensor,
        activation::silu,
        module::interpolate,
        ops::{InterpolateMode, InterpolateOptions},
    },
};

/// Norm, SiLU and convolution twice beside a residual path, with the time's embedding added between.
#[derive(Module, Debug)]
pub struct ResnetBlock<B: DitBackend> {
    /// Of the input.
    pub norm1: GroupNorm<B>,
    /// `[output, input, 3, 3]`.
    pub conv1: Conv2d<B>,
    /// `[output, time channels]`.
    pub time_emb_proj: Linear<B>,
    /// Of the output.
    pub norm2: GroupNorm<B>,
    /// `[output, output, 3, 3]`; it starts at zero.
    pub conv2: Conv2d<B>,
    /// `[output, input, 1, 1]`, where they differ.
    pub conv_shortcut: Option<Conv2d<B>>,
}

impl<B: DitBackend> ResnetBlock<B> {
    pub(super) fn new(config: &ResnetConfig, init: &Init<'_, B>) -> Self {
        let ResnetConfig { input, output, .. } = *config;
        let norm = |channels| GroupNorm::new(channels, config.groups, config.eps, init);
        let time = init.at("time_emb_proj");
        Self {
            norm1: norm(input),
            conv1: init.at("conv1").conv(input, output, 3, 1),
            time_emb_proj: time
                .fan_in_linear(config.time_channels, output, true)
                .in_f32(),
            norm2: norm(output),
            conv2: init.at("conv2").zero_conv(output, output, 3),
            conv_shortcut: (input != output)
                .then(|| init.at("conv_shortcut").conv(input, output, 1, 1)),
        }
    }

    /// `x` `[batch, input, height, width]` and the time's embedding `[batch, time channels]`, or `[1, ..]` for all alike, to
    /// `[batch, output, height, width]`.
    pub fn forward(&self, x: Tensor<B, 4>, time: Tensor<B, 2>) -> Tensor<B, 4> {
        let hidden = self.conv1.forward(self.norm1.silu(x.clone()));
        let time = self.time_emb_proj.forward(silu(time));
        let [rows, channels] = time.dims();
        let hidden = hidden + time.reshape([rows, channels, 1, 1]);
        let hidden = self.conv2.forward(self.norm2.silu(hidden));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// A change of height and width, by a convolution with a stride or behind an interpolation.
#[derive(Module, Debug)]
pub struct Resample<B: DitBackend> {
    /// `[channels, channels, 3, 3]`.
    pub conv: Conv2d<B>,
}

impl<B: DitBackend> Resample<B> {
    pub(super) fn down(channels: usize, init: &Init<'_, B>) -> Self {
        Self {
            conv: init.at("conv").conv(channels, channels, 3, 2),
        }
    }

    pub(super) fn up(channels: usize, init: &Init<'_, B>) -> Self {
        Self {
            conv: init.at("conv").conv(channels, channels, 3, 1),
        }
    }

    /// `[batch, channels, height, width]` to half the height and width, rounded up.
    pub fn halve(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.conv.forward(x)
    }

    /// `[batch, channels, height, width]` to this height and width, each pixel that of the nearest: twice its own, or one less
    /// where the level above is odd.
    pub fn grow(&self, x: Tensor<B, 4>, size: [usize; 2]) -> Tensor<B, 4> {
        let options = InterpolateOptions::new(InterpolateMode::Nearest);
        self.conv.forward(interpolate(x, size, options))
    }
}
