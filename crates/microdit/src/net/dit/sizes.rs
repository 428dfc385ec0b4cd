//! What the sizes of a [`Dit`](crate::Dit) say about it before it is built.

use super::{DitConfig, flops, memory};
use crate::{
    net::{ConfigError, DenoiserConfig, Flops, Tokens},
    nn::Precision,
};

impl DenoiserConfig for DitConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        Self::validate(self)
    }

    fn validate_tokens(&self, kept: usize, _all: usize) -> Result<(), ConfigError> {
        self.validate_capacity(kept)
    }

    fn latent(&self) -> [usize; 3] {
        [self.in_channels, self.input_size, self.input_size]
    }

    fn patch_size(&self) -> usize {
        self.patch_size
    }

    fn caption_channels(&self) -> usize {
        self.caption_channels
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn predicts_dropped(&self) -> bool {
        self.decoder.is_some()
    }

    fn defers_masking(&self) -> bool {
        self.mixer.is_some()
    }

    fn parameters(&self) -> usize {
        flops::parameters(self)
    }

    fn flops(&self, tokens: &Tokens) -> Flops {
        flops::per_image(self, tokens)
    }

    fn activations(&self, tokens: &Tokens, checkpointing: bool) -> usize {
        match checkpointing {
            true => memory::recomputed(self, tokens),
            false => memory::activations(self, tokens),
        }
    }

    fn narrowest(&self) -> [usize; 2] {
        let experts = self.moe.as_ref().map_or(usize::MAX, |moe| moe.experts);
        let blocks = [self.blocks(), self.decoder_blocks()].concat();
        let of_image = blocks.iter().map(|block| block.dim.min(block.hidden_dim));
        let of_image = of_image.min().unwrap_or(self.dim).min(self.dim);
        let of_image = of_image.min(self.last_dim());
        [of_image, experts.min(self.patch_dim())]
    }
}

impl DitConfig {
    /// Parameters of all experts and their routers.
    pub fn expert_parameters(&self) -> usize {
        flops::expert_parameters(self)
    }

    /// Whether the weights of `other` fit it: resolution and precision may differ.
    pub fn takes_weights_of(&self, other: &Self) -> bool {
        let same = Self {
            input_size: other.input_size,
            pos_interp_scale: other.pos_interp_scale,
            precision: other.precision,
            ..self.clone()
        };
        same == *other
    }
}
