//! How the loader works.

use crate::variation::Variation;

/// How a [`Loader`](super::Loader) works.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Seed of the order of the data.
    pub seed: u64,
    /// Samples in a batch.
    pub batch: usize,
    /// Channels, height and width of what a sample becomes. Images are cropped and resized to it; pre-computed latents
    /// must have it.
    pub shape: [usize; 3],
    /// Tokens and channels that precomputed captions must have.
    pub caption: [usize; 2],
    /// Threads that decode; the batches are the same for any number.
    pub threads: usize,
    /// Share of the samples of a list of shards that may be damaged, in 0..=1.
    pub max_damage: f64,
    /// What is varied of the samples.
    pub variation: Variation,
}
