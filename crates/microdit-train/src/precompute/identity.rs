//! What shards and encoders are, whatever they are called: their content.

use microdit::checksum::{self, hexadecimal};
use microdit_data::{DataError, Shard, files::file_name};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Bytes of each part of a shard that are read to recognize it.
const PART: u64 = 64 << 10;

/// What identifies a shard of pictures, by which a precomputation tells its sources apart before it reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Glance {
    /// Its file name.
    pub(super) file: String,
    /// Its length.
    pub(super) bytes: u64,
    /// SHA-256 of its beginning, its middle and how it is read, in hexadecimal; empty if it could not be read.
    pub(super) fingerprint: String,
}

impl Glance {
    /// Identifies a shard. One that cannot be read has no fingerprint; what is wrong with it is reported when its turn comes.
    pub(super) fn at(shard: &Shard) -> Self {
        let (bytes, fingerprint) = fingerprint(shard).unwrap_or_default();
        Self {
            file: shard.name(),
            bytes,
            fingerprint,
        }
    }

    /// Whether both may be the same shard.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
            || self.fingerprint.is_empty()
            || other.fingerprint.is_empty()
    }
}

impl std::fmt::Display for Glance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.fingerprint.get(..12).unwrap_or("unknown");
        write!(
            f,
            "{} of {} bytes, fingerprint {shown}",
            self.file, self.bytes
        )
    }
}

fn fingerprint(shard: &Shard) -> Result<(u64, String), DataError> {
    let bytes = shard.file().bytes()?;
    let mut digest = Sha256::new();
    let parts = [0, bytes / 2].map(|start| start..start + PART);
    for part in shard.file().pieces(&parts)? {
        digest.update(part);
    }
    digest.update(bytes.to_le_bytes());
    // The same bytes under another index are other samples.
    if let Shard::Mds(mds) = shard {
        digest.update((mds.samples() as u64).to_le_bytes());
        for column in mds.columns() {
            digest.update(column);
            digest.update([0]);
        }
    }
    Ok((bytes, hexadecimal(&digest.finalize())))
}

/// An encoder: what it is called, and what it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EncoderIdentity {
    /// Its name, for messages; another name does not make another encoder.
    pub name: String,
    /// SHA-256 of its weights, configuration and tokenizer, in hexadecimal.
    pub sha256: String,
}

impl PartialEq for EncoderIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl EncoderIdentity {
    /// Reads the encoder at `path`: a file of weights with the `config.json` beside it, or the files of a directory, or of its
    /// directory `nested` if it has one.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn of(name: &str, path: &Path, nested: &str) -> Result<Self, DataError> {
        let inner = path.join(nested);
        let folder = if inner.is_dir() { &inner } else { path };
        let files = match folder.is_dir() {
            true => files(folder)?,
            false => {
                let config = folder.with_file_name("config.json");
                [folder.to_owned(), config]
                    .into_iter()
                    .filter(|path| path.is_file())
                    .collect()
            }
        };
        // In an order that does not depend on their names.
        let mut checksums = Vec::with_capacity(files.len());
        for path in files {
            let (_, sha256) = checksum::of_file(&path).map_err(DataError::io(&path))?;
            checksums.push(sha256);
        }
        checksums.sort_unstable();
        Ok(Self {
            name: name.to_owned(),
            sha256: hexadecimal(&Sha256::digest(checksums.concat())),
        })
    }
}

/// Weights, configurations and tokenizers in a directory.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let counts = matches!(
            extension,
            Some("safetensors" | "bin" | "pt" | "pth" | "json" | "txt" | "model")
        );
        if counts && path.is_file() && !file_name(&path).starts_with('.') {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit_data::{Members, Shards};

    #[test]
    fn a_shard_is_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.tar");
        let glance = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let shards = Shards::open(&path.to_string_lossy(), Members::Pictures).unwrap();
            Glance::at(shards.iter().next().unwrap())
        };
        let mut content = vec![7; 1 << 20];
        let first = glance(&content);
        assert!(first.agrees_with(&glance(&content)));
        assert!(!first.agrees_with(&glance(&content[1..])));
        for at in [0, 1 << 19] {
            content[at] = 8;
            assert!(!first.agrees_with(&glance(&content)));
            content[at] = 7;
        }
    }

    #[test]
    fn an_encoder_is_its_files_whatever_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, weights, config) in [
            ("a", "1", "x"),
            ("b", "1", "x"),
            ("c", "2", "x"),
            ("d", "1", "y"),
        ] {
            std::fs::create_dir_all(path(name).join("vae")).unwrap();
            std::fs::write(path(name).join("vae/w.safetensors"), weights).unwrap();
            std::fs::write(path(name).join("vae/config.json"), config).unwrap();
            std::fs::write(path(name).join("vae/README.md"), name).unwrap();
        }
        let of = |name: &str| EncoderIdentity::of(name, &path(name), "vae").unwrap();
        assert_eq!(of("a"), of("b"));
        assert_ne!(of("a"), of("c"));
        assert_ne!(of("a"), of("d"));
        let file = EncoderIdentity::of("a", &path("a/vae/w.safetensors"), "vae").unwrap();
        assert_eq!(file, of("a"));
    }
}
