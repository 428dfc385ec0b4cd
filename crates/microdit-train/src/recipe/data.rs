//! What a stage is trained on, and how that becomes numbers.

use microdit::range::{OutOfRange, above, require, within};
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
    /// Side of the images in pixels, 1 to 2^16.
    pub image_size: u32,
    /// Threads that read and decode, 1 to 1024; the data are the same for any number.
    #[serde(default = "two")]
    pub threads: usize,
    /// Share of a shard's samples that may be damaged before the run stops, 0 to 1; damaged samples are skipped.
    /// A shard without a usable sample is skipped too, as long as no more than half of a list's shards are such.
    #[serde(default = "tenth")]
    pub max_damage: f64,
}

/// Shards among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// As `shards` of [`DataConfig`].
    pub shards: String,
    /// How often a sample comes from them, compared with the others; above 0 and at most 10^9.
    pub weight: f64,
}

impl DataConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("image_size", self.image_size, 1..=1 << 16)?;
        within("threads", self.threads, 1..=1024)?;
        within("max_damage", self.max_damage, 0.0..=1.0)?;
        for (i, part) in self.mix.iter().enumerate() {
            within(&format!("mix.{i}.weight"), part.weight, above(0.0, 1e9))?;
        }
        let either = self.shards.is_none() || self.mix.is_empty();
        require(either, "mix", || {
            "names shards besides data.shards; name all of them here".into()
        })?;
        let enough = self.dataset == Dataset::Shapes || !self.lists().is_empty();
        require(enough, "shards", || {
            "this dataset needs its shards; add --set data.shards=PATH (a tar, a directory of tars, or a pattern)".into()
        })
    }

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
        /// The scale, 0.001 to 1000; 0.5 gives photographs a standard deviation near 0.25.
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
        /// Words kept, and padded to, 1 to 2^16.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, 0 to 1, for classifier-free guidance.
        drop: f64,
    },
    /// They are vectors already, as the shards hold them.
    Precomputed {
        /// Vectors of a caption, 1 to 2^16.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, 0 to 1, for classifier-free guidance.
        drop: f64,
    },
}

impl CodecConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self {
            Self::Pixels { scale } => within("scale", *scale, 1e-3..=1e3),
            Self::Latents => Ok(()),
        }
    }
}

impl CaptionConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("tokens", self.tokens(), 1..=1 << 16)?;
        within("drop", self.drop(), 0.0..=1.0)
    }

    /// Vectors of a caption.
    pub fn tokens(&self) -> usize {
        let (Self::HashedWords { tokens, .. } | Self::Precomputed { tokens, .. }) = self;
        *tokens
    }

    /// Fraction of the captions replaced by zeros.
    pub fn drop(&self) -> f64 {
        let (Self::HashedWords { drop, .. } | Self::Precomputed { drop, .. }) = self;
        *drop
    }
}
