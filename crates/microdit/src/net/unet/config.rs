//! `UNetConfig`: every size of the network in one place, with presets.

use crate::nn::Precision;
use serde::{Deserialize, Serialize};

/// Layers of one height and width, on the way down or up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelConfig {
    /// Channels, 1 to 2^20, a multiple of `norm_groups`.
    pub channels: usize,
    /// Residual blocks, 1 to 1024.
    pub resnets: usize,
    /// Blocks of each of its transformers, 1 to 1024; at most 1024 transformers. The first follows the first residual block,
    /// and so on.
    #[serde(default)]
    pub attentions: Vec<usize>,
    /// Attention heads, which divide `channels`, 1 to 2^20.
    #[serde(default = "one")]
    pub heads: usize,
}

/// Layers between the way down and the way up, of the deepest level's channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidConfig {
    /// Residual blocks, 1 to 1024.
    pub resnets: usize,
    /// Blocks of each of its transformers, 1 to 1024; at most 1024 transformers.
    #[serde(default)]
    pub attentions: Vec<usize>,
    /// Attention heads, which divide the channels, 1 to 2^20.
    #[serde(default = "one")]
    pub heads: usize,
    /// Whether it works at half the height and width of the deepest level (DeciDiffusion).
    #[serde(default)]
    pub halved: bool,
    /// Whether its first residual block is applied twice in a row (DeciDiffusion).
    #[serde(default)]
    pub first_twice: bool,
}

/// Sizes of a [`UNet`](super::UNet).
///
/// ```
/// use microdit::{UNetConfig, net::DenoiserConfig};
/// let config = UNetConfig::sd_1();
/// config.validate()?;
/// assert_eq!(config.parameters(), 859_520_964);
/// assert_eq!(UNetConfig::decidiffusion().parameters(), 814_746_884);
/// # Ok::<(), microdit::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Height and width of the latent, 1 to 2^16; it runs on any other, too.
    pub input_size: usize,
    /// Channels of what it is given, 1 to 2^16: those of the latent, and for inpainting those of the mask and the masked image
    /// behind them.
    pub in_channels: usize,
    /// Channels of the latent, which it predicts, 1 to 2^16.
    pub out_channels: usize,
    /// Channels of a caption token, 1 to 2^20.
    pub caption_channels: usize,
    /// The way down, finest level first; 1 to 16 levels, each of half the height and width of the one before.
    pub down: Vec<LevelConfig>,
    /// What lies between.
    #[serde(default)]
    pub mid: Option<MidConfig>,
    /// The way up, deepest level first: as many levels as down, with one residual block for every skip connection. Those start
    /// from the first convolution, every residual block of the way down, and everything that is passed on to another level.
    pub up: Vec<LevelConfig>,
    /// Groups of the group norms, 1 to 2^20.
    #[serde(default = "groups")]
    pub norm_groups: usize,
    /// Epsilon of the residual blocks' norms, 1e-12 to 1.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// Whether tokens enter and leave transformers through linear layers, rather than convolutions of size 1: the same numbers
    /// in another shape.
    #[serde(default)]
    pub linear_projection: bool,
    /// Whether a skip connection starts right behind its residual block (DeciDiffusion), not behind the transformer that follows
    /// it.
    #[serde(default)]
    pub skip_before_attention: bool,
    /// Whether the time's sinusoids are cosines, then sines.
    #[serde(default = "yes")]
    pub cosines_first: bool,
    /// Taken from the number of frequencies that the exponents of the time's frequencies are divided by, 0 to 1.
    #[serde(default)]
    pub frequency_shift: f64,
    /// What the network computes in.
    #[serde(default)]
    pub precision: Precision,
}

fn one() -> usize {
    1
}
fn groups() -> usize {
    32
}
fn eps() -> f64 {
    1e-5
}
fn yes() -> bool {
    true
}

impl UNetConfig {
    /// The network of Stable Diffusion 1.1 to 1.5 for 512 px (64 x 64 x 4 latents): 859,520,964 parameters.
    pub fn sd_1() -> Self {
        Self {
            linear_projection: false,
            ..Self::stable_diffusion([8; 4], 768)
        }
    }

    /// The network of Stable Diffusion 2.0 and 2.1 and SD-Turbo for 512 px (64 x 64 x 4 latents): 865,910,724 parameters.
    pub fn sd_2() -> Self {
        Self::stable_diffusion([5, 10, 20, 20], 1024)
    }

    /// U-Net-NAS, the network of DeciDiffusion 1.0, for 512 px (64 x 64 x 4 latents): 814,746,884 parameters.
    pub fn decidiffusion() -> Self {
        let level = |channels, resnets, attentions| LevelConfig {
            channels,
            resnets,
            attentions: vec![1; attentions],
            heads: 8,
        };
        Self {
            down: vec![level(320, 2, 0), level(640, 2, 1), level(1280, 1, 3)],
            mid: Some(MidConfig {
                resnets: 5,
                attentions: vec![1; 2],
                heads: 8,
                halved: true,
                first_twice: true,
            }),
            up: vec![level(1280, 2, 6), level(640, 3, 3), level(320, 3, 0)],
            skip_before_attention: true,
            ..Self::sd_1()
        }
    }

    /// The same for inpainting: nine channels of input, 859,535,364 parameters for [`sd_1`](Self::sd_1).
    #[must_use]
    pub fn inpainting(self) -> Self {
        Self {
            in_channels: 2 * self.out_channels + 1,
            ..self
        }
    }

    fn stable_diffusion(heads: [usize; 4], caption_channels: usize) -> Self {
        let channels = [320, 640, 1280, 1280];
        let level = |i: usize, resnets| LevelConfig {
            channels: channels[i],
            resnets,
            // The deepest level has no transformers.
            attentions: if i < 3 { vec![1; resnets] } else { Vec::new() },
            heads: heads[i],
        };
        Self {
            input_size: 64,
            in_channels: 4,
            out_channels: 4,
            caption_channels,
            down: (0..4).map(|i| level(i, 2)).collect(),
            mid: Some(MidConfig {
                resnets: 2,
                attentions: vec![1],
                heads: heads[3],
                halved: false,
                first_twice: false,
            }),
            up: (0..4).rev().map(|i| level(i, 3)).collect(),
            norm_groups: 32,
            norm_eps: 1e-5,
            linear_projection: true,
            skip_before_attention: false,
            cosines_first: true,
            frequency_shift: 0.0,
            precision: Precision::F32,
        }
    }

    /// Channels of the finest level: of the first convolution, and of the time's sinusoids.
    pub(super) fn first_channels(&self) -> usize {
        self.down.first().map_or(0, |level| level.channels)
    }

    /// Channels of the time's embedding.
    pub(super) fn time_channels(&self) -> usize {
        4 * self.first_channels()
    }

    /// Whether the weights of `other` fit it: resolution and precision may differ.
    pub fn takes_weights_of(&self, other: &Self) -> bool {
        let same = Self {
            input_size: other.input_size,
            precision: other.precision,
            ..self.clone()
        };
        same == *other
    }
}
