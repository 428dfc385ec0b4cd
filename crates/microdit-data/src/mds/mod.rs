//! Shards of MosaicML Streaming ("MDS", version 2), plain or compressed with zstd, read in place.
//!
//! A shard holds the number of its samples, where each begins, and then for each sample the lengths of its columns of
//! variable length followed by all columns.

#![deny(clippy::arithmetic_side_effects)]

mod index;

use crate::{error::DataError, shard_file::ShardFile};
pub(crate) use index::Entry;
use index::Index;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

/// The file that lists the shards of a directory.
pub(crate) const INDEX: &str = "index.json";

/// A shard and the columns of its samples.
#[derive(Clone, Debug)]
pub struct MdsShard {
    /// The file there is: compressed, if it was.
    source: ShardFile,
    entry: Arc<Entry>,
}

/// A sample's columns by name.
#[derive(Clone, Debug, PartialEq)]
pub struct MdsSample {
    names: Arc<[String]>,
    columns: Vec<Vec<u8>>,
}

impl MdsShard {
    /// The shards the index in `folder` lists.
    ///
    /// # Errors
    /// An unreadable or foreign index, and shards in an unknown form.
    pub fn list(folder: &Path) -> Result<Vec<Self>, DataError> {
        let path = folder.join(INDEX);
        let text =
            std::fs::read_to_string(&path).map_err(|error| DataError::unreadable(&path, &error))?;
        Self::parse(&text, folder).map_err(|message| DataError::unreadable(&path, &message))
    }

    /// The shards of an index with this text, which lie in `folder`.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn parse(index: &str, folder: &Path) -> Result<Vec<Self>, String> {
        let entries = Self::entries(index)?.into_iter();
        let shard = |entry: Arc<Entry>| {
            let source = ShardFile::local(folder.join(entry.file()));
            Self { source, entry }
        };
        Ok(entries.map(shard).collect())
    }

    /// The entries of an index with this text, all of which can be read.
    pub(crate) fn entries(index: &str) -> Result<Vec<Arc<Entry>>, String> {
        let index: Index = serde_json::from_str(index).map_err(|error| error.to_string())?;
        if index.version != 2 {
            return Err(format!("version {}; expected 2", index.version));
        }
        let checked = |entry: Entry| {
            entry.check()?;
            Ok(Arc::new(entry))
        };
        index.shards.into_iter().map(checked).collect()
    }

    /// The shard that an entry of an index describes.
    #[cfg(feature = "remote")]
    pub(crate) fn new(source: ShardFile, entry: Arc<Entry>) -> Self {
        Self { source, entry }
    }

    /// The file.
    pub fn source(&self) -> &ShardFile {
        &self.source
    }

    /// The same file, as an index beside it knows it.
    pub(crate) fn source_mut(&mut self) -> &mut ShardFile {
        &mut self.source
    }

    /// Its file as the index names it: with its directory, where indexes were merged.
    pub(crate) fn file(&self) -> &str {
        self.entry.file()
    }

    /// Samples the index says it has.
    pub fn samples(&self) -> usize {
        self.entry.samples as usize
    }

    /// Names of its columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.entry.column_names.iter().map(String::as_str)
    }

    /// How a column is encoded: `jpeg`, `str`, ...; empty if the index does not say.
    pub(crate) fn encoding(&self, column: &str) -> &str {
        let place = self.columns().position(|name| name == column);
        let encoding = place.and_then(|place| self.entry.column_encodings.get(place));
        // What follows a colon are shape and type of arrays.
        encoding.map_or("", |encoding| {
            encoding.split(':').next().unwrap_or_default()
        })
    }

    /// Reads all samples.
    ///
    /// # Errors
    /// A file that is missing, truncated, or not as the index describes it.
    pub fn read(&self) -> Result<Vec<MdsSample>, DataError> {
        let unreadable =
            |error: &dyn std::fmt::Display| DataError::unreadable(self.source.place(), error);
        let bytes = self
            .bytes(self.source.open()?)
            .map_err(|error| unreadable(&error))?;
        let samples = self.samples_of(&bytes);
        samples.map_err(|message| unreadable(&message))
    }

    /// The samples of the shard, given its bytes, decompressed.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn samples_of(&self, bytes: &[u8]) -> Result<Vec<MdsSample>, String> {
        self.entry.split(bytes)
    }

    /// The shard as it was before compression, at most as long as the index says.
    fn bytes(&self, file: File) -> io::Result<Vec<u8>> {
        let length = self.entry.raw_data.bytes;
        // Offsets in a shard have 32 bits; and nothing worth training on compresses a thousandfold.
        let most = file
            .metadata()?
            .len()
            .saturating_mul(1000)
            .min(u32::MAX.into());
        if length > most {
            return Err(io::Error::other(format!(
                "its index says that it has {length} bytes; expected at most {most} for a file of this size"
            )));
        }
        let mut bytes = Vec::new();
        if self.entry.zip_data.is_some() {
            let decoder = ruzstd::decoding::StreamingDecoder::new(io::BufReader::new(file));
            let decoder = decoder.map_err(io::Error::other)?;
            decoder
                .take(length.saturating_add(1))
                .read_to_end(&mut bytes)?;
        } else {
            file.take(length.saturating_add(1))
                .read_to_end(&mut bytes)?;
        }
        if bytes.len() as u64 != length {
            let found = if bytes.len() as u64 > length {
                "more"
            } else {
                "fewer"
            };
            return Err(io::Error::other(format!(
                "it has {found} bytes than the {length} of the index: it is damaged, or from another dataset"
            )));
        }
        Ok(bytes)
    }
}

impl MdsSample {
    /// The bytes of a column.
    pub fn get(&self, column: &str) -> Option<&[u8]> {
        self.columns()
            .find(|(name, _)| *name == column)
            .map(|(_, bytes)| bytes)
    }

    /// Names and bytes of all columns.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let names = self.names.iter().map(String::as_str);
        names.zip(self.columns.iter().map(Vec::as_slice))
    }
}

impl Entry {
    /// The samples of a shard.
    fn split(&self, shard: &[u8]) -> Result<Vec<MdsSample>, String> {
        let word = |at: usize| -> Option<usize> {
            let bytes = shard.get(at..at.checked_add(4)?)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let short = || "it ends within its table of samples".to_owned();
        let count = word(0).ok_or_else(short)?;
        if count != self.samples as usize {
            return Err(format!(
                "it has {count} samples; its index says {}",
                self.samples
            ));
        }
        // Where sample `i` begins, and the one before it ends: after the number of samples.
        let entry = |i: usize| word(i.checked_add(1)?.checked_mul(4)?);
        let names: Arc<[String]> = self.column_names.as_slice().into();
        let sample = |i: usize| {
            let (begin, end) = entry(i).zip(entry(i.saturating_add(1))).ok_or_else(short)?;
            let bytes = shard.get(begin..end).ok_or_else(|| {
                format!("sample {i} lies at {begin}..{end} of {} bytes", shard.len())
            })?;
            let columns = self.columns(bytes, &names);
            columns.ok_or_else(|| format!("the columns of sample {i} are longer than it"))
        };
        // Not allocated up front: the count is only the file's claim.
        (0..count).map(sample).collect()
    }

    /// The columns of a sample.
    fn columns(&self, mut sample: &[u8], names: &Arc<[String]>) -> Option<MdsSample> {
        let mut lengths = Vec::with_capacity(self.column_sizes.len());
        for size in &self.column_sizes {
            lengths.push(match size {
                Some(size) => *size,
                None => {
                    let (length, rest) = sample.split_first_chunk()?;
                    sample = rest;
                    u32::from_le_bytes(*length)
                }
            });
        }
        let mut columns = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (bytes, rest) = sample.split_at_checked(length as usize)?;
            sample = rest;
            columns.push(bytes.to_vec());
        }
        let names = names.clone();
        Some(MdsSample { names, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::rng::{Purpose, Stream};
    use std::path::PathBuf;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens")
            .join(name)
    }

    fn read(folder: &Path) -> Result<Vec<MdsSample>, DataError> {
        let shards = MdsShard::list(folder)?;
        let samples: Result<Vec<_>, _> = shards.iter().map(MdsShard::read).collect();
        Ok(samples?.concat())
    }

    #[test]
    fn plain_and_compressed_shards_are_read() {
        for (name, count) in [("mds_plain", 24), ("mds_zstd", 24)] {
            let samples = read(&golden(name)).unwrap();
            assert_eq!(samples.len(), count);
            for sample in samples {
                assert_eq!(sample.get("latents_256").unwrap().len(), 4 * 16 * 16 * 2);
                assert!(sample.get("latents_512").is_none());
            }
        }
    }

    /// Whatever bytes change or are missing: an error or other samples, never a panic.
    #[test]
    fn damage_is_an_error_or_harmless() {
        let shard = &MdsShard::list(&golden("mds_plain")).unwrap()[0];
        let whole = shard.bytes(shard.source.open().unwrap()).unwrap();
        let mut random = Stream::new(1, Purpose::Shuffle, 0, 0);
        let mut errors = 0;
        for _ in 0..2000 {
            let mut damaged = whole.clone();
            // Mostly in the lengths and places.
            for _ in 0..2 {
                let range = if random.below(10) < 7 {
                    40
                } else {
                    damaged.len()
                };
                damaged[random.below(range)] = random.below(256) as u8;
            }
            if random.below(5) == 0 {
                damaged.truncate(random.below(whole.len()));
            }
            errors += usize::from(shard.entry.split(&damaged).is_err());
        }
        assert!(errors > 500, "only {errors} of 2000 were noticed");
    }

    #[test]
    fn foreign_indices_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(golden("mds_zstd").join(INDEX)).unwrap();
        for (from, to, expected) in [
            (
                "\"version\": 2}",
                "\"version\": 3}",
                "version 3; expected 2",
            ),
            (
                "zstd:7",
                "br:11",
                "compressed with br; expected none or zstd",
            ),
            ("\"mds\"", "\"jsonl\"", "format jsonl"),
            (
                "shard.00001.mds.zstd",
                "../shard.00001.mds.zstd",
                "under its index",
            ),
            ("shard.00001.mds.zstd", "/etc/passwd", "under its index"),
            ("{\"shards\"", "{\"parts\"", "shards"),
            ("\"latents_256\"", "\"caption\"", "two columns caption"),
        ] {
            // The version of the index as a whole comes last.
            let changed = match from.starts_with("\"version") {
                true => format!("{}{to}", text.trim_end().strip_suffix(from).unwrap()),
                false => text.replace(from, to),
            };
            std::fs::write(folder.path().join(INDEX), changed).unwrap();
            let error = MdsShard::list(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("index.json") && error.contains(expected),
                "{error}"
            );
        }
    }

    /// The memory for a shard is bounded by its length, whatever its index claims.
    #[test]
    fn enormous_claims_are_refused() {
        let index = |columns: &str, sizes: &str, bytes: u64, zip: &str| {
            format!(
                r#"{{"version": 2, "shards": [{{"format": "mds", "column_names": {columns}, "column_sizes": {sizes}, "compression": {zip},
                "samples": 4294967295, "raw_data": {{"basename": "a", "bytes": {bytes}}}, "zip_data": null}}]}}"#
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let file = [&u32::MAX.to_le_bytes()[..], &64u32.to_le_bytes().repeat(15)].concat();
        std::fs::write(folder.path().join("a"), &file).unwrap();
        for (text, expected) in [
            (index("[\"a\"]", "[0]", 64, "null"), "column a has 0 bytes"),
            (
                index("[\"a\"]", "[4294967295]", 64, "null"),
                "columns of sample 0 are longer",
            ),
            (
                index("[]", "[]", 64, "null"),
                "ends within its table of samples",
            ),
            (
                index("[\"a\"]", "[null]", u64::MAX, "null"),
                "expected at most 64000",
            ),
            (
                index("[\"a\"]", "[null]", 64, "\"zstd\""),
                "compressed with zstd",
            ),
        ] {
            std::fs::write(folder.path().join(INDEX), text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}; expected {expected}");
        }
        // Megabytes of names, and as many samples as there is room for.
        let count = 100_000u32;
        let mut file = count.to_le_bytes().to_vec();
        let end = 4 * (count + 2);
        file.extend((0..=count).flat_map(|_| end.to_le_bytes()));
        std::fs::write(folder.path().join("a"), &file).unwrap();
        let names: Vec<String> = (0..200_000).map(|i| format!("\"column {i}\"")).collect();
        let sizes = vec!["1"; names.len()].join(",");
        let text = index(
            &format!("[{}]", names.join(",")),
            &format!("[{sizes}]"),
            file.len() as u64,
            "null",
        );
        std::fs::write(
            folder.path().join(INDEX),
            text.replace("4294967295", "100000"),
        )
        .unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("columns of sample 0 are longer"), "{error}");
    }

    #[test]
    fn truncated_shards_are_named() {
        for name in ["mds_plain", "mds_zstd"] {
            let folder = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(golden(name)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
            }
            let shard = MdsShard::list(folder.path()).unwrap()[1]
                .source
                .place()
                .to_owned();
            let bytes = std::fs::read(&shard).unwrap();
            std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("shard.00001.mds"), "{error}");
        }
    }
}
