//! The index of the shards of a dataset that was written here.

use crate::{error::DataError, files::write_json};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// What a shard holds, and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its file, beside the index.
    pub file: String,
    /// Samples in it.
    pub samples: u64,
    /// Its length.
    pub bytes: u64,
    /// Its checksum, in hexadecimal.
    pub sha256: String,
    /// Samples that were left out, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The index of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetIndex {
    /// Samples in all shards.
    pub samples: u64,
    /// Length of all shards.
    pub bytes: u64,
    /// Samples that were left out, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// What a sample consists of.
    pub contents: serde_json::Value,
    /// Why samples of the source are missing, if any are: it could not be read to its end, or the work was interrupted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// The shards.
    pub shards: Vec<ShardReport>,
}

/// The checksums that the text of an index lists, by the names of the shards; none if it is no index.
pub(crate) fn checksums(text: &[u8]) -> BTreeMap<String, String> {
    let index = serde_json::from_slice::<DatasetIndex>(text);
    let shards = index.map_or_else(|_| Vec::new(), |index| index.shards);
    shards
        .into_iter()
        .map(|shard| (shard.file, shard.sha256))
        .collect()
}

impl DatasetIndex {
    /// The file it is read from and written to, in the directory of the shards; MDS has an `index.json` of its own.
    pub const FILE: &str = "shards.json";

    /// The index of `shards`, whose samples consist of `contents`.
    pub fn new(shards: Vec<ShardReport>, contents: serde_json::Value) -> Self {
        let mut rejected = BTreeMap::new();
        for (reason, count) in shards.iter().flat_map(|shard| &shard.rejected) {
            *rejected.entry(reason.clone()).or_default() += count;
        }
        Self {
            samples: shards.iter().map(|shard| shard.samples).sum(),
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
            rejected,
            contents,
            lacks: Vec::new(),
            shards,
        }
    }

    /// Writes it to `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        write_json(&folder.join(Self::FILE), self)
    }
}
