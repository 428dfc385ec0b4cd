//! A captioned image, and what can be wrong with data.

use crate::left_out::reasons;
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
    /// What encoders made of image and caption beforehand.
    Precomputed {
        /// `[channels, height, width]`.
        latent: Stored,
        /// `[words, channels]`.
        caption: Stored,
    },
}

/// An array as it is stored.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A NumPy file.
    Npy(Vec<u8>),
    /// 16-bit floats, little-endian, row by row; the shape is the reader's business.
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
    /// What is known of the damage to the shard it comes from, if it comes from one.
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

/// Where in the data a run is: enough to go on without what came before.
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
    /// Passes over the shards finished.
    pub epoch: u64,
    /// Shards of this pass before the window the next sample comes from.
    pub shard: usize,
    /// Samples of that window already taken, damaged ones included.
    pub sample: u64,
}

/// Data that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The path leads to nothing, or to no shards.
    #[error(
        "{0}: no such shard; expected a .tar, a directory of .tar files or of MDS shards, or a pattern such as train-{{000..009}}.tar"
    )]
    NoShards(String),
    /// A shard could not be read.
    #[error("{}: {message}", shard.display())]
    Unreadable {
        /// The shard.
        shard: PathBuf,
        /// What its reader says.
        message: String,
    },
    /// A shard without one usable sample.
    #[error("{}: no usable sample; expected members {expected}", shard.display())]
    EmptyShard {
        /// The shard.
        shard: PathBuf,
        /// Members of a sample.
        expected: String,
    },
    /// Too much of a shard is damaged.
    #[error(
        "{}: {damaged} of {samples} samples are damaged ({reasons}); `microdit data inspect` says how. Mend or remove the shard, or raise data.max_damage", shard.display()
    )]
    TooDamaged {
        /// The shard.
        shard: PathBuf,
        /// Damaged samples met so far.
        damaged: usize,
        /// Samples in the shard.
        samples: usize,
        /// What is wrong with them.
        reasons: String,
    },
    /// Too much of a dataset is damaged.
    #[error(
        "{damaged} of {seen} samples are damaged, more than the share of {share} that --max-damage allows: {reasons}"
    )]
    TooMuchDamage {
        /// Damaged samples.
        damaged: u64,
        /// Samples met.
        seen: u64,
        /// Share that may be damaged.
        share: f64,
        /// What is wrong with them.
        reasons: String,
    },
    /// Too many samples in a row could not be decoded.
    #[error("{0} samples in a row could not be decoded; the warnings name some")]
    NothingDecodes(usize),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        error: std::io::Error,
    },
    /// A directory of latents was begun with other settings.
    #[error(
        "{}: this directory was begun with other settings; go on with those, or choose another directory\n{difference}", path.display()
    )]
    OtherSettings {
        /// The file that says so.
        path: PathBuf,
        /// What was found there, and what is asked for now.
        difference: String,
    },
    /// A directory of latents was begun with other shards.
    #[error(
        "{}: this directory was begun with other shards; choose another directory, or say with --update that they were meant to be added, replaced or removed: then what was made of the others stays\n{difference}", path.display()
    )]
    OtherSources {
        /// The file that says so.
        path: PathBuf,
        /// The first shard that differs: what was expected, what was found.
        difference: String,
    },
    /// A shard that was written could not be read back as it was written.
    #[error("{}: it was written, but reads back otherwise: {message}", path.display())]
    NotReadBack {
        /// The file.
        path: PathBuf,
        /// What is different.
        message: String,
    },
    /// Nothing was written.
    #[error("no sample was written, of {seen} that were met{}{reasons}", if reasons.is_empty() { "" } else { ": " })]
    NothingWritten {
        /// Samples met.
        seen: u64,
        /// Why they were left out.
        reasons: String,
    },
    /// Shards of latents that are not as they were written.
    #[error("{}: {}; run the same precompute command again", folder.display(), shards.join(", "))]
    Broken {
        /// The directory.
        folder: PathBuf,
        /// Each with what is wrong.
        shards: Vec<String>,
    },
    /// A size that is listed twice.
    #[error("size {0} is listed twice")]
    RepeatedSize(u32),
    /// A size the VAE cannot encode.
    #[error("images of {size} pixels cannot be encoded; expected a multiple of {multiple}")]
    Size {
        /// The side of the images.
        size: u32,
        /// Pixels of the image to one of the latent.
        multiple: usize,
    },
    /// A directory to write to holds something.
    #[error("{} is not empty; choose a new directory, or remove this one", .0.display())]
    InUse(PathBuf),
    /// Shards are still to be made.
    #[error(
        "{}: the shards made of {} of {of} sources are missing ({}{}); run the same precompute command again", folder.display(), missing.len(),
        missing[..missing.len().min(5)].join(", "), if missing.len() > 5 { ", ..." } else { "" }
    )]
    Unfinished {
        /// The directory.
        folder: PathBuf,
        /// Names of the shards of pictures.
        missing: Vec<String>,
        /// Shards of pictures.
        of: usize,
    },
    /// Work was broken off before it began.
    #[error("stopped before anything was done")]
    Interrupted,
    /// The loader's thread ended early.
    #[error("the loader stopped unexpectedly; this is a bug, please report it")]
    Stopped,
}

impl DataError {
    /// An operating system's error at `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    /// What is wrong, without the file.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Unreadable { message, .. } => message.clone(),
            Self::Io { error, .. } => error.to_string(),
            other => other.to_string(),
        }
    }

    /// A shard, table or index that is not as it should be.
    pub(crate) fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::Unreadable {
            shard: path.to_owned(),
            message: error.to_string(),
        }
    }
}
