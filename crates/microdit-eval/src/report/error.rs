//! What can be wrong with what is reported on.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What cannot be reported on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A directory of neither kind.
    #[error(
        "{}: neither a run (no metrics.jsonl and no recipe.ron in it) nor a sweep (no sweep.jsonl)", .0.display()
    )]
    Nothing(PathBuf),
    /// A file that could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl ReportError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}
