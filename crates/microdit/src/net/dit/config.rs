//! `DitConfig`: every size of the network in one place, with presets.

use super::width::{WidthScale, attention_width, expert_width, gelu_width, swiglu_width};
use crate::nn::{BlockConfig, Dense, MoeConfig, Precision, Router};
use serde::{Deserialize, Serialize};

/// The patch-mixer: a small transformer that sees all patches before any is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixerConfig {
    /// Width of its tokens, 1 to 2^20; where it differs from the backbone's, norm + linear map in and out.
    pub dim: usize,
    /// Number of blocks, 1 to 2^14.
    pub depth: usize,
    /// Attention width over `dim`, above 0 and at most 1000.
    #[serde(default = "one")]
    pub qkv_ratio: f64,
    /// Feed-forward width over `dim`, above 0 and at most 1000.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
}

/// A decoder over all patches behind the backbone (MaskDiT, arXiv 2306.09305): with it, the network predicts the patches it was
/// not shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of its tokens, up to 2^20, a multiple of 4.
    pub dim: usize,
    /// Number of blocks, 1 to 2^14; they have no experts.
    pub depth: usize,
    /// Nominal width of an attention head, 1 to 2^20.
    pub head_dim: usize,
    /// Attention width over `dim`, above 0 and at most 1000.
    #[serde(default = "one")]
    pub qkv_ratio: f64,
    /// Feed-forward width over `dim`, above 0 and at most 1000.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
}

/// Sizes of a [`Dit`](crate::Dit).
///
/// ```
/// use microdit::DitConfig;
/// let config = DitConfig::tiny_2().with_input_size(64).with_pos_interp_scale(2.0);
/// config.validate()?;
/// assert_eq!(config.tokens(), 1024);
/// assert!(DitConfig::tiny_2().with_input_size(31).validate().is_err());
/// # Ok::<(), microdit::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Height and width of the latent, 1 to 2^16, a multiple of `patch_size`.
    pub input_size: usize,
    /// Side of a patch, in latent pixels, 1 to 2^16.
    pub patch_size: usize,
    /// Channels of the latent, 1 to 2^16.
    pub in_channels: usize,
    /// Width of the backbone's tokens, up to 2^20, a multiple of 4.
    pub dim: usize,
    /// Number of backbone blocks, 1 to 2^14.
    pub depth: usize,
    /// Nominal width of an attention head, 1 to 2^20.
    pub head_dim: usize,
    /// Feed-forward widths are rounded up to a multiple of this, 1 to 2^20.
    pub multiple_of: usize,
    /// Channels of a caption token, 1 to 2^20.
    pub caption_channels: usize,
    /// Divides the patch coordinates: 2 stretches the positions of a 256 px model over 512 px. 0.001 to 1000.
    #[serde(default = "one")]
    pub pos_interp_scale: f64,
    /// Epsilon of every layer norm, 1e-12 to 1.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Attention width over `dim`, by block; above 0 and at most 1000.
    pub qkv_width: WidthScale,
    /// Feed-forward width over `dim`, by block; above 0 and at most 1000.
    pub ffn_width: WidthScale,
    /// The patch-mixer; without one, masking can only be naive.
    #[serde(default)]
    pub mixer: Option<MixerConfig>,
    /// The experts; without them, every feed-forward is dense.
    #[serde(default)]
    pub moe: Option<MoeConfig>,
    /// The decoder; without one, only kept patches are predicted.
    #[serde(default)]
    pub decoder: Option<DecoderConfig>,
    /// The feed-forward of the blocks of mixer, backbone and decoder that have no experts.
    #[serde(default)]
    pub feed_forward: Dense,
    /// What the routers of the experts see; anything but the default needs experts.
    #[serde(default)]
    pub router: Router,
    /// Biases in attention, dense feed-forward and mixer projections.
    #[serde(default)]
    pub use_bias: bool,
    /// Scale the initial output projections of block i by 1 / sqrt(2 (i + 1)) instead of 1 / sqrt(2 depth).
    #[serde(default = "yes")]
    pub depth_init: bool,
    /// What the network computes in.
    #[serde(default)]
    pub precision: Precision,
}

fn one() -> f64 {
    1.0
}
fn four() -> f64 {
    4.0
}
fn yes() -> bool {
    true
}
fn default_norm_eps() -> f64 {
    1e-6
}

macro_rules! builders {
    ($($(#[$doc:meta])* $name:ident: $field:ident: $type:ty;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, value: $type) -> Self { self.$field = value; self })*
    };
}

impl DitConfig {
    /// MicroDiT-Tiny/2 for 256 px (32 x 32 x 4 latents): 200,692,752 parameters.
    pub fn tiny_2() -> Self {
        Self {
            dim: 512,
            depth: 16,
            head_dim: 32,
            mixer: Some(MixerConfig {
                dim: 512,
                depth: 4,
                qkv_ratio: 1.0,
                mlp_ratio: 4.0,
            }),
            ..Self::xl_2()
        }
    }

    /// MicroDiT-XL/2 for 256 px (32 x 32 x 4 latents): 1,165,442,320 parameters.
    pub fn xl_2() -> Self {
        Self {
            input_size: 32,
            patch_size: 2,
            in_channels: 4,
            dim: 1024,
            depth: 28,
            head_dim: 64,
            multiple_of: 256,
            caption_channels: 1024,
            pos_interp_scale: 1.0,
            norm_eps: 1e-6,
            qkv_width: WidthScale::Linear { from: 0.5, to: 1.0 },
            ffn_width: WidthScale::Linear { from: 0.5, to: 4.0 },
            mixer: Some(MixerConfig {
                dim: 768,
                depth: 6,
                qkv_ratio: 1.0,
                mlp_ratio: 4.0,
            }),
            moe: Some(MoeConfig {
                experts: 8,
                capacity: 2.0,
                every: 2,
            }),
            decoder: None,
            feed_forward: Dense::SwiGlu,
            router: Router::Modulated,
            use_bias: false,
            depth_init: true,
            precision: Precision::F32,
        }
    }

    builders! {
        /// Sets the height and width of the latent.
        with_input_size: input_size: usize;
        /// Sets the side of a patch.
        with_patch_size: patch_size: usize;
        /// Sets the channels of the latent.
        with_in_channels: in_channels: usize;
        /// Sets the width of the backbone.
        with_dim: dim: usize;
        /// Sets the number of backbone blocks.
        with_depth: depth: usize;
        /// Sets the nominal width of a head.
        with_head_dim: head_dim: usize;
        /// Sets the multiple feed-forward widths are rounded up to.
        with_multiple_of: multiple_of: usize;
        /// Sets the channels of a caption token.
        with_caption_channels: caption_channels: usize;
        /// Sets the divisor of the patch coordinates.
        with_pos_interp_scale: pos_interp_scale: f64;
        /// Sets the epsilon of every layer norm.
        with_norm_eps: norm_eps: f64;
        /// Sets the growth of the attention widths.
        with_qkv_width: qkv_width: WidthScale;
        /// Sets the growth of the feed-forward widths.
        with_ffn_width: ffn_width: WidthScale;
        /// Sets or removes the patch-mixer.
        with_mixer: mixer: Option<MixerConfig>;
        /// Sets or removes the experts.
        with_moe: moe: Option<MoeConfig>;
        /// Sets or removes the decoder.
        with_decoder: decoder: Option<DecoderConfig>;
        /// Sets the feed-forward of blocks without experts.
        with_feed_forward: feed_forward: Dense;
        /// Sets what the routers of the experts see.
        with_router: router: Router;
        /// Sets whether attention and dense feed-forward have biases.
        with_use_bias: use_bias: bool;
        /// Sets whether the initial scale of the output projections depends on the depth of the block.
        with_depth_init: depth_init: bool;
        /// Sets what the network computes in.
        with_precision: precision: Precision;
    }

    /// Patches along one side of the latent.
    pub fn grid(&self) -> usize {
        self.input_size / self.patch_size
    }

    /// Tokens of one image.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Numbers in one patch: `patch_size^2 x in_channels`.
    pub fn patch_dim(&self) -> usize {
        self.patch_size * self.patch_size * self.in_channels
    }

    /// Widths of every backbone block.
    pub fn blocks(&self) -> Vec<BlockConfig> {
        let qkv = self.qkv_width.multipliers(self.depth);
        let ffn = self.ffn_width.multipliers(self.depth);
        (0..self.depth)
            .map(|i| {
                let has_experts =
                    |moe: &&MoeConfig| (i + 1) % moe.every == 0 && i + 1 != self.depth;
                let moe = self.moe.as_ref().filter(has_experts);
                let layers = if self.depth_init { i + 1 } else { self.depth };
                self.block([self.dim, self.head_dim], (qkv[i], ffn[i]), moe, layers)
            })
            .collect()
    }

    /// Widths of every block of the patch-mixer; empty without one.
    pub fn mixer_blocks(&self) -> Vec<BlockConfig> {
        let Some(mixer) = &self.mixer else {
            return Vec::new();
        };
        (0..mixer.depth)
            .map(|i| {
                let has_experts = |moe: &&MoeConfig| (i + 1) % moe.every == 0 && i != 0;
                let moe = self.moe.as_ref().filter(has_experts);
                let ratios = (mixer.qkv_ratio, mixer.mlp_ratio);
                self.block([mixer.dim, self.head_dim], ratios, moe, self.depth)
            })
            .collect()
    }

    /// Widths of the caption block: a self-attention and a SwiGLU, neither modulated nor masked.
    pub fn caption_block(&self) -> BlockConfig {
        BlockConfig {
            dense: Dense::SwiGlu,
            hidden_dim: swiglu_width(self.dim, 4.0, self.multiple_of),
            ..self.block([self.dim, self.head_dim], (1.0, 4.0), None, 1)
        }
    }

    /// Widths of every block of the decoder; empty without one.
    pub fn decoder_blocks(&self) -> Vec<BlockConfig> {
        let Some(decoder) = &self.decoder else {
            return Vec::new();
        };
        let block = |i| {
            let ratios = (decoder.qkv_ratio, decoder.mlp_ratio);
            let layers = if self.depth_init {
                i + 1
            } else {
                decoder.depth
            };
            self.block([decoder.dim, decoder.head_dim], ratios, None, layers)
        };
        (0..decoder.depth).map(block).collect()
    }

    /// Width of the tokens that become patches.
    pub fn last_dim(&self) -> usize {
        let decoder = self.decoder.as_ref();
        decoder.map_or(self.dim, |decoder| decoder.dim)
    }

    /// `layers` is the number of layers whose residuals the initial output projections are scaled for.
    fn block(
        &self,
        [dim, head_dim]: [usize; 2],
        (qkv, ffn): (f64, f64),
        moe: Option<&MoeConfig>,
        layers: usize,
    ) -> BlockConfig {
        let (attention_dim, heads) = attention_width(dim, head_dim, qkv);
        let hidden = match (moe, self.feed_forward) {
            (Some(_), _) => expert_width,
            (None, Dense::SwiGlu) => swiglu_width,
            (None, Dense::Gelu) => gelu_width,
        };
        BlockConfig {
            dim,
            condition_dim: self.dim,
            attention_dim,
            heads,
            cross_heads: dim / head_dim,
            hidden_dim: hidden(dim, ffn, self.multiple_of),
            dense: self.feed_forward,
            moe: moe.cloned(),
            router: self.router,
            use_bias: self.use_bias,
            norm_eps: self.norm_eps,
            output_std: crate::nn::init::STD / (2.0 * layers as f64).sqrt(),
            precision: self.precision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_skip_the_last_block_and_the_first_mixer_block() {
        let config = DitConfig::tiny_2().with_moe(Some(MoeConfig {
            experts: 8,
            capacity: 2.0,
            every: 1,
        }));
        let with_experts: Vec<bool> = config.blocks().iter().map(|b| b.moe.is_some()).collect();
        assert!(with_experts[..15].iter().all(|&moe| moe) && !with_experts[15]);
        let with_experts: Vec<bool> = config
            .mixer_blocks()
            .iter()
            .map(|b| b.moe.is_some())
            .collect();
        assert_eq!(with_experts, [false, true, true, true]);
    }
}
