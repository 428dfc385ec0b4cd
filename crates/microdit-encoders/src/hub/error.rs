//! What can go wrong with published models.

use super::published::PUBLISHED;
use std::{
    io,
    path::{Path, PathBuf},
};

/// A model that is not in the cache, or cannot be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a path nor a name.
    #[error("{name}: no such file or directory, and no published model; known are {}", PUBLISHED.iter().map(|model| model.name).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A published model that has not been fetched.
    #[error("{name} is not on this machine")]
    NotFetched {
        /// What was asked for.
        name: String,
    },
    /// Offline, and something is missing.
    #[error("{repository}/{file} is not in the cache, and HF_HUB_OFFLINE forbids downloading it")]
    Offline {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// The name cannot be that of a model or a file.
    #[error("`{name}` is not a {expected}")]
    NoName {
        /// What was asked for.
        name: String,
        /// What was expected.
        expected: &'static str,
    },
    /// No directory for the cache is known.
    #[error("no directory for the cache: neither HF_HOME nor the user's home directory is known")]
    NoHome,
    /// Another process downloads the same file.
    #[error("another process is downloading the same file, which it locks by {}; wait for it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The hub does not respond, or responds wrongly.
    #[error("{repository}/{file} could not be fetched: {error}; what has arrived is kept")]
    Download {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What went wrong.
        error: String,
        /// Whether the hub refuses it, so that asking again is pointless.
        refused: bool,
    },
    /// The download does not match its checksum.
    #[error(
        "{repository}/{file} has arrived damaged: its checksum is {found}, the hub says {expected}; it was removed"
    )]
    Damaged {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// The checksum of the hub.
        expected: String,
        /// That of the file.
        found: String,
    },
    /// Nobody may write to the hub without a token.
    #[error("there is no token: HF_TOKEN is not set, and no login has left one")]
    NoToken,
    /// Offline, and something is to be sent.
    #[error("HF_HUB_OFFLINE forbids uploading to {repository}")]
    NoUpload {
        /// The repository.
        repository: String,
    },
    /// The hub did not take something.
    #[error("{repository}: {step}: {error}")]
    Upload {
        /// The repository.
        repository: String,
        /// What was being done.
        step: String,
        /// What went wrong.
        error: String,
        /// The status of HTTP it was refused with.
        status: Option<u16>,
    },
    /// The cache, or what was to be uploaded, could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
}

impl HubError {
    /// An operating system's error at `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
