//! What can go wrong while latents are made.

use microdit::range::OutOfRange;
use microdit_data::DataError;
use std::path::PathBuf;

/// Latents that cannot be made, or joined into one dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrecomputeError {
    /// Pictures that cannot be used, or files that cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A directory of latents was begun with other settings.
    #[error(
        "{}: this directory was begun with other settings; continue with those, or choose another directory\n{difference}", path.display()
    )]
    OtherSettings {
        /// The file that says so.
        path: PathBuf,
        /// What was found there, and what is asked for now.
        difference: String,
    },
    /// A directory of latents was begun with other shards.
    #[error(
        "{}: this directory was begun with other shards\n{difference}", path.display()
    )]
    OtherSources {
        /// The file that says so.
        path: PathBuf,
        /// The first shard that differs: what was expected, what was found.
        difference: String,
    },
    /// Shards of latents that are not as they were written.
    #[error("{}: {}", folder.display(), shards.join(", "))]
    Broken {
        /// The directory.
        folder: PathBuf,
        /// Each with what is wrong.
        shards: Vec<String>,
    },
    /// Names of captions that cannot be used.
    #[error("captions: {0}")]
    Captions(String),
    /// A size that is listed twice.
    #[error("size {0} is listed twice")]
    RepeatedSize(u32),
    /// Sizes of buckets that cannot be used.
    #[error("buckets of {side} x {side} pixels: {error}")]
    Buckets {
        /// The side of the square in whose place they stand.
        side: u32,
        /// What is wrong with them.
        error: OutOfRange,
    },
    /// Listed sizes of buckets, and several squares in whose place they might stand.
    #[error("the sizes of --buckets belong to one of --sizes: give one, or a step")]
    ListedBuckets,
    /// A size the VAE cannot encode.
    #[error("images of {size} pixels cannot be encoded; expected a multiple of {multiple}")]
    Size {
        /// The side of the images.
        size: u32,
        /// Pixels of the image's side per pixel of the latent's side.
        multiple: usize,
    },
    /// Some shards are not made yet.
    #[error(
        "{}: the shards made of {} of {of} sources are missing ({}{})", folder.display(), missing.len(),
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
}
