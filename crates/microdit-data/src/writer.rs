//! Shards out: tars that are there whole or not at all, and the index that lists them.

use crate::sample::DataError;
use microdit::write_whole;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// What lists the shards of a directory we wrote; MDS has an `index.json` of its own.
pub(crate) const INDEX: &str = "shards.json";

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
    /// The shards.
    pub shards: Vec<ShardReport>,
}

impl DatasetIndex {
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
            shards,
        }
    }

    /// The index of `folder`, if it has one.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, DataError> {
        let path = folder.join(INDEX);
        if !path.is_file() {
            return Ok(None);
        }
        read_json(&path).map(Some)
    }

    /// Writes it to `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        write_json(&folder.join(INDEX), self)
    }
}

/// A tar that is being written beside its final place.
pub(crate) struct ShardWriter {
    path: PathBuf,
    part: PathBuf,
    tar: tar::Builder<Hashed<BufWriter<File>>>,
    samples: u64,
}

impl ShardWriter {
    pub(crate) fn create(path: &Path) -> Result<Self, DataError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(DataError::io(&part))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            tar: tar::Builder::new(Hashed::new(BufWriter::new(file))),
            samples: 0,
        })
    }

    /// Adds a sample of the given members, extension and content. The tar depends on them alone: no times, no owners.
    pub(crate) fn add(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<(), DataError> {
        for (extension, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            let name = format!("{key}.{extension}");
            let added = self.tar.append_data(&mut header, name, *content);
            added.map_err(DataError::io(&self.part))?;
        }
        self.samples += 1;
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.tar.get_ref().bytes
    }

    /// Removes what has been written.
    pub(crate) fn abandon(self) {
        // Left behind, it would be overwritten.
        let _ = std::fs::remove_file(&self.part);
    }

    /// Flushes the tar to the disk and moves it to its place.
    pub(crate) fn finish(self, rejected: BTreeMap<String, u64>) -> Result<ShardReport, DataError> {
        let finish = || -> io::Result<(u64, String)> {
            let mut hashed = self.tar.into_inner()?;
            hashed.flush()?;
            hashed.inner.get_ref().sync_all()?;
            std::fs::rename(&self.part, &self.path)?;
            Ok((hashed.bytes, hexadecimal(hashed.digest)))
        };
        let (bytes, sha256) = finish().map_err(DataError::io(&self.path))?;
        Ok(ShardReport {
            file: self
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            samples: self.samples,
            bytes,
            sha256,
            rejected,
        })
    }
}

/// Length and SHA-256 of a file.
pub(crate) fn checksum(path: &Path) -> io::Result<(u64, String)> {
    let mut digest = Sha256::new();
    let bytes = io::copy(&mut File::open(path)?, &mut digest)?;
    Ok((bytes, hexadecimal(digest)))
}

fn hexadecimal(digest: Sha256) -> String {
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts and hashes what passes through.
struct Hashed<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A key that is safe as a name in a tar, and free of the dot that ends a key.
pub(crate) fn safe_key(key: &str) -> String {
    key.chars()
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '-' | '_') {
                c
            } else {
                '_'
            }
        })
        .collect()
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, DataError> {
    let text = std::fs::read_to_string(path).map_err(DataError::io(path))?;
    serde_json::from_str(&text).map_err(|error| DataError::unreadable(path, &error))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let text = serde_json::to_string_pretty(value).expect("keys are texts");
    write_whole(path, |part| std::fs::write(part, text + "\n")).map_err(DataError::io(path))
}

/// A NumPy file of 16-bit floats.
pub(crate) fn npy_of_halves(values: &[f32], shape: &[usize]) -> Vec<u8> {
    let mut file = Vec::with_capacity(128 + 2 * values.len());
    let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
    let write = |file: &mut Vec<u8>| -> io::Result<()> {
        use npyz::WriterBuilder as _;
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(file)
            .begin_nd()?;
        writer.extend(values.iter().map(|&value| half::f16::from_f32(value)))?;
        writer.finish()
    };
    write(&mut file).expect("memory can be written");
    file
}
