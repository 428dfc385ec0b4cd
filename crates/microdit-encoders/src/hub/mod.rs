//! Published models from the Hugging Face hub, into the cache all its programs share.
//!
//! `HF_HOME` names the cache's directory, `HF_ENDPOINT` a mirror, `HF_TOKEN` the reader of private models,
//! `HF_HUB_DOWNLOAD_TIMEOUT` the seconds a server may be silent, and with `HF_HUB_OFFLINE=1` nothing is downloaded.

mod cache;
mod client;
mod download;
mod error;
mod published;

pub use download::Report;
pub use error::HubError;
pub use published::{PUBLISHED, Published, published};

use cache::{Cache, is_plain};
use client::Client;
use download::download;
use std::path::{Path, PathBuf};

/// The path `name` stands for: itself if it exists, or else a published model in the cache, its directory or its file if
/// it consists of one.
///
/// # Errors
/// If there is neither.
pub fn locate(name: &Path) -> Result<PathBuf, HubError> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    let name = name.to_string_lossy().into_owned();
    let Some(model) = published(&name) else {
        return Err(HubError::Unknown { name });
    };
    let cached = Cache::from_env()?.model(model.repository);
    let files: Option<Vec<PathBuf>> = model.files.iter().map(|file| cached.get(file)).collect();
    let files = files.ok_or(HubError::NotFetched { name })?;
    Ok(model.place(&files))
}

/// The directory that models are kept in, whether it exists or not.
///
/// # Errors
/// If nothing names one and the user has no home.
pub fn folder() -> Result<PathBuf, HubError> {
    Ok(Cache::from_env()?.folder())
}

/// Whether `HF_HUB_OFFLINE` forbids downloads.
pub fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}

/// Downloads `files` of a repository unless they are in the cache, verifies each against the hub's checksum, and returns
/// where they lie. An interrupted download is resumed, at once or by the next call.
///
/// # Errors
/// An unreachable hub, a missing file, a file that arrives damaged.
pub fn fetch(
    repository: &str,
    files: &[&str],
    report: &mut impl Report,
) -> Result<Vec<PathBuf>, HubError> {
    let plain = |part: &str| is_plain(part) && !part.contains('/');
    if repository.split('/').count() > 2 || !repository.split('/').all(plain) {
        return Err(HubError::NoName {
            name: repository.to_owned(),
            expected: "model of the hub; those are named OWNER/NAME",
        });
    }
    let cache = Cache::from_env()?;
    let cached = cache.model(repository);
    let client = Client::from_env(&cache);
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        if !is_plain(file) {
            return Err(HubError::NoName {
                name: (*file).to_owned(),
                expected: "path within a model",
            });
        }
        if let Some(path) = cached.get(file) {
            paths.push(path);
            continue;
        }
        if is_offline() {
            return Err(HubError::Offline {
                repository: repository.to_owned(),
                file: (*file).to_owned(),
            });
        }
        paths.push(download(&client, &cached, repository, file, report)?);
    }
    Ok(paths)
}
