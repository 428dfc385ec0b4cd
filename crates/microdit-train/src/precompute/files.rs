//! What lies in a directory of latents, and where.

use microdit_data::DataError;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The settings the directory was begun with.
pub(super) fn settings_path(out: &Path) -> PathBuf {
    out.join("precompute.json")
}

/// The latents of a shard.
pub(super) fn tar_path(out: &Path, number: usize) -> PathBuf {
    out.join(format!("{number:06}.tar"))
}

/// The report on them: where it exists, the shard is complete.
pub(super) fn report_path(out: &Path, number: usize) -> PathBuf {
    out.join(format!("{number:06}.json"))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(DataError::io(path)(error)),
        _ => Ok(()),
    }
}
