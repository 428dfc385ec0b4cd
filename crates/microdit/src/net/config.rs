//! What is known about a network before it is built: its sizes, and what they cost.

use crate::{nn::Precision, ops::DitBackend, range::OutOfRange};
use burn::tensor::DType;

/// A configuration that cannot be built: the field, and the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model.{field}: {rule}")]
pub struct ConfigError {
    /// The field at fault.
    pub field: String,
    /// The rule, with the values that break it.
    pub rule: String,
}

impl From<OutOfRange> for ConfigError {
    fn from(error: OutOfRange) -> Self {
        Self {
            field: error.key,
            rule: error.rule,
        }
    }
}

impl From<ConfigError> for OutOfRange {
    fn from(error: ConfigError) -> Self {
        Self::new(error.field, error.rule)
    }
}

/// Checks that a device computes in `precision`.
pub(super) fn computes_in<B: DitBackend>(
    precision: Precision,
    device: &B::Device,
) -> Result<(), ConfigError> {
    if precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(ConfigError {
            field: "precision".into(),
            rule: "must be F32 on this device, which does not compute in bf16".into(),
        });
    }
    Ok(())
}

/// How many tokens each part of a network sees of one image and its caption. A network that drops none sees all of them
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Image tokens before [deferred masking](crate::Masking::Deferred) drops any.
    pub mixer: usize,
    /// Image tokens after it.
    pub backbone: usize,
    /// Caption tokens.
    pub caption: usize,
}

/// Floating-point operations of matrix products (two per multiply-accumulate) for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Forward pass.
    pub forward: f64,
    /// Backward pass: a product for the input's gradient and one for the weight's.
    pub backward: f64,
}

impl Flops {
    /// Forward and backward.
    pub fn total(&self) -> f64 {
        self.forward + self.backward
    }
}

/// The sizes of a network.
///
/// ```
/// use microdit::{DitConfig, Masking, net::{DenoiserConfig, Tokens}};
/// let config = DitConfig::xl_2();
/// let kept = Masking::Deferred { ratio: 0.75 }.kept(config.tokens());
/// let tokens = Tokens { mixer: config.tokens(), backbone: kept, caption: 77 };
/// let gflop = config.flops(&tokens).total() / 1e9;
/// assert!((gflop / 283.0 - 1.0).abs() < 0.01); // paper: 283 GFLOP
/// assert_eq!(DitConfig::tiny_2().parameters(), 200_692_752);
/// ```
pub trait DenoiserConfig {
    /// Checks that a network of these sizes can be built.
    ///
    /// # Errors
    /// The first field that breaks a rule, with the rule and the values.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Checks that the network can run on `kept` of an image's `all` tokens: masking drops the others, and images of another size
    /// have another number.
    ///
    /// # Errors
    /// The field that prevents it, with the numbers.
    fn validate_tokens(&self, kept: usize, all: usize) -> Result<(), ConfigError>;

    /// Channels, height and width of the latents it is meant for.
    fn latent(&self) -> [usize; 3];

    /// Channels of its input behind those of the latent: mask and masked image of a network for inpainting.
    fn extra_channels(&self) -> usize {
        0
    }

    /// Side of a patch in latent pixels.
    fn patch_size(&self) -> usize;

    /// Tokens of such a latent.
    fn tokens(&self) -> usize {
        let [_, height, width] = self.latent();
        (height / self.patch_size()) * (width / self.patch_size())
    }

    /// Channels of a caption token.
    fn caption_channels(&self) -> usize;

    /// What its matrix products compute in.
    fn precision(&self) -> Precision;

    /// Whether it predicts all tokens where some are dropped, rather than the kept ones alone.
    fn predicts_dropped(&self) -> bool {
        false
    }

    /// Whether a part of it sees the tokens that [deferred masking](crate::Masking::Deferred) drops: else that is
    /// [naive](crate::Masking::Naive) masking by another name.
    fn defers_masking(&self) -> bool {
        true
    }

    /// Number of parameters, or `usize::MAX` where that is too small to count them.
    fn parameters(&self) -> usize;

    /// FLOPs for one image.
    fn flops(&self, tokens: &Tokens) -> Flops;

    /// Bytes the forward pass of one image leaves for the backward pass: of everything, or, with activation checkpointing, of
    /// what flows between the segments and of the largest segment. `usize::MAX` where that is too small to count them.
    fn activations(&self, tokens: &Tokens, checkpointing: bool) -> usize;

    /// Columns of the narrowest matrix product with a row per image, and of the narrowest with a row per token.
    fn narrowest(&self) -> [usize; 2];
}
