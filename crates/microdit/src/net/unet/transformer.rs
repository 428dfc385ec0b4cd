//! Transformers over the pixels of a level, which attend to each other and to the caption.

use super::steps::TransformerConfig;
use crate::{
    nn::{Conv2d, Linear, Precision, group_norm::GroupNorm, init::Init, norm::BiasedLayerNorm},
    ops::DitBackend,
};
use burn::{module::Module, tensor::Tensor};
use std::marker::PhantomData;

/// Epsilon of the group norm at the entry.
const ENTRY_EPS: f64 = 1e-6;

/// Epsilon of the layer norms.
const BLOCK_EPS: f64 = 1e-5;

/// Norm, projection, blocks and projection beside a residual path.
#[derive(Module, Debug)]
pub struct Transformer<B: DitBackend> {
    /// Of the channels.
    pub norm: GroupNorm<B>,
    /// Into the tokens.
    pub proj_in: Projection<B>,
    /// One after the other.
    pub transformer_blocks: Vec<TransformerBlock<B>>,
    /// Out of the tokens; it starts at zero.
    pub proj_out: Projection<B>,
}

/// A map of every pixel, kept in the layout of a linear layer or of a convolution.
#[derive(Module, Debug)]
pub enum Projection<B: DitBackend> {
    /// `[output, input]`.
    Linear(Linear<B>),
    /// `[output, input, 1, 1]`.
    Conv(Conv2d<B>),
}

impl<B: DitBackend> Projection<B> {
    /// `[batch, pixels, input]` to `[batch, pixels, output]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Conv(conv) => conv.over_pixels(x),
        }
    }
}

impl<B: DitBackend> Transformer<B> {
    pub(super) fn new(config: &TransformerConfig, init: &Init<'_, B>) -> Self {
        let channels = config.channels;
        let (proj_in, proj_out) = (init.at("proj_in"), init.at("proj_out"));
        let (proj_in, proj_out) = match config.linear_projection {
            true => (
                Projection::Linear(proj_in.fan_in_linear(channels, channels, true)),
                Projection::Linear(proj_out.zero_linear(channels, channels, true)),
            ),
            false => (
                Projection::Conv(proj_in.conv(channels, channels, 1, 1)),
                Projection::Conv(proj_out.zero_conv(channels, channels, 1)),
            ),
        };
        let blocks = init.at("transformer_blocks");
        Self {
            norm: GroupNorm::new(channels, config.groups, ENTRY_EPS, init),
            proj_in,
            transformer_blocks: (0..config.depth)
                .map(|i| TransformerBlock::new(config, &blocks.at(i)))
                .collect(),
            proj_out,
        }
    }

    /// `x` `[batch, channels, height, width]` and captions `[batch, caption tokens, caption channels]` to the shape of `x`.
    pub fn forward(&self, x: Tensor<B, 4>, captions: Tensor<B, 3>) -> Tensor<B, 4> {
        let shape = x.dims();
        let pixels = self.norm.forward(x.clone()).flatten::<3>(2, 3);
        let tokens = self.proj_in.forward(pixels.swap_dims(1, 2));
        let tokens = self
            .transformer_blocks
            .iter()
            .fold(tokens, |tokens, block| {
                block.forward(tokens, captions.clone())
            });
        x + self.proj_out.forward(tokens).swap_dims(1, 2).reshape(shape)
    }
}

/// Self-attention, cross-attention and feed-forward, each behind a norm and beside a residual path.
#[derive(Module, Debug)]
pub struct TransformerBlock<B: DitBackend> {
    /// Before the self-attention.
    pub norm1: BiasedLayerNorm<B>,
    /// Among the pixels.
    pub attn1: Attention<B>,
    /// Before the cross-attention.
    pub norm2: BiasedLayerNorm<B>,
    /// From pixels to caption tokens.
    pub attn2: Attention<B>,
    /// Before the feed-forward.
    pub norm3: BiasedLayerNorm<B>,
    /// Of every pixel.
    pub ff: FeedForward<B>,
}

impl<B: DitBackend> TransformerBlock<B> {
    fn new(config: &TransformerConfig, init: &Init<'_, B>) -> Self {
        let channels = config.channels;
        let norm = || BiasedLayerNorm::new(channels, BLOCK_EPS, init);
        let attention =
            |name, context| Attention::new([channels, context], config.heads, &init.at(name));
        Self {
            norm1: norm(),
            attn1: attention("attn1", channels),
            norm2: norm(),
            attn2: attention("attn2", config.caption_channels),
            norm3: norm(),
            ff: FeedForward::new(channels, &init.at("ff")),
        }
    }

    /// `x` `[batch, tokens, channels]` and captions `[batch, caption tokens, caption channels]` to the shape of `x`.
    pub fn forward(&self, x: Tensor<B, 3>, captions: Tensor<B, 3>) -> Tensor<B, 3> {
        let tokens = self.norm1.forward(x.clone());
        let x = x + self.attn1.forward(tokens.clone(), tokens);
        let x = x.clone() + self.attn2.forward(self.norm2.forward(x), captions);
        x.clone() + self.ff.forward(self.norm3.forward(x))
    }
}

/// Attention of tokens to a context.
#[derive(Module, Debug)]
pub struct Attention<B: DitBackend> {
    /// `[channels, channels]`.
    pub to_q: Linear<B>,
    /// `[channels, context channels]`.
    pub to_k: Linear<B>,
    /// `[channels, context channels]`.
    pub to_v: Linear<B>,
    /// `[channels, channels]`. In diffusers, whose names these are, a dropout follows it that nobody sets.
    pub to_out: (Linear<B>, PhantomData<B>),
    heads: usize,
}

impl<B: DitBackend> Attention<B> {
    fn new([channels, context]: [usize; 2], heads: usize, init: &Init<'_, B>) -> Self {
        let linear = |name, input| init.at(name).fan_in_linear(input, channels, false);
        let out = init.at("to_out").at(0);
        Self {
            to_q: linear("to_q", channels),
            to_k: linear("to_k", context),
            to_v: linear("to_v", context),
            to_out: (out.fan_in_linear(channels, channels, true), PhantomData),
            heads,
        }
    }

    /// `x` `[batch, tokens, channels]` and the context `[batch, context tokens, context channels]` to the shape of `x`.
    pub fn forward(&self, x: Tensor<B, 3>, context: Tensor<B, 3>) -> Tensor<B, 3> {
        // Keys and values share the copy they compute with.
        let context = Precision::of(self.to_k.bf16).enter(context);
        let [k, v] = [&self.to_k, &self.to_v].map(|linear| linear.compute(context.clone()));
        let attended = B::plain_attention(self.to_q.compute(x), k, v, self.heads);
        self.to_out.0.forward(attended)
    }
}

/// `W2 (value * gelu(gate))` with `[value, gate] = W1 x` (GEGLU, arXiv 2002.05202).
#[derive(Module, Debug)]
pub struct FeedForward<B: DitBackend> {
    /// First and last layer. In diffusers, whose names these are, there is a dropout between them that nobody sets.
    pub net: (GegluLayer<B>, PhantomData<B>, Linear<B>),
}

/// The first layer of a [`FeedForward`].
#[derive(Module, Debug)]
pub struct GegluLayer<B: DitBackend> {
    /// `[8 x channels, channels]`.
    pub proj: Linear<B>,
}

impl<B: DitBackend> FeedForward<B> {
    fn new(channels: usize, init: &Init<'_, B>) -> Self {
        let hidden = 4 * channels;
        let net = init.at("net");
        let proj = net.at(0).at("proj");
        Self {
            net: (
                GegluLayer {
                    proj: proj.fan_in_linear(channels, 2 * hidden, true),
                },
                PhantomData,
                net.at(2).fan_in_linear(hidden, channels, true),
            ),
        }
    }

    /// `[batch, tokens, channels]` to the same.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let (first, _, last) = &self.net;
        last.forward(B::geglu(first.proj.compute(x)))
    }
}
