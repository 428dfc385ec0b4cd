//! Features on the disk, chunk by chunk, so that an extraction that was killed goes on and a second metric extracts nothing
//! again.
//!
//! A chunk is a safetensors file with the tensor `features` `[pictures, dim]`, f32. Its name starts with a hash of the
//! [`CacheKey`] and holds the place of its first picture and their number; its metadata hold the whole key and a checksum of
//! the values.

use crate::{
    error::EvalError,
    features::{FeatureNetwork, Features, Rows},
};
use microdit::atomic_file;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The key of the metadata: one, since safetensors writes several in any order.
const METADATA: &str = "microdit.features";

/// The tensor.
const TENSOR: &str = "features";

/// Hexadecimal digits of the key's hash in file names.
const DIGITS: usize = 32;

/// What features depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheKey {
    /// The network and its resizing.
    pub network: FeatureNetwork,
    /// A hash of what the pictures are, or of everything they were drawn from.
    pub pictures: String,
}

/// The chunks of one key in a directory.
#[derive(Debug)]
pub struct FeatureCache {
    folder: PathBuf,
    key: CacheKey,
    chunks: Vec<Place>,
}

/// Which pictures a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    first: usize,
    count: usize,
}

/// Features of consecutive pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The place of the first.
    pub first: usize,
    /// Numbers per picture.
    pub dim: usize,
    /// The features, row by row.
    pub values: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    key: CacheKey,
    first: usize,
    sha256: String,
}

impl FeatureCache {
    /// Finds the chunks of `key` in `folder`, which is created if need be. Their content is looked at when it is read.
    ///
    /// # Errors
    /// A directory that cannot be read, or chunks that do not follow one another; the error names the file.
    pub fn open(folder: &Path, key: CacheKey) -> Result<Self, EvalError> {
        let io = |error: io::Error| EvalError::file(folder, error);
        fs::create_dir_all(folder).map_err(io)?;
        let mut cache = Self {
            folder: folder.to_owned(),
            key,
            chunks: Vec::new(),
        };
        let prefix = cache.prefix();
        for entry in fs::read_dir(folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let place = name
                .to_str()
                .and_then(|name| Place::parse(name.strip_prefix(&prefix)?));
            cache.chunks.extend(place);
        }
        cache.chunks.sort_unstable();
        let mut next = 0;
        for &place in &cache.chunks {
            if place.first != next {
                return Err(EvalError::file(
                    &cache.path(place),
                    format!(
                        "it begins at picture {}, those before it end at picture {next}; remove it and those after it, and they are extracted again",
                        place.first
                    ),
                ));
            }
            next += place.count;
        }
        Ok(cache)
    }

    /// Pictures whose features are there: the next to be extracted is the one at this place.
    pub fn pictures(&self) -> usize {
        self.chunks
            .last()
            .map_or(0, |place| place.first + place.count)
    }

    /// Adds the features of the next pictures, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, rows: Rows<'_, f32>) -> Result<(), EvalError> {
        if rows.is_empty() {
            return Ok(());
        }
        let place = Place {
            first: self.pictures(),
            count: rows.len(),
        };
        let path = self.path(place);
        let data: Vec<u8> = (0..rows.len())
            .flat_map(|row| rows.row(row))
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let metadata = Metadata {
            key: self.key.clone(),
            first: place.first,
            sha256: checksum(&data),
        };
        let metadata = serde_json::to_string(&metadata).expect("texts and numbers");
        let metadata = HashMap::from([(METADATA.to_owned(), metadata)]);
        let shape = vec![rows.len(), rows.dim()];
        let view = TensorView::new(Dtype::F32, shape, &data).expect("four bytes per value");
        let bytes = safetensors::serialize([(TENSOR, view)], Some(metadata)).expect("one tensor");
        atomic_file::write(&path, |part| fs::write(part, bytes))
            .map_err(|error: io::Error| EvalError::file(&path, error))?;
        self.chunks.push(place);
        Ok(())
    }

    /// The chunks in order, each read when its turn comes.
    ///
    /// # Errors
    /// Per chunk: a file that is truncated, damaged or not of this cache, by its name.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Chunk, EvalError>> {
        self.chunks.iter().map(|&place| {
            let path = self.path(place);
            self.read(&path, place).map_err(|message| {
                EvalError::file(
                    &path,
                    format!(
                        "{message}; remove it and those after it, and they are extracted again"
                    ),
                )
            })
        })
    }

    /// All features there are.
    ///
    /// # Errors
    /// As for [`Self::chunks`], or chunks of different sizes, or without any picture.
    pub fn features(&self) -> Result<Features, EvalError> {
        let (mut dim, mut all) = (0, Vec::new());
        for chunk in self.chunks() {
            let chunk = chunk?;
            if dim != 0 && chunk.dim != dim {
                return Err(EvalError::Dimension {
                    what: format!("the chunk of picture {}", chunk.first),
                    found: chunk.dim,
                    expected: dim,
                });
            }
            dim = chunk.dim;
            all.extend(chunk.values);
        }
        Features::new(self.key.network.clone(), dim, all)
    }

    fn read(&self, path: &Path, place: Place) -> Result<Chunk, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let bytes = fs::read(path).map_err(|error| text(&error))?;
        let damaged = |error| format!("it is truncated or damaged: {error}");
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let entry = header
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA));
        let metadata: Metadata = entry
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or("it is no chunk of features")?;
        if metadata.key != self.key || metadata.first != place.first {
            return Err("it holds features of other pictures or of another network".into());
        }
        let view = file.tensor(TENSOR).map_err(|error| text(&error))?;
        let (Dtype::F32, &[count, dim]) = (view.dtype(), view.shape()) else {
            return Err(format!(
                "its features are {:?} {:?}; expected f32 and two sides",
                view.dtype(),
                view.shape()
            ));
        };
        if count != place.count {
            return Err(format!(
                "it holds {count} pictures, its name says {}",
                place.count
            ));
        }
        if checksum(view.data()) != metadata.sha256 {
            return Err("it is damaged: its checksum differs".into());
        }
        let (values, _) = view.data().as_chunks();
        let values = values
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        Ok(Chunk {
            first: place.first,
            dim,
            values,
        })
    }

    /// How names of chunks begin.
    fn prefix(&self) -> String {
        let key = serde_json::to_vec(&self.key).expect("texts");
        let mut prefix = checksum(&key);
        prefix.truncate(DIGITS);
        prefix.push('-');
        prefix
    }

    fn path(&self, place: Place) -> PathBuf {
        self.folder
            .join(format!("{}{}", self.prefix(), place.name()))
    }
}

impl Place {
    /// The end of a chunk's name.
    fn name(self) -> String {
        format!("{:09}-{}.safetensors", self.first, self.count)
    }

    fn parse(name: &str) -> Option<Self> {
        let (first, count) = name.strip_suffix(".safetensors")?.split_once('-')?;
        let place = Self {
            first: first.parse().ok()?,
            count: count.parse().ok()?,
        };
        (place.count > 0 && place.name() == name).then_some(place)
    }
}

/// SHA-256 in lower-case hexadecimal.
fn checksum(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Family;

    fn key(pictures: &str) -> CacheKey {
        CacheKey {
            network: FeatureNetwork {
                family: Family::DinoV2,
                name: "dinov2-l".into(),
                sha256: "00".repeat(32),
                resize: "bicubic".into(),
            },
            pictures: pictures.into(),
        }
    }

    fn numbers(range: std::ops::Range<i16>) -> Vec<f32> {
        range.map(f32::from).collect()
    }

    fn append(cache: &mut FeatureCache, range: std::ops::Range<i16>) {
        let values = numbers(range);
        cache.append(Rows::new(&values, 2).unwrap()).unwrap();
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn an_extraction_goes_on_where_it_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("features");
        let mut cache = FeatureCache::open(&inner, key("a")).unwrap();
        append(&mut cache, 0..6);
        // Another key in the same directory, and what a killed process leaves.
        append(&mut FeatureCache::open(&inner, key("b")).unwrap(), 50..52);
        fs::write(
            inner.join(format!(
                "{}000000003-9.safetensors.1-2.part",
                cache.prefix()
            )),
            "half",
        )
        .unwrap();
        drop(cache);
        let mut cache = FeatureCache::open(&inner, key("a")).unwrap();
        assert_eq!(cache.pictures(), 3);
        append(&mut cache, 6..8);
        append(&mut cache, 8..8);
        let cache = FeatureCache::open(&inner, key("a")).unwrap();
        let firsts: Vec<usize> = cache.chunks().map(|chunk| chunk.unwrap().first).collect();
        assert_eq!((cache.pictures(), firsts), (4, vec![0, 3]));
        let features = cache.features().unwrap();
        assert_eq!(
            (features.pictures(), features.network()),
            (4, &key("a").network)
        );
        assert_eq!(features.rows().select(&[0, 1, 2, 3]), numbers(0..8));
    }

    #[test]
    fn equal_features_are_equal_files() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [a, b] = folders.each_ref().map(|folder| {
            append(
                &mut FeatureCache::open(folder.path(), key("a")).unwrap(),
                0..6,
            );
            let files = files(folder.path());
            (
                files[0].file_name().unwrap().to_owned(),
                fs::read(&files[0]).unwrap(),
            )
        });
        assert_eq!(a, b);
    }

    #[test]
    fn truncated_damaged_and_foreign_chunks_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = FeatureCache::open(folder.path(), key("a")).unwrap();
        append(&mut cache, 0..6);
        append(
            &mut FeatureCache::open(folder.path(), key("b")).unwrap(),
            0..6,
        );
        let path = cache.path(cache.chunks[0]);
        let whole = fs::read(&path).unwrap();
        let other = files(folder.path())
            .into_iter()
            .find(|file| *file != path)
            .unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (content, expected) in [
            (
                whole[..whole.len() - 1].to_vec(),
                "it is truncated or damaged",
            ),
            (Vec::new(), "it is truncated or damaged"),
            (flipped, "it is damaged: its checksum differs"),
            (
                fs::read(other).unwrap(),
                "it holds features of other pictures",
            ),
        ] {
            fs::write(&path, content).unwrap();
            let text = cache.features().unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("{}: {expected}", path.display())),
                "{text}"
            );
            assert!(
                text.ends_with("remove it and those after it, and they are extracted again"),
                "{text}"
            );
        }
        fs::write(&path, whole).unwrap();
        assert!(cache.features().is_ok());
    }

    #[test]
    fn a_missing_chunk_is_noticed_before_anything_is_extracted() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = FeatureCache::open(folder.path(), key("a")).unwrap();
        for begin in [0, 6, 12] {
            append(&mut cache, begin..begin + 6);
        }
        fs::remove_file(cache.path(cache.chunks[1])).unwrap();
        let text = FeatureCache::open(folder.path(), key("a"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(
                "-000000006-3.safetensors: it begins at picture 6, those before it end at picture 3"
            ),
            "{text}"
        );
    }
}
