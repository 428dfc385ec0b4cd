//! What can be wrong with data.

use crate::remote::RemoteError;
use std::path::{Path, PathBuf};

/// Data that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There are no prompts.
    #[error("there are no prompts")]
    NoPrompts,
    /// There is nothing at the path, or no shards.
    #[error(
        "{0}: no such shard; expected a .tar or a .parquet, a directory of these or of MDS shards, a pattern such as \
         train-{{000..009}}.tar, or the URL of one of these"
    )]
    NoShards(String),
    /// A shard could not be read.
    #[error("{}: {message}", shard.display())]
    Unreadable {
        /// The shard.
        shard: PathBuf,
        /// The reader's error.
        message: String,
    },
    /// Data that lie elsewhere cannot be had.
    #[error(transparent)]
    Remote(RemoteError),
    /// A shard without one usable sample.
    #[error("{}: no usable sample; expected members {expected}", shard.display())]
    EmptyShard {
        /// The shard.
        shard: PathBuf,
        /// Members of a sample.
        expected: String,
    },
    /// Too many shards have no usable sample.
    #[error(
        "{lost} of {shards} shards have no usable sample, more than half; the last of them: {last}"
    )]
    ShardsLost {
        /// Those found so far.
        lost: usize,
        /// Shards in the list.
        shards: usize,
        /// What is wrong with the last.
        last: Box<DataError>,
    },
    /// Too much of a list of shards is damaged.
    #[error(
        "{damaged} of {of} samples are damaged, more than max_damage allows; most of them in {}: {reasons}", shard.display()
    )]
    TooDamaged {
        /// The shard with the most damage.
        shard: PathBuf,
        /// Damaged samples met so far.
        damaged: usize,
        /// Samples of the list: their number, or about how many there are while shards are unread.
        of: String,
        /// What is wrong with them.
        reasons: String,
    },
    /// Too much of a dataset is damaged.
    #[error(
        "{damaged} of {seen} samples are damaged, more than the share of {share} that is allowed: {reasons}"
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
    /// A pass over the data and more went by without a sample that could be decoded.
    #[error("{0} samples in a row could not be decoded; the warnings name some")]
    NothingDecodes(usize),
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// A shard that was written could not be read back as it was written.
    #[error("{}: it was written, but reads back differently: {message}", path.display())]
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
    /// The output directory is not empty.
    #[error("{} is not empty; choose a new directory, or remove this one", .0.display())]
    InUse(PathBuf),
    /// Stopped before anything was done.
    #[error("stopped before anything was done")]
    Interrupted,
    /// The loader's thread ended early.
    #[error("the loader stopped unexpectedly; this is a bug, please report it")]
    Stopped,
}

impl DataError {
    /// An operating system's error at `path`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    /// What is wrong, without the file.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreadable { message, .. } => message.clone(),
            Self::Io { error, .. } => error.to_string(),
            Self::EmptyShard { expected, .. } => {
                format!("no usable sample; expected members {expected}")
            }
            other => other.to_string(),
        }
    }

    /// A malformed shard, table or index.
    pub fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::Unreadable {
            shard: path.to_owned(),
            message: error.to_string(),
        }
    }
}
