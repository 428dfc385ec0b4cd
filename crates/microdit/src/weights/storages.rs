//! Where the memory of tensors lies in a file of `torch.save`.

use super::{archive::Archive, legacy::Legacy};

/// The storages of a file, by their keys.
#[derive(Debug)]
pub(super) enum Storages {
    /// Entries of an archive, under a prefix.
    Zip(Archive, String),
    /// One after the other behind the pickles.
    Legacy(Legacy),
}

impl Storages {
    /// Bytes of the whole file.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Zip(archive, _) => archive.length(),
            Self::Legacy(file) => file.length(),
        }
    }

    /// The bytes of a storage.
    ///
    /// # Errors
    /// If there is none of that key, or it is damaged.
    pub(super) fn read(&mut self, key: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Zip(archive, prefix) => archive.read(&format!("{prefix}data/{key}")),
            Self::Legacy(file) => file.read(key),
        }
    }
}
