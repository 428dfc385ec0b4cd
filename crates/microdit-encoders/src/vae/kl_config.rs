//! The sizes of the autoencoder with a Gaussian posterior.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Sizes of an [`AutoencoderKl`](super::AutoencoderKl), under the names of diffusers' `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Widths, from the image inwards; between two, height and width are halved.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per width in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Multiplies latents so that they have about unit variance.
    pub scaling_factor: f64,
    /// Subtracted before.
    pub shift_factor: Option<f64>,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether one precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the innermost blocks have attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    /// Diffusers' defaults for what a configuration leaves out.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

/// Keys that change the network and have one supported value, or a list of it.
const SUPPORTED: [(&str, &[&str]); 5] = [
    ("act_fn", &["silu", "swish"]),
    ("down_block_types", &["DownEncoderBlock2D"]),
    ("up_block_types", &["UpDecoderBlock2D"]),
    ("latents_mean", &[]),
    ("latents_std", &[]),
];

/// The first key of a `config.json` that asks for what an [`AutoencoderKl`](super::AutoencoderKl) does not have, and its value.
pub(super) fn unsupported(keys: &Map<String, Value>) -> Option<(&'static str, &Value)> {
    SUPPORTED.iter().find_map(|(key, supported)| {
        let known = |value: &Value| value.as_str().is_some_and(|text| supported.contains(&text));
        let value = keys.get(*key).filter(|value| !value.is_null())?;
        let all = match value.as_array() {
            Some(list) => list.iter().all(known) && !supported.is_empty(),
            None => known(value),
        };
        (!all).then_some((*key, value))
    })
}

impl AutoencoderKlConfig {
    /// The autoencoder of SDXL: 4 channels, an eighth of the side.
    pub fn sdxl() -> Self {
        Self {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            scaling_factor: 0.13025,
            ..Self::default()
        }
    }

    /// Pixels of an image's side per pixel of the latents' side.
    pub fn shrinks_by(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }
}
