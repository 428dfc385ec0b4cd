//! A captioned image, where it stands in the data, and the damage to the shard it comes from.

use crate::{error::DataError, left_out::reasons};
use ::image::RgbImage;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

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

/// Damaged samples of a shard.
#[derive(Debug)]
pub struct Damage {
    shard: PathBuf,
    samples: usize,
    /// How many, by reason.
    damaged: Mutex<BTreeMap<String, usize>>,
}

impl Damage {
    /// Of a shard of so many samples, some of which are known to be damaged, and why.
    pub(crate) fn new<'a>(
        shard: &Path,
        samples: usize,
        lacks: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let damage = Self {
            shard: shard.to_owned(),
            samples,
            damaged: Mutex::default(),
        };
        lacks.into_iter().for_each(|lack| damage.count(lack));
        damage
    }

    /// The file name of the shard.
    pub(crate) fn shard(&self) -> String {
        let name = self.shard.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Counts one more.
    pub(crate) fn count(&self, lack: &str) {
        let kind = lack.split(": ").next().unwrap_or(lack).to_owned();
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        *damaged.entry(kind).or_default() += 1;
    }

    /// Checks that at most that share is damaged.
    ///
    /// # Errors
    /// If it is more.
    pub(crate) fn within(&self, share: f64) -> Result<(), DataError> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let count: usize = damaged.values().sum();
        if count as f64 <= share * self.samples as f64 {
            return Ok(());
        }
        Err(DataError::TooDamaged {
            shard: self.shard.clone(),
            damaged: count,
            samples: self.samples,
            reasons: reasons(&damaged),
        })
    }
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
