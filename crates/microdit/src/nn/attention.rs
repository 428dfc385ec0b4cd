//! Self- and cross-attention with query/key normalization over the whole width, before the heads are split.

use crate::{
    nn::{
        BlockConfig, Linear,
        init::{self, Init},
    },
    ops::DitBackend,
};
use burn::{module::Module, tensor::Tensor};

/// Multi-head self-attention; its inner width may differ from the tokens' (layer-wise scaling).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, nn::{attention::SelfAttention, init::Init}};
///
/// let device = Default::default();
/// let block = &DitConfig::tiny_2().blocks()[0]; // dim 512, inner width 256
/// let attention = SelfAttention::<Flex>::new(block, &Init::new(0, &device));
/// assert_eq!(attention.qkv.weight.dims(), [3 * 256, 512]);
/// assert_eq!(attention.forward(Tensor::ones([2, 16, 512], &device)).dims(), [2, 16, 512]);
/// ```
#[derive(Module, Debug)]
pub struct SelfAttention<B: DitBackend> {
    /// Queries, keys and values stacked: `[3 x width, dim]`.
    pub qkv: Linear<B>,
    /// Output projection `[dim, width]`.
    pub proj: Linear<B>,
    heads: usize,
    eps: f64,
}

impl<B: DitBackend> SelfAttention<B> {
    /// Attention of the widths of `block`.
    pub fn new(block: &BlockConfig, init: &Init<'_, B>) -> Self {
        let (dim, width, bias) = (block.dim, block.attention_dim, block.use_bias);
        Self {
            qkv: init.at("qkv").linear(dim, 3 * width, bias, init::STD),
            proj: init.at("proj").linear(width, dim, bias, block.output_std),
            heads: block.heads,
            eps: block.norm_eps,
        }
    }

    /// `[batch, tokens, dim]` to the same, in the type it computes in.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let qkv = self.qkv.compute(x);
        self.proj
            .compute(B::self_attention(qkv, self.heads, self.eps))
    }
}

/// Multi-head attention from image tokens to caption tokens.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, nn::{attention::CrossAttention, init::Init}};
///
/// let device = Default::default();
/// let attention = CrossAttention::<Flex>::new(&DitConfig::tiny_2().blocks()[0], &Init::new(0, &device));
/// let (x, captions) = (Tensor::ones([2, 16, 512], &device), Tensor::ones([2, 77, 512], &device));
/// assert_eq!(attention.forward(x, captions).dims(), [2, 16, 512]);
/// ```
#[derive(Module, Debug)]
pub struct CrossAttention<B: DitBackend> {
    /// Queries `[dim, dim]`.
    pub q_linear: Linear<B>,
    /// Keys and values stacked: `[2 dim, dim]`.
    pub kv_linear: Linear<B>,
    /// Output projection `[dim, dim]`.
    pub proj: Linear<B>,
    heads: usize,
    eps: f64,
}

impl<B: DitBackend> CrossAttention<B> {
    /// Attention of the widths of `block`.
    pub fn new(block: &BlockConfig, init: &Init<'_, B>) -> Self {
        let (dim, bias) = (block.dim, block.use_bias);
        Self {
            q_linear: init.at("q_linear").linear(dim, dim, bias, init::STD),
            kv_linear: init.at("kv_linear").linear(dim, 2 * dim, bias, init::STD),
            proj: init.at("proj").linear(dim, dim, bias, block.output_std),
            heads: block.cross_heads,
            eps: block.norm_eps,
        }
    }

    /// `x` `[batch, tokens, dim]` attends to `captions` `[batch, caption tokens, dim]`, in the type it computes in.
    pub fn forward(&self, x: Tensor<B, 3>, captions: Tensor<B, 3>) -> Tensor<B, 3> {
        let q = self.q_linear.compute(x);
        // All blocks attend to the same captions.
        let kv = self.kv_linear.compute_shared(captions);
        self.proj
            .compute(B::cross_attention(q, kv, self.heads, self.eps))
    }
}
