//! A captioned image, and where it stands in the data.

use crate::damage::Damage;
use ::image::RgbImage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The image of a sample: decoding is left to the loader's threads.
#[derive(Clone, Debug)]
pub enum Image {
    /// A compressed file.
    Encoded(Vec<u8>),
    /// Pixels.
    Decoded(RgbImage),
    /// The precomputed latent and caption states.
    Precomputed {
        /// `[channels, height, width]`.
        latent: Stored,
        /// `[tokens, channels]`.
        caption: Stored,
    },
}

/// An array as it is stored.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A NumPy file.
    Npy(Vec<u8>),
    /// 16-bit floats, little-endian, row by row; the reader must know the shape.
    Halves(Vec<u8>),
}

/// A captioned image.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name in the dataset.
    pub key: String,
    /// Its caption, trimmed; never empty where the image is one.
    pub caption: String,
    /// Its image.
    pub image: Image,
    /// What is known about the damage to the shard it comes from, if it comes from one.
    pub damage: Option<Arc<Damage>>,
}

/// Where in the data a run is: all that is needed to resume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Samples taken from all sources together, damaged ones included.
    pub drawn: u64,
    /// Where the run is in each list of shards.
    pub sources: Vec<Place>,
}

/// A place in a list of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Finished passes over the shards.
    pub epoch: u64,
    /// Shards of this pass before the window the next sample comes from.
    pub shard: usize,
    /// Samples of that window already taken, damaged ones included.
    pub sample: u64,
}
