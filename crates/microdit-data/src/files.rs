//! Files of a dataset: their names, and what is kept in JSON.

use crate::error::DataError;
use microdit::atomic_file;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The last part of a path, for messages and lists.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
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
