//! Files of a dataset: their names, checksums, and what is kept in JSON.

use crate::error::DataError;
use microdit::atomic_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fs::File, io, path::Path};

/// The last part of a path, for messages and lists.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Length and SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn checksum(path: &Path) -> io::Result<(u64, String)> {
    let mut digest = Sha256::new();
    let bytes = io::copy(&mut File::open(path)?, &mut digest)?;
    Ok((bytes, hexadecimal(digest)))
}

/// The digest in lower-case hexadecimal.
pub fn hexadecimal(digest: Sha256) -> String {
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a value from a file of JSON.
///
/// # Errors
/// A file that cannot be read or does not parse; the error names it.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, DataError> {
    let text = std::fs::read_to_string(path).map_err(DataError::io(path))?;
    serde_json::from_str(&text).map_err(|error| DataError::unreadable(path, &error))
}

/// Writes a value as indented JSON, atomically.
///
/// # Errors
/// If the file cannot be written.
///
/// # Panics
/// If a map has keys that are not strings.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let text = serde_json::to_string_pretty(value).expect("keys are texts");
    atomic_file::write(path, |part| std::fs::write(part, text + "\n")).map_err(DataError::io(path))
}
