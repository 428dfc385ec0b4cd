//! Writes shards: tars that appear complete or not at all.

use crate::{
    archive, error::DataError, files::file_name, index::ShardReport, shard_file::ShardFile,
};
use microdit::checksum;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// A tar that is being written beside its final place; dropped before it is finished, it leaves nothing.
pub struct ShardWriter {
    path: PathBuf,
    part: PathBuf,
    tar: tar::Builder<Hashed<BufWriter<File>>>,
    samples: u64,
    /// Of the samples, to be compared with what is read back.
    listing: Listing,
}

impl ShardWriter {
    /// Begins a tar that will lie at `path`, as `path` with `.part` added.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(DataError::io(&part))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            tar: tar::Builder::new(Hashed::new(BufWriter::new(file))),
            samples: 0,
            listing: Listing::default(),
        })
    }

    /// Adds a sample of the given members, extension and content. The key must be one of [`key`](crate::key) that no other sample of
    /// the tar has. The tar depends on the samples alone: no times, no owners.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<(), DataError> {
        for (extension, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            let name = format!("{key}.{extension}");
            let added = self.tar.append_data(&mut header, name, *content);
            added.map_err(DataError::io(&self.part))?;
        }
        let lengths = members.iter().map(|(name, content)| (*name, content.len()));
        self.listing.add(key, lengths);
        self.samples += 1;
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.tar.get_ref().bytes
    }

    /// Samples written so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Flushes the tar to the disk, reads it back, and moves it to its place.
    ///
    /// # Errors
    /// If it cannot be written, or is not what was written.
    pub fn finish(mut self, rejected: BTreeMap<String, u64>) -> Result<ShardReport, DataError> {
        let io = |error| DataError::io(&self.path)(error);
        self.tar.finish().map_err(io)?;
        let written = self.tar.get_mut();
        written.flush().map_err(io)?;
        written.inner.get_ref().sync_all().map_err(io)?;
        let (bytes, sha256) = (
            written.bytes,
            checksum::hexadecimal(&written.digest.clone().finalize()),
        );
        self.read_back(bytes, &sha256)?;
        std::fs::rename(&self.part, &self.path).map_err(io)?;
        Ok(ShardReport {
            file: file_name(&self.path),
            samples: self.samples,
            bytes,
            sha256,
            rejected,
        })
    }

    /// Checks that the file holds the bytes that were written, and that the reader of shards finds the samples in it.
    fn read_back(&self, bytes: u64, sha256: &str) -> Result<(), DataError> {
        let different = |message: String| DataError::NotReadBack {
            path: self.path.clone(),
            message,
        };
        let (found, checksum) = checksum::of_file(&self.part).map_err(DataError::io(&self.part))?;
        if found != bytes || checksum != sha256 {
            return Err(different(format!(
                "{found} bytes with SHA-256 {checksum}; expected {bytes} with {sha256}"
            )));
        }
        let (mut samples, mut listing) = (0, Listing::default());
        archive::for_each(&ShardFile::local(self.part.clone()), |key, sample| {
            let lengths = sample.iter().flat_map(|sample| {
                let length = |name| Some((name, sample.get(name)?.as_bytes()?.len()));
                sample.keys().filter_map(length)
            });
            listing.add(key, lengths);
            samples += 1;
            true
        })
        .map_err(|error| different(error.reason()))?;
        if samples != self.samples || listing != self.listing {
            return Err(different(format!(
                "{samples} samples; expected {}, each with its own key and members",
                self.samples
            )));
        }
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // A finished shard has none. One left behind would be overwritten.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// A hash of a list of samples: keys, names of members and their lengths, in order.
#[derive(Default, PartialEq)]
struct Listing(u64);

impl Listing {
    fn add<'a>(&mut self, key: &str, members: impl Iterator<Item = (&'a str, usize)>) {
        let mut members: Vec<_> = members.collect();
        members.sort_unstable();
        let mut hasher = DefaultHasher::new();
        (self.0, key, members).hash(&mut hasher);
        self.0 = hasher.finish();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::{Unique, of_path},
        shards::{Members, Shards},
    };
    use microdit::rng::{Purpose, Stream};
    use std::collections::BTreeSet;

    /// File names as people and attackers choose them, and random ones of the same kind.
    fn nasty() -> Vec<String> {
        let long = "n".repeat(300) + ".jpg";
        let mut names: Vec<String> = [
            "a.b",
            "a_b",
            "x y",
            "x_y",
            "d/e",
            "d-e",
            "",
            "/",
            ".",
            "..",
            "../..",
            "/abs",
            "a//b",
            "./a",
            "a/.",
            "a/",
            "COCO.jpg",
            "COCO.png",
            "COCO.jpg",
            "COCO.jpg",
            "a%2Eb",
            "a%b",
            "a~2",
            "a",
            "a",
            "a",
            " a",
            "a ",
            "\t",
            "a\\b",
            "é",
            "e\u{301}",
            "画像",
            "__index__",
            "__x__/y",
            "nul\0",
            "new\nline",
            "\u{1b}[31m",
            "\u{202e}x",
            &long,
            &"d/".repeat(200),
            &"語".repeat(100),
        ]
        .map(str::to_owned)
        .to_vec();
        let alphabet: Vec<char> = "a.b_~%/- \\\n\0é2Ex:*?\"'".chars().collect();
        for i in 0..2000 {
            let draws = Stream::new(5, Purpose::Shuffle, 0, i).uniform(9);
            let letter =
                |draw: &f32| alphabet[(draw * alphabet.len() as f32) as usize % alphabet.len()];
            names.push(
                draws[1..]
                    .iter()
                    .take((draws[0] * 9.0) as usize)
                    .map(letter)
                    .collect(),
            );
        }
        names
    }

    #[test]
    fn samples_of_any_names_are_read_back_each_with_its_own_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.tar");
        let (names, mut unique) = (nasty(), Unique::default());
        let mut writer = ShardWriter::create(&path).unwrap();
        let mut keys = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let (key, text) = (unique.give(of_path(name)), i.to_string());
            let members = [("jpg", name.as_bytes()), ("txt", text.as_bytes())];
            writer.add(&key, &members).unwrap();
            keys.push(key);
        }
        let report = writer.finish(BTreeMap::new()).unwrap();
        assert_eq!(report.samples, names.len() as u64);
        // Without what tells repetitions apart, a key leads back to its name.
        let named: BTreeSet<(&String, &str)> = names
            .iter()
            .zip(keys.iter().map(|key| key.split('~').next().unwrap()))
            .collect();
        let (names_of, keys_of): (BTreeSet<_>, BTreeSet<_>) = named.iter().copied().unzip();
        assert_eq!((named.len(), named.len()), (names_of.len(), keys_of.len()));
        // By our reader.
        let shards = Shards::open(&path.to_string_lossy(), Members::Pictures).unwrap();
        let (samples, incomplete) = shards.read(shards.iter().next().unwrap()).unwrap();
        assert_eq!((samples.len(), incomplete), (names.len(), Vec::new()));
        for (i, sample) in samples.iter().enumerate() {
            assert_eq!((&sample.key, &sample.caption), (&keys[i], &i.to_string()));
            assert!(
                matches!(&sample.image, crate::Image::Encoded(file) if *file == names[i].as_bytes())
            );
        }
        // As Python's webdataset splits names: `^((?:.*/|)[^.]+)[.]([^/]*)$`, and by the base name alone.
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let name = String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap();
            let base = name.rfind('/').map_or(0, |slash| slash + 1);
            let dot = base + name[base..].find('.').unwrap();
            assert!(
                dot > base && !name[..dot].contains(['.', '\n', '\\']),
                "{name:?}"
            );
            assert!(
                !name.starts_with("__") && !name.starts_with('/'),
                "{name:?}"
            );
            assert!(
                found
                    .entry(name[..dot].to_owned())
                    .or_default()
                    .insert(name[dot + 1..].to_owned())
            );
        }
        assert_eq!(found.len(), names.len());
        assert!(found.values().all(|members| members.len() == 2));
    }

    #[test]
    fn a_shard_that_reads_back_otherwise_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.tar");
        let write = |keys: &[&str]| {
            let mut writer = ShardWriter::create(&path).unwrap();
            for key in keys {
                writer.add(key, &[("txt", b"text")]).unwrap();
            }
            writer.finish(BTreeMap::new())
        };
        for keys in [&["a", "a"][..], &["a.b"], &["__x__/a"]] {
            let error = write(keys).unwrap_err().to_string();
            assert!(
                error.contains("0.tar") && error.contains("reads back differently"),
                "{error}"
            );
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        assert_eq!(write(&["a", "b"]).unwrap().samples, 2);
    }
}
