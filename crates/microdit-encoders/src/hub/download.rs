//! Downloads one file from the hub into the cache: it gets its name only once complete and verified.

use super::{
    cache::Model,
    client::{Client, Described, Failure},
    error::HubError,
};
use microdit::checksum::hexadecimal;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// What a download reports.
pub trait Report {
    /// A file of this many bytes begins.
    fn begin(&mut self, file: &str, bytes: u64);
    /// This many bytes have arrived, or were there already.
    fn advance(&mut self, bytes: u64);
}

/// Disconnects in a row without a new byte before a download is given up.
const MAX_BREAKS: u32 = 4;

/// Downloads a file, resuming where a connection broke, and returns its path.
pub(super) fn download(
    client: &Client,
    cached: &Model,
    repository: &str,
    file: &str,
    report: &mut impl Report,
) -> Result<PathBuf, HubError> {
    let failed = |failure: Failure| {
        let refused = matches!(failure, Failure::Final(_));
        let (Failure::Final(error) | Failure::Broken(error)) = failure;
        HubError::Download {
            repository: repository.to_owned(),
            file: file.to_owned(),
            error,
            refused,
        }
    };
    let described = patiently(|| client.describe(repository, file)).map_err(failed)?;
    let Described {
        checksum, commit, ..
    } = &described;
    let _lock = cached.lock(checksum)?;
    let blob = cached.blob(checksum);
    if !blob.is_file() {
        let part = blob.with_extension("part");
        let io = |error| HubError::io(&part)(error);
        if length(&part) == described.size && differs(&part, checksum).map_err(io)?.is_some() {
            // Complete but wrong: the process ended before it was verified.
            fs::remove_file(&part).map_err(io)?;
        }
        report.begin(file, described.size);
        report.advance(length(&part).min(described.size));
        let get = || receive(client, repository, file, &part, described.size, report);
        get_all(get, &part, described.size).map_err(failed)?;
        if let Some(found) = differs(&part, checksum).map_err(io)? {
            fs::remove_file(&part).map_err(io)?;
            return Err(HubError::Damaged {
                repository: repository.to_owned(),
                file: file.to_owned(),
                expected: checksum.clone(),
                found,
            });
        }
        File::open(&part)
            .and_then(|part| part.sync_all())
            .map_err(io)?;
        fs::rename(&part, &blob).map_err(HubError::io(&blob))?;
    }
    cached.link(file, checksum, commit)
}

/// Retries until there is a response, or no point in retrying.
pub(super) fn patiently<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut breaks = 0;
    loop {
        match ask() {
            Err(Failure::Broken(_)) if breaks < MAX_BREAKS => {
                breaks += 1;
                thread::sleep(Duration::from_millis(200 << breaks));
            }
            answer => return answer,
        }
    }
}

/// Receives until the file is complete; partial content is kept in any case.
fn get_all(
    mut receive: impl FnMut() -> Result<(), Failure>,
    part: &Path,
    size: u64,
) -> Result<(), Failure> {
    while length(part) < size {
        let before = length(part);
        // Every byte resets the count of disconnects.
        patiently(|| match receive() {
            Err(Failure::Broken(_)) if length(part) > before => Ok(()),
            other => other,
        })?;
        if length(part) == before {
            return Err(Failure::Broken("the server sends nothing".into()));
        }
    }
    // An empty file arrives without a byte.
    let there = File::options().create(true).append(true).open(part);
    there
        .map(drop)
        .map_err(|error| Failure::Final(error.to_string()))
}

/// Appends to what is there.
fn receive(
    client: &Client,
    repository: &str,
    file: &str,
    part: &Path,
    size: u64,
    report: &mut impl Report,
) -> Result<(), Failure> {
    let local = |error: io::Error| Failure::Final(format!("{}: {error}", part.display()));
    if length(part) > size {
        fs::remove_file(part).map_err(local)?;
    }
    let begin = length(part);
    let (mut body, from_start) = client.content(repository, file, begin, size)?;
    let mut options = File::options();
    let mut out = if from_start {
        options.create(true).write(true).truncate(true).open(part)
    } else {
        options.create(true).append(true).open(part)
    }
    .map_err(local)?;
    let mut rest = if from_start { size } else { size - begin };
    let mut reader = body.as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = reader.read(&mut buffer);
        let count = read.map_err(|error| Failure::Broken(error.to_string()))?;
        if count == 0 && rest > 0 {
            return Err(Failure::Broken(format!(
                "the connection ended {rest} bytes early"
            )));
        }
        if count == 0 {
            return Ok(());
        }
        if count as u64 > rest {
            return Err(Failure::Final(format!(
                "the server sends more than the {size} bytes it announced"
            )));
        }
        out.write_all(&buffer[..count]).map_err(local)?;
        rest -= count as u64;
        report.advance(count as u64);
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// The checksum of a file, if it is not the `expected` one: SHA-256 of large files, git's SHA-1 of small ones. A mirror's own
/// marks say nothing about the content.
fn differs(path: &Path, expected: &str) -> io::Result<Option<String>> {
    let found = match expected.len() {
        64 => hash(Sha256::new(), path)?,
        40 => {
            let header = format!("blob {}\0", length(path));
            hash(Sha1::new_with_prefix(header), path)?
        }
        _ => return Ok(None),
    };
    Ok((found != expected).then_some(found))
}

fn hash<D: Digest + io::Write>(mut digest: D, path: &Path) -> io::Result<String> {
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(hexadecimal(&digest.finalize()))
}
