//! How the loader works.

use crate::{buckets::Buckets, variation::Variation};

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
    /// Sizes that take the place of that one, in pixels of pictures: every batch is of one of them.
    pub buckets: Option<Buckets>,
    /// Pixels of a picture's side for each of what the network takes; 1 where that is the picture itself.
    pub shrinks_by: usize,
    /// Tokens and channels that precomputed captions must have.
    pub caption: [usize; 2],
    /// Whether captions may have fewer tokens, because their padding was trimmed off: zeros take its place.
    pub trimmed: bool,
    /// Threads that decode; the batches are the same for any number.
    pub threads: usize,
    /// Share of the samples of a list of shards that may be damaged, in 0..=1.
    pub max_damage: f64,
    /// What is varied of the samples.
    pub variation: Variation,
}

impl LoaderConfig {
    /// Width and height of the buckets in pixels.
    pub(super) fn sizes(&self) -> &[[u32; 2]] {
        self.buckets.as_ref().map_or(&[], Buckets::sizes)
    }

    /// Channels, height and width of what a sample of that bucket becomes.
    pub(super) fn shape_of(&self, bucket: usize) -> [usize; 3] {
        let [width, height] = self.sizes()[bucket].map(|side| side as usize / self.shrinks_by);
        [self.shape[0], height, width]
    }
}
