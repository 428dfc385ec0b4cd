//! What the sizes of a [`UNet`](super::UNet) say about it before it is built.

use super::{UNetConfig, cost, steps::Layer};
use crate::{
    net::{ConfigError, DenoiserConfig, Flops, Tokens},
    nn::Precision,
};

impl DenoiserConfig for UNetConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(self.check()?)
    }

    /// Convolutions see whole images: no token can be dropped.
    fn validate_tokens(&self, kept: usize, all: usize) -> Result<(), ConfigError> {
        if kept == all {
            return Ok(());
        }
        Err(ConfigError {
            field: "down".into(),
            rule: format!(
                "the convolutions of a UNet see all {all} pixels of a latent: set masking to None"
            ),
        })
    }

    fn latent(&self) -> [usize; 3] {
        [self.out_channels, self.input_size, self.input_size]
    }

    fn extra_channels(&self) -> usize {
        self.in_channels - self.out_channels
    }

    fn patch_size(&self) -> usize {
        1
    }

    fn caption_channels(&self) -> usize {
        self.caption_channels
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn parameters(&self) -> usize {
        cost::parameters(self)
    }

    fn flops(&self, tokens: &Tokens) -> Flops {
        cost::flops(self, tokens)
    }

    fn activations(&self, tokens: &Tokens, checkpointing: bool) -> usize {
        match checkpointing {
            true => cost::recomputed(self, tokens),
            false => cost::activations(self, tokens),
        }
    }

    /// Deeper levels have a quarter of the tokens each.
    fn narrowest(&self) -> [usize; 2] {
        let steps = self.steps();
        let of_image = steps.iter().filter_map(|step| match step.layer {
            Layer::Resnet(resnet) => Some(resnet.output),
            _ => None,
        });
        let of_token = steps.iter().filter_map(|step| match step.layer {
            Layer::Attention(attention) => Some(attention.channels >> (2 * step.level)),
            _ => None,
        });
        let widest = self.time_channels();
        [
            of_image.min().unwrap_or(widest).min(widest),
            of_token.min().unwrap_or(widest).clamp(1, widest),
        ]
    }
}
