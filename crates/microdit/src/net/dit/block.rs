//! Transformer blocks: the modulated block of mixer and backbone (DiT's adaLN block with cross-attention), and the
//! plain block that refines the captions.

use crate::{
    net::dit::Condition,
    nn::BlockConfig,
    nn::{
        Linear,
        attention::{CrossAttention, SelfAttention},
        feed_forward::{FeedForward, SwiGlu},
        init::Init,
        moe::Unmodulated,
        norm::{LayerNorm, Modulation},
        params::{Role, Roles},
    },
    ops::{DitBackend, split_last},
};
use burn::{module::Module, tensor::Tensor};

/// Modulated self-attention (gated), cross-attention, modulated feed-forward (gated).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{Condition, DitConfig, net::dit::block::DitBlock, nn::init::Init};
///
/// let device = Default::default();
/// let block = DitBlock::<Flex>::new(&DitConfig::tiny_2().blocks()[0], &Init::new(0, &device));
/// let condition = Condition {
///     captions: Tensor::ones([2, 77, 512], &device),
///     vector: Tensor::ones([2, 512], &device),
///     time: Tensor::ones([2, 512], &device),
/// };
/// assert_eq!(block.forward(Tensor::ones([2, 16, 512], &device), condition).dims(), [2, 16, 512]);
/// ```
#[derive(Module, Debug)]
pub struct DitBlock<B: DitBackend> {
    /// Norm before the self-attention.
    pub norm1: LayerNorm<B>,
    /// Among the image tokens.
    pub attn: SelfAttention<B>,
    /// From image to caption tokens.
    pub cross_attn: CrossAttention<B>,
    /// Norm before the cross-attention.
    pub norm2: LayerNorm<B>,
    /// Norm before the feed-forward.
    pub norm3: LayerNorm<B>,
    /// Dense or experts.
    pub mlp: FeedForward<B>,
    /// Condition to shift, scale and gate of attention, then of feed-forward: `[6 dim, condition_dim]`.
    pub modulation: Linear<B>,
}

/// Shifts, scales and gates of one block.
#[derive(Clone, Debug)]
pub struct BlockModulation<B: DitBackend> {
    /// Of the norm before the self-attention.
    pub attn: Modulation<B>,
    /// Multiplies the self-attention's output, `[batch, dim]`.
    pub attn_gate: Tensor<B, 2>,
    /// Of the norm before the feed-forward.
    pub mlp: Modulation<B>,
    /// Multiplies the feed-forward's output, `[batch, dim]`.
    pub mlp_gate: Tensor<B, 2>,
}

impl<B: DitBackend> DitBlock<B> {
    /// A block of these widths.
    pub fn new(config: &BlockConfig, init: &Init<'_, B>) -> Self {
        let norm = || LayerNorm::new(config.dim, config.norm_eps, init);
        Self {
            norm1: norm(),
            attn: SelfAttention::new(config, &init.at("attn")),
            cross_attn: CrossAttention::new(config, &init.at("cross_attn")),
            norm2: norm(),
            norm3: norm(),
            mlp: FeedForward::new(config, &init.at("mlp")),
            modulation: init
                .zero_linear(config.condition_dim, 6 * config.dim, true)
                .in_f32(),
        }
    }

    /// Modulation by `condition` `[batch, condition_dim]`.
    pub fn modulate(&self, condition: Tensor<B, 2>) -> BlockModulation<B> {
        let [shift, scale, attn_gate, mlp_shift, mlp_scale, mlp_gate] =
            split_last(self.modulation.forward(B::tanh_gelu(condition)));
        BlockModulation {
            attn: Modulation { shift, scale },
            attn_gate,
            mlp: Modulation {
                shift: mlp_shift,
                scale: mlp_scale,
            },
            mlp_gate,
        }
    }

    /// `x` `[batch, tokens, dim]` to the same; the captions of `condition` have the block's width.
    pub fn forward(&self, x: Tensor<B, 3>, condition: Condition<B>) -> Tensor<B, 3> {
        let Condition {
            captions,
            vector,
            time,
        } = condition;
        let modulation = self.modulate(vector);
        let attended = self
            .attn
            .forward(self.norm1.modulated(x.clone(), modulation.attn));
        let x = B::gated_residual(x, attended, modulation.attn_gate);
        let updated = self
            .cross_attn
            .forward(self.norm2.forward(x.clone()), captions);
        let x = B::residual(x, updated);
        let unmodulated = self.mlp.is_decoupled().then(|| Unmodulated {
            tokens: self.norm3.forward(x.clone()),
            time,
        });
        let modulated = self.norm3.modulated(x.clone(), modulation.mlp);
        let fed = self.mlp.forward(modulated, unmodulated);
        B::gated_residual(x, fed, modulation.mlp_gate)
    }
}

impl<B: DitBackend> Roles for DitBlock<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["mlp", rest @ ..] => self.mlp.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}

/// Pre-norm self-attention and SwiGLU over caption tokens.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, net::dit::block::CaptionBlock, nn::init::Init};
///
/// let device = Default::default();
/// let block = CaptionBlock::<Flex>::new(&DitConfig::tiny_2().caption_block(), &Init::new(0, &device));
/// // It starts as the identity.
/// let captions = Tensor::<Flex, 3>::ones([2, 77, 512], &device);
/// assert_eq!(block.forward(captions.clone()).to_data(), captions.to_data());
/// ```
#[derive(Module, Debug)]
pub struct CaptionBlock<B: DitBackend> {
    /// Norm before the attention.
    pub norm1: LayerNorm<B>,
    /// Among the caption tokens.
    pub attn: SelfAttention<B>,
    /// Norm before the feed-forward.
    pub norm2: LayerNorm<B>,
    /// Dense feed-forward.
    pub mlp: SwiGlu<B>,
}

impl<B: DitBackend> CaptionBlock<B> {
    /// A block of these widths that starts as the identity.
    pub fn new(config: &BlockConfig, init: &Init<'_, B>) -> Self {
        let wide = BlockConfig {
            output_std: crate::nn::init::STD,
            ..config.clone()
        };
        let mut attn = SelfAttention::new(&wide, &init.at("attn"));
        let mut mlp = SwiGlu::new(&wide, &init.at("mlp"));
        attn.proj = init.zero_linear(config.attention_dim, config.dim, config.use_bias);
        mlp.w3 = init.zero_linear(config.hidden_dim, config.dim, config.use_bias);
        Self {
            norm1: LayerNorm::new(config.dim, config.norm_eps, init),
            attn,
            norm2: LayerNorm::new(config.dim, config.norm_eps, init),
            mlp,
        }
    }

    /// `[batch, caption tokens, dim]` to the same.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let attended = self.attn.forward(self.norm1.forward(x.clone()));
        let x = B::residual(x, attended);
        let fed = self.mlp.forward(self.norm2.forward(x.clone()));
        B::residual(x, fed)
    }
}
