//! The building blocks of a KL autoencoder.

use super::kl_config::AutoencoderKlConfig;
use crate::{
    layers::{Conv2d, GroupNorm, Linear, add, double},
    weights::At,
};
use burn::tensor::Tensor;
use microdit::{DitBackend, weights::WeightsError};

/// Two convolutions beside a residual path.
#[derive(Clone, Debug)]
pub(super) struct Residual<B: DitBackend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    shortcut: Option<Conv2d<B>>,
}

impl<B: DitBackend> Residual<B> {
    pub(super) fn load(
        at: &At<'_>,
        [input, output]: [usize; 2],
        groups: usize,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let conv = |name: &str, shape| Conv2d::load(&at.at(name), shape, true, device);
        Ok(Self {
            norm1: GroupNorm::load(&at.at("norm1"), input, groups, device)?,
            conv1: conv("conv1", [input, output, 3])?,
            norm2: GroupNorm::load(&at.at("norm2"), output, groups, device)?,
            conv2: conv("conv2", [output, output, 3])?,
            shortcut: (input != output)
                .then(|| conv("conv_shortcut", [input, output, 1]))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let h = self.conv1.forward(self.norm1.silu(x.clone()));
        let h = self.conv2.forward(self.norm2.silu(h));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        add(x, h)
    }
}

/// Attention of every pixel to every other, with one head.
#[derive(Clone, Debug)]
pub(super) struct PixelAttention<B: DitBackend> {
    norm: GroupNorm<B>,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    out: Linear<B>,
}

impl<B: DitBackend> PixelAttention<B> {
    pub(super) fn load(
        at: &At<'_>,
        channels: usize,
        groups: usize,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        // The second names are those of diffusers before 0.18.
        let linear = |names: &[&str]| Linear::load(&at.at_any(names), [channels; 2], true, device);
        Ok(Self {
            norm: GroupNorm::load(&at.at("group_norm"), channels, groups, device)?,
            q: linear(&["to_q", "query"])?,
            k: linear(&["to_k", "key"])?,
            v: linear(&["to_v", "value"])?,
            out: linear(&["to_out.0", "proj_attn"])?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let shape = x.dims();
        let tokens = self
            .norm
            .forward(x.clone())
            .flatten::<3>(2, 3)
            .swap_dims(1, 2);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(tokens.clone()));
        let update = self.out.forward(B::plain_attention(q, k, v, 1));
        add(x, update.swap_dims(1, 2).reshape(shape))
    }
}

/// Residual, attention, residual: the innermost blocks.
#[derive(Clone, Debug)]
pub(super) struct Middle<B: DitBackend> {
    first: Residual<B>,
    attention: Option<PixelAttention<B>>,
    second: Residual<B>,
}

impl<B: DitBackend> Middle<B> {
    pub(super) fn load(
        config: &AutoencoderKlConfig,
        at: &At<'_>,
        channels: usize,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let groups = config.norm_num_groups;
        let residual =
            |i: usize| Residual::load(&at.at("resnets").at(i), [channels; 2], groups, device);
        Ok(Self {
            first: residual(0)?,
            attention: config
                .mid_block_add_attention
                .then(|| PixelAttention::load(&at.at("attentions.0"), channels, groups, device))
                .transpose()?,
            second: residual(1)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.first.forward(x);
        let x = match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        };
        self.second.forward(x)
    }
}

/// Residual blocks of one width, and the change of height and width after them.
#[derive(Clone, Debug)]
pub(super) struct Level<B: DitBackend> {
    residuals: Vec<Residual<B>>,
    resample: Option<Conv2d<B>>,
}

impl<B: DitBackend> Level<B> {
    pub(super) fn load(
        at: &At<'_>,
        [input, output]: [usize; 2],
        count: usize,
        groups: usize,
        resample: Option<Conv2d<B>>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let residual = |i| {
            let input = if i == 0 { input } else { output };
            Residual::load(&at.at("resnets").at(i), [input, output], groups, device)
        };
        Ok(Self {
            residuals: (0..count).map(residual).collect::<Result<_, _>>()?,
            resample,
        })
    }

    fn residuals(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.residuals.iter().fold(x, |x, block| block.forward(x))
    }

    pub(super) fn down(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.residuals(x);
        match &self.resample {
            Some(conv) => conv.forward(x),
            None => x,
        }
    }

    pub(super) fn up(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.residuals(x);
        match &self.resample {
            Some(conv) => conv.forward(double(x)),
            None => x,
        }
    }
}

/// Norm, SiLU and convolution: the last layers of both halves.
#[derive(Clone, Debug)]
pub(super) struct Head<B: DitBackend> {
    norm: GroupNorm<B>,
    conv: Conv2d<B>,
}

impl<B: DitBackend> Head<B> {
    pub(super) fn load(
        at: &At<'_>,
        [input, output]: [usize; 2],
        groups: usize,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            norm: GroupNorm::load(&at.at("conv_norm_out"), input, groups, device)?,
            conv: Conv2d::load(&at.at("conv_out"), [input, output, 3], true, device)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.conv.forward(self.norm.silu(x))
    }
}
