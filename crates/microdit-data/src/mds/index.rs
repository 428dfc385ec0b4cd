//! The index of a directory of MDS shards: their files, and how their samples are laid out.

#![deny(clippy::arithmetic_side_effects)]

use serde::Deserialize;
use std::{
    collections::HashSet,
    path::{Component, Path},
};

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) version: u32,
    pub(super) shards: Vec<Entry>,
}

/// A shard in the index.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    pub(super) format: String,
    pub(super) column_names: Vec<String>,
    /// How each column is encoded: `jpeg`, `str`, ...
    #[serde(default)]
    pub(super) column_encodings: Vec<String>,
    /// Bytes of columns of fixed length.
    pub(super) column_sizes: Vec<Option<u32>>,
    pub(super) compression: Option<String>,
    pub(super) samples: u32,
    pub(super) raw_data: FileEntry,
    pub(super) zip_data: Option<FileEntry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FileEntry {
    pub(super) basename: String,
    pub(super) bytes: u64,
}

impl Entry {
    /// The file to read.
    pub(crate) fn file(&self) -> &str {
        let zipped = self.zip_data.as_ref();
        &zipped.unwrap_or(&self.raw_data).basename
    }

    /// Whether this is a shard we can read, in a file under its index.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.format != "mds" {
            return Err(format!("a shard has format {}; expected mds", self.format));
        }
        if self.column_names.len() != self.column_sizes.len() {
            return Err("a shard does not have as many column_sizes as column_names".into());
        }
        let mut names = HashSet::new();
        for (name, size) in self.column_names.iter().zip(&self.column_sizes) {
            if !names.insert(name) {
                return Err(format!("a shard has two columns {name}"));
            }
            // Every column takes some of a sample's bytes, so a shard's length bounds the memory it needs.
            if *size == Some(0) {
                return Err(format!("column {name} has 0 bytes"));
            }
        }
        // The algorithm, and after a colon its level.
        let compression = self
            .compression
            .as_deref()
            .map(|name| name.split(':').next());
        let file = match (&self.zip_data, compression.flatten()) {
            (None, None) => &self.raw_data,
            (Some(file), Some("zstd")) => file,
            (_, compression) => {
                return Err(format!(
                    "shards are compressed with {}; expected none or zstd",
                    compression.unwrap_or("an unnamed algorithm")
                ));
            }
        };
        let path = Path::new(&file.basename);
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if path.components().all(inside) && !file.basename.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{}: a shard must lie under its index",
                file.basename
            ))
        }
    }
}
