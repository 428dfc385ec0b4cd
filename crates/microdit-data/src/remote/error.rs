//! What can be wrong with data that lie elsewhere.

use std::path::PathBuf;

/// Data that cannot be had from where they lie.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The program was built without this.
    #[error("{url}: this program was built without access to data by URL, the feature `remote`")]
    NotBuilt {
        /// What was asked for.
        url: String,
    },
    /// Nothing that could be fetched.
    #[error("{url}: {message}")]
    Address {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// A variable of the environment that says how.
    #[error("{name}: {found:?}; expected {expected}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// There is nothing at the address.
    #[error("{url}: no such object")]
    Missing {
        /// The address.
        url: String,
    },
    /// It is there, or may be, but not for everyone.
    #[error("{url}: access denied: {message}")]
    Denied {
        /// The address.
        url: String,
        /// The server's response.
        message: String,
    },
    /// `HF_HUB_OFFLINE` forbids to ask.
    #[error("{url}: HF_HUB_OFFLINE forbids asking the hub")]
    Offline {
        /// The address.
        url: String,
    },
    /// The server did not respond, or not with what was asked for, as often as it was asked.
    #[error("{url}: {message}; tried {tries} times")]
    Unreachable {
        /// The address.
        url: String,
        /// What happened the last time.
        message: String,
        /// How often it was asked in vain.
        tries: u32,
    },
    /// What arrives is not what was promised, as often as it was fetched.
    #[error("{url}: its {what} differs: expected {expected}, found {found}; fetched {tries} times")]
    Differs {
        /// The address.
        url: String,
        /// Length, ETag or SHA-256.
        what: &'static str,
        /// What was promised.
        expected: String,
        /// What arrived.
        found: String,
        /// How often it was fetched.
        tries: u32,
    },
    /// It does not fit into the cache.
    #[error("{url}: it has {bytes} bytes; the cache {} has room for {room}", cache.display())]
    NoRoom {
        /// The address.
        url: String,
        /// Its length.
        bytes: u64,
        /// Where shards are kept.
        cache: PathBuf,
        /// Bytes that may be kept there, or that are left.
        room: u64,
    },
    /// The cache cannot be read or written.
    #[error("{url}: it could not be kept in {}: {message}", cache.display())]
    Cache {
        /// The address.
        url: String,
        /// Where shards are kept.
        cache: PathBuf,
        /// The operating system's error.
        message: String,
    },
    /// Neither an environment variable nor a home directory names a place to keep shards in.
    #[error(
        "no directory for the cache: neither MICRODIT_CACHE nor HF_HOME nor the user's home directory is known"
    )]
    NoHome,
}
