//! How latents are made.

use super::identity::EncoderIdentity;
use microdit::nn::Precision;
use microdit_data::BucketConfig;

/// How latents are made.
#[derive(Clone, Debug)]
pub struct PrecomputeConfig {
    /// Sides of the square images, in pixels; a sample gets a latent for each.
    pub sizes: Vec<u32>,
    /// Sizes in place of each square, with as many pixels at most: a picture is cropped to the one nearest to its shape.
    pub buckets: Option<BucketConfig>,
    /// Whether any part of a picture may be taken, not only the middle: one, drawn by the seed, for each size.
    pub random_crop: bool,
    /// Whether pictures are encoded with left and right swapped too.
    pub flips: bool,
    /// Names of several captions, as [`Columns::captions`](microdit_data::Columns), that are encoded of a sample; the first that is found
    /// if empty.
    pub captions: Vec<String>,
    /// Whether padding is trimmed off caption states.
    pub trim_padding: bool,
    /// Images, and captions, encoded at once.
    pub batch: usize,
    /// What the encoders compute in, by which latents made otherwise are recognized.
    pub precision: Precision,
    /// Seed of the draws from the VAE's posterior.
    pub seed: u64,
    /// The VAE and the text encoder, by which latents made with others are recognized.
    pub encoders: [EncoderIdentity; 2],
    /// This process among `world`, which share the shards.
    pub rank: usize,
    /// Processes at work.
    pub world: usize,
    /// Whether shards may have been added, replaced or removed since the directory was begun.
    pub update: bool,
    /// Share of the samples that may be damaged, in 0..=1.
    pub max_damage: f64,
}
