//! One object of a store, as a file of the cache.

use super::{
    cache::Wanted,
    download::{Described, Fault, wait_for},
    error::RemoteError,
    site::Site,
};
use crate::shard_file::pieces;
use microdit::checksum::hexadecimal;
use object_store::path::Path as ObjectPath;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Seek},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Times an object is fetched whose checksum is wrong.
const TRIES: u32 = 3;

/// An object that was found.
#[derive(Debug)]
pub(crate) struct Object {
    url: PathBuf,
    /// What the cache knows it by.
    identity: String,
    site: Arc<Site>,
    path: ObjectPath,
    described: Described,
    /// Whether it is on its way.
    ahead: AtomicBool,
}

impl Object {
    /// The object at `path` of a site.
    pub(super) fn new(
        site: &Arc<Site>,
        path: &str,
        described: Described,
    ) -> Result<Self, RemoteError> {
        Ok(Self {
            url: PathBuf::from(site.url_of(path)),
            identity: site.identity_of(path),
            path: site.path(path)?,
            site: Arc::clone(site),
            described,
            ahead: AtomicBool::new(false),
        })
    }

    /// The same, of which an index says that it has this checksum.
    pub(super) fn with_sha256(mut self, sha256: Option<&str>) -> Self {
        if let Some(sha256) = sha256 {
            self.described.sha256 = Some(sha256.to_ascii_lowercase());
        }
        self
    }

    /// Its address, in the form of a path.
    pub(crate) fn url(&self) -> &Path {
        &self.url
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        self.described.bytes
    }

    /// Its checksum, if it is promised.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.described.sha256.as_deref()
    }

    /// The file in the cache; it is fetched unless it is there.
    pub(crate) fn open(&self) -> Result<File, RemoteError> {
        self.site.cache.open(self.wanted(), |file| self.fetch(file))
    }

    /// Fetches it in the background, unless that has begun.
    pub(crate) fn prefetch(self: &Arc<Self>) {
        if self.ahead.swap(true, Ordering::Relaxed) {
            return;
        }
        let object = Arc::clone(self);
        thread::spawn(move || {
            if let Err(error) = object.open() {
                tracing::debug!("{error}; it is fetched when its turn comes");
            }
            object.ahead.store(false, Ordering::Relaxed);
        });
    }

    /// The bytes in these ranges, out of the cache or alone.
    pub(crate) fn pieces(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, RemoteError> {
        let cached =
            |mut file: File| pieces(&mut file, ranges).map_err(|error| self.unwritten(&error));
        if let Some(file) = self.site.cache.get(self.wanted()) {
            return cached(file);
        }
        let url = self.identity_url();
        let asked = self.site.asked(&url, &self.path);
        let piece = |range: Range<u64>| {
            let asked = &asked;
            async move {
                let end = range.end.min(self.described.bytes);
                let found = Mutex::new(Vec::new());
                let take = |_, bytes: &[u8]| -> io::Result<()> {
                    if let Ok(mut found) = found.lock() {
                        found.extend_from_slice(bytes);
                    }
                    Ok(())
                };
                asked
                    .range(&self.described, range.start.min(end)..end, take)
                    .await?;
                Ok(found.into_inner().unwrap_or_default())
            }
        };
        let all = futures_util::future::try_join_all(ranges.iter().cloned().map(piece));
        match wait_for(all) {
            Ok(pieces) => Ok(pieces),
            Err(Fault::NoRanges) => cached(self.open()?),
            Err(fault) => Err(fault.after(&url, asked.config.retries + 1)),
        }
    }

    /// Writes it to a file of its length, and returns its checksum.
    fn fetch(&self, file: &File) -> Result<String, RemoteError> {
        let url = self.identity_url();
        let asked = self.site.asked(&url, &self.path);
        let mut tries = 1;
        loop {
            wait_for(asked.all(&self.described, &|at, bytes| write_at(file, at, bytes)))?;
            let found = sha256(file).map_err(|error| self.unwritten(&error))?;
            let expected = match &self.described.sha256 {
                Some(expected) if *expected != found => expected,
                _ => return Ok(found),
            };
            if tries == TRIES {
                return Err(RemoteError::Differs {
                    url,
                    what: "SHA-256",
                    expected: expected.clone(),
                    found,
                    tries,
                });
            }
            tracing::warn!(
                "{url}: its SHA-256 is {found}; expected {expected}; it is fetched again"
            );
            tries += 1;
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        let (etag, sha256) = (self.described.etag.as_deref(), self.sha256());
        let alone = etag.is_none() && sha256.is_none();
        Wanted {
            url: &self.identity,
            bytes: self.described.bytes,
            etag,
            modified: self.described.modified.filter(|_| alone),
            sha256,
        }
    }

    fn identity_url(&self) -> String {
        self.url.to_string_lossy().into_owned()
    }

    fn unwritten(&self, error: &io::Error) -> RemoteError {
        RemoteError::Cache {
            url: self.identity_url(),
            cache: self.site.config.cache.clone(),
            message: error.to_string(),
        }
    }
}

/// Writes at a place of a file, whatever other threads write elsewhere.
#[cfg(unix)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

/// The same on Windows, which writes a part at a time.
#[cfg(windows)]
fn write_at(file: &File, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        bytes = &bytes[count..];
        at += count as u64;
    }
    Ok(())
}

fn sha256(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut digest)?;
    Ok(hexadecimal(&digest.finalize()))
}
