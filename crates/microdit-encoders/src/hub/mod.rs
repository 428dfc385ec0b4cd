//! Published models from the Hugging Face hub, into the cache all its programs share; and models of one's own onto the hub.
//!
//! `HF_HOME` names the cache's directory, `HF_ENDPOINT` a mirror, `HF_TOKEN` the reader of private models and the writer of one's own,
//! `HF_HUB_DOWNLOAD_TIMEOUT` the seconds a server may be silent, and with `HF_HUB_OFFLINE=1` nothing is downloaded.

mod cache;
mod client;
mod download;
mod error;
mod lfs;
mod published;
mod upload;

pub use download::Report;
pub use error::HubError;
pub use microdit::hub_env::is_offline;
pub use published::{Draws, PUBLISHED, Published, published};
pub use upload::{Uploaded, upload};

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
    cached(model)?.ok_or(HubError::NotFetched { name })
}

/// Where a model lies in the cache, if all of it is there.
fn cached(model: &Published) -> Result<Option<PathBuf>, HubError> {
    let cache = Cache::from_env()?;
    let found = model.repositories.iter().find_map(|repository| {
        let cached = cache.model(repository);
        let files = model.files.iter().map(|file| cached.get(file));
        files.collect::<Option<Vec<PathBuf>>>()
    });
    Ok(found.map(|files| model.place(&files)))
}

/// Downloads a model that has a name of its own, from the first of its repositories that has all of its files; what the hub says
/// about those that were tried before goes to `refused`. What is in the cache is kept.
///
/// # Errors
/// If no repository has it: what the last one said.
pub fn fetch_published(
    model: &Published,
    report: &mut impl Report,
    mut refused: impl FnMut(&HubError),
) -> Result<PathBuf, HubError> {
    if let Some(there) = cached(model)? {
        return Ok(there);
    }
    let mut repositories = model.repositories.iter().peekable();
    loop {
        let repository = repositories.next().copied().unwrap_or_default();
        match fetch(repository, model.files, report) {
            Ok(files) => return Ok(model.place(&files)),
            Err(error @ HubError::Download { refused: true, .. })
                if repositories.peek().is_some() =>
            {
                refused(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The directory that models are kept in, whether it exists or not.
///
/// # Errors
/// If nothing names one and the user has no home.
pub fn folder() -> Result<PathBuf, HubError> {
    Ok(Cache::from_env()?.folder())
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
    if repository.split('/').count() > 2 || !repository.split('/').all(is_part) {
        return Err(no_repository(repository));
    }
    let cache = Cache::from_env()?;
    let cached = cache.model(repository);
    let client = Client::from_env();
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

/// Whether it may be one of the two parts of a repository's name.
fn is_part(part: &str) -> bool {
    is_plain(part) && !part.contains('/')
}

fn no_repository(name: &str) -> HubError {
    HubError::NoName {
        name: name.to_owned(),
        expected: "model of the hub; those are named OWNER/NAME",
    }
}
