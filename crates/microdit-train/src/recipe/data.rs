//! What a stage is trained on, and how that becomes numbers.

use microdit::range::{OutOfRange, above, require, within};
use microdit_data::{BucketConfig, Variation, check_names};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where images and captions come from, and how they become what the network sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum DataConfig {
    /// Generated on the fly: colored shapes and sentences about them.
    Shapes {
        /// Side of the images in pixels, 1 to 2^16.
        image_size: u32,
        /// How images become latents.
        codec: CodecConfig,
        /// How captions become vectors.
        captions: CaptionConfig,
        /// Threads that generate, 1 to 1024; the data are the same for any number.
        #[serde(default = "two")]
        threads: usize,
    },
    /// Tars, MDS shards or Parquet files of images and texts.
    WebDataset {
        /// A tar or a Parquet file, a pattern, a directory of tars, Parquet files or MDS shards, or the URL of one of these (in a build
        /// with the feature `remote`). Needed for training, not for a plan.
        #[serde(default)]
        shards: Option<String>,
        /// Several of them in place of `shards`, each as often as its weight says.
        #[serde(default)]
        mix: Vec<Weighted>,
        /// Side in pixels to which images are cropped, 1 to 2^16.
        image_size: u32,
        /// How images become latents.
        codec: CodecConfig,
        /// How captions become vectors.
        captions: CaptionConfig,
        /// Several captions of a sample in place of the first that is found, each drawn as often as its weight says. Those that a sample
        /// lacks are left out of its draws. Evaluation takes the first, or `evaluation.caption`.
        #[serde(default)]
        caption_mix: Vec<WeightedCaption>,
        /// Sizes that pictures are cropped to in place of the square, with as many pixels at most: each picture to the one nearest to its
        /// shape, each batch of one size. A picture whose size is so rare that a batch of it would take 256 others is left out.
        #[serde(default)]
        buckets: Option<BucketConfig>,
        /// Whether any part of a picture may be taken, not only the middle, drawn by seed, pass and sample.
        #[serde(default)]
        random_crop: bool,
        /// Whether left and right are swapped in half of the passes, drawn likewise: what captions say of sides becomes wrong, and
        /// writing unreadable.
        #[serde(default)]
        flip: bool,
        /// Threads that read and decode, 1 to 1024; the data are the same for any number.
        #[serde(default = "two")]
        threads: usize,
        /// Share of the samples of a list of shards that may be damaged before the run stops, 0 to 1; damaged samples are skipped.
        /// A shard without a usable sample is skipped too, as long as no more than half of a list's shards are such.
        #[serde(default = "tenth")]
        max_damage: f64,
    },
    /// Tars or MDS shards of pre-computed latents and caption embeddings.
    Latents {
        /// As in `WebDataset`.
        #[serde(default)]
        shards: Option<String>,
        /// As in `WebDataset`.
        #[serde(default)]
        mix: Vec<Weighted>,
        /// Side in pixels of the images the latents were made of, 1 to 2^16.
        image_size: u32,
        /// Tokens of a caption, 1 to 2^16.
        tokens: usize,
        /// Whether padding was trimmed off caption states by `data precompute --trim-padding`: the network sees zeros in its place. States
        /// with padding are another conditioning.
        #[serde(default)]
        trimmed: bool,
        /// As in `WebDataset`, of the captions that `data precompute --captions` encoded.
        #[serde(default)]
        caption_mix: Vec<WeightedCaption>,
        /// As in `WebDataset`, the sizes that `data precompute --buckets` encoded.
        #[serde(default)]
        buckets: Option<BucketConfig>,
        /// As in `WebDataset`, of latents that `data precompute --flips` encoded both ways.
        #[serde(default)]
        flip: bool,
        /// As in `WebDataset`.
        #[serde(default = "two")]
        threads: usize,
        /// As in `WebDataset`.
        #[serde(default = "tenth")]
        max_damage: f64,
    },
}

/// A part of a mix of shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// As `shards` of [`DataConfig`].
    pub shards: String,
    /// How often a sample comes from them, compared with the others; above 0 and at most 10^9.
    pub weight: f64,
}

/// One of several captions of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedCaption {
    /// Its name: `KEY.NAME.txt`, `KEY.NAME` or an entry of `KEY.json` in tars, a column of MDS shards; 1 to 60 letters, digits, `-`, `_`
    /// and `.`.
    pub name: String,
    /// How often it is drawn, compared with the others; above 0 and at most 10^9.
    pub weight: f64,
}

impl DataConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first key outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("image_size", self.image_size(), 1..=1 << 16)?;
        within("threads", self.threads(), 1..=1024)?;
        within("max_damage", self.max_damage(), 0.0..=1.0)?;
        if let Some(CodecConfig::Pixels { scale }) = self.codec() {
            within("codec.scale", scale, 1e-3..=1e3)?;
        }
        let tokens = match self {
            Self::Latents { .. } => "tokens",
            Self::Shapes { .. } | Self::WebDataset { .. } => "captions.tokens",
        };
        within(tokens, self.tokens(), 1..=1 << 16)?;
        let (shards, mix) = self.shards_and_mix();
        for (i, part) in mix.iter().enumerate() {
            within(&format!("mix.{i}.weight"), part.weight, above(0.0, 1e9))?;
        }
        for (i, caption) in self.caption_mix().iter().enumerate() {
            let key = format!("caption_mix.{i}.weight");
            within(&key, caption.weight, above(0.0, 1e9))?;
        }
        check_names(&self.caption_names())
            .map_err(|error| OutOfRange::new("caption_mix", error))?;
        require(shards.is_none() || mix.is_empty(), "mix", || {
            "names shards besides data.shards; name all of them here".into()
        })
    }

    /// Whether nothing says where its data lie.
    pub(crate) fn lacks_shards(&self) -> bool {
        !matches!(self, Self::Shapes { .. }) && self.lists().is_empty()
    }

    /// The name of its kind, as recipes have it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Shapes { .. } => "Shapes",
            Self::WebDataset { .. } => "WebDataset",
            Self::Latents { .. } => "Latents",
        }
    }

    /// Side of the images in pixels.
    pub fn image_size(&self) -> u32 {
        let (Self::Shapes { image_size, .. }
        | Self::WebDataset { image_size, .. }
        | Self::Latents { image_size, .. }) = self;
        *image_size
    }

    /// How images become latents; none if they are latents already.
    pub fn codec(&self) -> Option<CodecConfig> {
        match self {
            Self::Shapes { codec, .. } | Self::WebDataset { codec, .. } => Some(*codec),
            Self::Latents { .. } => None,
        }
    }

    /// How captions become vectors; none if they are vectors already.
    pub fn captions(&self) -> Option<CaptionConfig> {
        match self {
            Self::Shapes { captions, .. } | Self::WebDataset { captions, .. } => Some(*captions),
            Self::Latents { .. } => None,
        }
    }

    /// Tokens of a caption.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Shapes { captions, .. } | Self::WebDataset { captions, .. } => {
                let CaptionConfig::HashedWords { tokens } = captions;
                *tokens
            }
            Self::Latents { tokens, .. } => *tokens,
        }
    }

    /// Whether padding was trimmed off caption states.
    pub(crate) fn trimmed(&self) -> bool {
        matches!(self, Self::Latents { trimmed: true, .. })
    }

    /// Threads that read and decode.
    pub(crate) fn threads(&self) -> usize {
        let (Self::Shapes { threads, .. }
        | Self::WebDataset { threads, .. }
        | Self::Latents { threads, .. }) = self;
        *threads
    }

    /// Share of a shard's samples that may be damaged; none of those that are drawn is.
    pub fn max_damage(&self) -> f64 {
        match self {
            Self::Shapes { .. } => 0.0,
            Self::WebDataset { max_damage, .. } | Self::Latents { max_damage, .. } => *max_damage,
        }
    }

    /// The lists of shards and their weights.
    pub(crate) fn lists(&self) -> Vec<(&str, f64)> {
        let (shards, mix) = self.shards_and_mix();
        let mix = mix.iter().map(|part| (part.shards.as_str(), part.weight));
        shards
            .map(|shards| (shards, 1.0))
            .into_iter()
            .chain(mix)
            .collect()
    }

    /// Several captions of a sample; none if only the first counts.
    pub(crate) fn caption_mix(&self) -> &[WeightedCaption] {
        match self {
            Self::Shapes { .. } => &[],
            Self::WebDataset { caption_mix, .. } | Self::Latents { caption_mix, .. } => caption_mix,
        }
    }

    /// How pictures that are not square become batches of one size; all are squares if absent.
    pub fn buckets(&self) -> Option<&BucketConfig> {
        match self {
            Self::Shapes { .. } => None,
            Self::WebDataset { buckets, .. } | Self::Latents { buckets, .. } => buckets.as_ref(),
        }
    }

    /// What is varied of a sample from pass to pass.
    pub(crate) fn variation(&self) -> Variation {
        let weights = self.caption_mix().iter().map(|caption| caption.weight);
        let (random_crop, flip) = match *self {
            Self::Shapes { .. } => (false, false),
            Self::WebDataset {
                random_crop, flip, ..
            } => (random_crop, flip),
            Self::Latents { flip, .. } => (false, flip),
        };
        Variation {
            captions: weights.collect(),
            random_crop,
            flip,
        }
    }

    /// Names of several captions of a sample.
    pub(crate) fn caption_names(&self) -> Vec<String> {
        let names = self.caption_mix().iter();
        names.map(|caption| caption.name.clone()).collect()
    }

    fn shards_and_mix(&self) -> (Option<&str>, &[Weighted]) {
        match self {
            Self::Shapes { .. } => (None, &[]),
            Self::WebDataset { shards, mix, .. } | Self::Latents { shards, mix, .. } => {
                (shards.as_deref(), mix)
            }
        }
    }
}

fn tenth() -> f64 {
    0.1
}

fn two() -> usize {
    2
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
#[serde(deny_unknown_fields)]
pub enum CodecConfig {
    /// The pixels themselves, from -1..1 times a scale.
    Pixels {
        /// The scale, 0.001 to 1000; 0.5 gives photographs a standard deviation near 0.25.
        scale: f32,
    },
}

/// How captions become vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum CaptionConfig {
    /// One random but fixed vector per word: a stand-in for CLIP that needs no download.
    HashedWords {
        /// Words kept, and padded to, 1 to 2^16.
        tokens: usize,
    },
}
