//! What a stage is trained on, and how that becomes numbers.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where images and captions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset.
    pub dataset: Dataset,
    /// For `WebDataset` and `Latents`: a tar, a pattern, or a directory of tars or MDS shards.
    #[serde(default)]
    pub shards: Option<String>,
    /// Several of them in place of `shards`, each as often as its weight says.
    #[serde(default)]
    pub mix: Vec<Weighted>,
    /// Side of the images in pixels.
    pub image_size: u32,
    /// Threads that read and decode; the data are the same for any number.
    #[serde(default = "two")]
    pub threads: usize,
    /// Share of a shard's samples that may be damaged before the run stops; damaged samples are skipped.
    #[serde(default = "tenth")]
    pub max_damage: f64,
}

/// Shards among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// As `shards` of [`DataConfig`].
    pub shards: String,
    /// How often a sample comes from them, compared with the others.
    pub weight: f64,
}

impl DataConfig {
    /// The lists of shards and their weights.
    pub(crate) fn lists(&self) -> Vec<(&str, f64)> {
        let mix = self
            .mix
            .iter()
            .map(|part| (part.shards.as_str(), part.weight));
        let one = self.shards.iter().map(|shards| (shards.as_str(), 1.0));
        one.chain(mix).collect()
    }
}

fn tenth() -> f64 {
    0.1
}

fn two() -> usize {
    2
}

/// A kind of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dataset {
    /// Drawn on the fly: coloured shapes and sentences about them.
    Shapes,
    /// Tars of images and texts.
    WebDataset,
    /// Tars of pre-computed latents and caption vectors, for images of `image_size` pixels.
    Latents,
}

/// The networks latents and captions were pre-computed with: only pictures need them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderConfig {
    /// The VAE, as [`Vae::open`](microdit_encoders::vae::Vae::open) takes it.
    pub vae: Option<PathBuf>,
    /// The text encoder, as [`TextEncoder::open`](microdit_encoders::text::TextEncoder::open) takes it.
    pub text: Option<PathBuf>,
}

/// How images become latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum CodecConfig {
    /// The pixels themselves, from -1..1 times a scale.
    Pixels {
        /// The scale; 0.5 gives photographs a standard deviation near 0.25.
        scale: f32,
    },
    /// They are latents already, as the shards hold them.
    Latents,
}

/// How captions become vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaptionConfig {
    /// One random but fixed vector per word: a stand-in for CLIP that needs no download.
    HashedWords {
        /// Words kept, and padded to.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, for classifier-free guidance.
        drop: f64,
    },
    /// They are vectors already, as the shards hold them.
    Precomputed {
        /// Vectors of a caption.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, for classifier-free guidance.
        drop: f64,
    },
}

impl CaptionConfig {
    /// Vectors of a caption.
    pub fn tokens(&self) -> usize {
        let (Self::HashedWords { tokens, .. } | Self::Precomputed { tokens, .. }) = self;
        *tokens
    }

    /// The same without replacing any by zeros.
    #[must_use]
    pub(crate) fn without_drop(mut self) -> Self {
        let (Self::HashedWords { drop, .. } | Self::Precomputed { drop, .. }) = &mut self;
        *drop = 0.0;
        self
    }

    /// Fraction of the captions replaced by zeros.
    pub fn drop(&self) -> f64 {
        let (Self::HashedWords { drop, .. } | Self::Precomputed { drop, .. }) = self;
        *drop
    }
}
