//! Lists of shards: WebDataset tars, whose members with one key make a sample, MDS shards, and Parquet files with pictures inside.

mod members;
mod open;
mod parquet;
mod pattern;
mod pil;

use crate::{
    archive,
    columns::Columns,
    damage::{Damage, Ledger},
    error::DataError,
    index::DatasetIndex,
    mds::MdsShard,
    sample::Sample,
    shard_file::ShardFile,
};
pub(crate) use open::Listed;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};
#[cfg(feature = "remote")]
pub(crate) use {
    open::{is_shard, shards_among},
    pattern::expand,
};

/// Shards that are brought here before their turn, if they lie elsewhere.
pub(crate) const AHEAD: usize = 4;

/// A sample that lacks something, or the rest of a shard that could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The file of its shard.
    pub shard: String,
    /// Its key; none for the rest of a shard.
    pub key: Option<String>,
    /// What it lacks, or why the rest was not read.
    pub lack: String,
}

/// Which parts of a shard make a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// In tars `KEY.jpg` (or .png, .webp, ...) and `KEY.txt`, as img2dataset writes them; in MDS shards and Parquet files columns such as
    /// `image` or `jpg` and `caption`.
    Pictures,
    /// The same under other names.
    Named(Arc<Columns>),
    /// Pre-computed for images of SIZE pixels: in tars `KEY.latent-SIZE.npy` and `KEY.caption.npy`; in MDS shards the columns
    /// `latents_SIZE` and `caption_latents`. Of several captions, in tars `KEY.caption-NAME.npy`, and columns `caption_latents_NAME`.
    Latents {
        /// Side of the images in pixels.
        size: u32,
        /// Names of several captions, of which a sample has at least one; the only one if empty.
        captions: Vec<String>,
        /// Whether the latent of the image with left and right swapped is read too: `KEY.latent-SIZE-flipped.npy`, or the column
        /// `latents_SIZE_flipped`.
        flipped: bool,
    },
}

impl Members {
    /// Latents of images of that side in pixels, with one caption each.
    pub fn latents(size: u32) -> Self {
        Self::Latents {
            size,
            captions: Vec::new(),
            flipped: false,
        }
    }
}

/// A list of shards.
#[derive(Clone, Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    members: Members,
    ledger: Arc<Ledger>,
    /// The directory they were listed in and the text of its index, if it was one and has one.
    index: Option<(PathBuf, Arc<[u8]>)>,
}

/// A file of samples.
#[derive(Clone, Debug)]
pub enum Shard {
    /// WebDataset.
    Tar(ShardFile),
    /// MosaicML Streaming.
    Mds(MdsShard),
    /// Apache Parquet with the pictures inside.
    Parquet(ShardFile),
}

impl Shards {
    /// The shards in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// The shards in their order, for one who reads them in turn: the next are brought here meanwhile, if they lie elsewhere.
    pub fn in_turn(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().enumerate().map(|(i, shard)| {
            let ahead = self.shards.iter().skip(i + 1).take(AHEAD);
            ahead.for_each(|shard| shard.file().prefetch());
            shard
        })
    }

    /// The index of the directory they lie in, if they were opened as all shards of it and it has one.
    ///
    /// # Errors
    /// One that does not parse.
    pub fn index(&self) -> Result<Option<DatasetIndex>, DataError> {
        let parse = |(folder, text): &(PathBuf, Arc<[u8]>)| {
            let index = serde_json::from_slice(text);
            index.map_err(|error| DataError::unreadable(&folder.join(DatasetIndex::FILE), &error))
        };
        self.index.as_ref().map(parse).transpose()
    }

    /// Which parts of a shard make a sample.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Samples of all shards, by the bytes of those read so far.
    pub(crate) fn samples(&self) -> f64 {
        self.ledger.samples()
    }

    /// The samples of one shard in their order, and those that are incomplete. If a shard cannot be read to its end, the
    /// samples before that are used; its rest counts as one more that is incomplete.
    ///
    /// # Errors
    /// An unreadable shard, or one without a usable sample.
    pub fn read(&self, shard: &Shard) -> Result<(Vec<Sample>, Vec<Incomplete>), DataError> {
        let (mut samples, mut incomplete) = (Vec::new(), Vec::new());
        let missing = |key: Option<&str>, lack| Incomplete {
            shard: shard.name(),
            key: key.map(str::to_owned),
            lack,
        };
        let read = shard.for_each(&self.members, |key, sample| {
            match sample {
                Ok(sample) => samples.push(sample),
                Err(lack) => incomplete.push(missing(Some(key), lack)),
            }
            true
        });
        match read {
            Err(error) if samples.is_empty() => return Err(error),
            Err(error) => incomplete.push(missing(None, error.reason())),
            Ok(()) => {}
        }
        if samples.is_empty() {
            return Err(DataError::EmptyShard {
                shard: shard.path().to_owned(),
                expected: self.members.describe(),
            });
        }
        let total = samples.len() + incomplete.len();
        let lacks = incomplete.iter().map(|sample| sample.lack.as_str());
        let bytes = shard.file().bytes().unwrap_or(0);
        let damage = Arc::new(Damage::new(&self.ledger, shard.path(), bytes, total, lacks));
        for sample in &mut samples {
            sample.damage = Some(damage.clone());
        }
        Ok((samples, incomplete))
    }
}

impl Shard {
    /// Where its bytes lie.
    pub fn file(&self) -> &ShardFile {
        match self {
            Self::Tar(file) | Self::Parquet(file) => file,
            Self::Mds(shard) => shard.source(),
        }
    }

    fn file_mut(&mut self) -> &mut ShardFile {
        match self {
            Self::Tar(file) | Self::Parquet(file) => file,
            Self::Mds(shard) => shard.source_mut(),
        }
    }

    /// Its path or URL.
    pub fn path(&self) -> &Path {
        self.file().place()
    }

    /// Names of the members or columns of its first sample.
    ///
    /// # Errors
    /// An unreadable shard.
    pub fn names(&self) -> Result<BTreeSet<String>, DataError> {
        match self {
            Self::Tar(file) => {
                let mut names = BTreeSet::new();
                archive::for_each(file, |_, sample| {
                    let fields = sample.iter().flat_map(|sample| sample.keys());
                    names.extend(
                        fields
                            .filter(|name| !name.starts_with("__"))
                            .map(str::to_owned),
                    );
                    names.is_empty()
                })?;
                Ok(names)
            }
            Self::Mds(shard) => Ok(shard.columns().map(str::to_owned).collect()),
            Self::Parquet(file) => parquet::names(file),
        }
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        self.file().name()
    }

    /// Hands every sample to `take` by its key, or what it lacks, until it returns false.
    ///
    /// # Errors
    /// An unreadable shard, once the samples that could be read have been handed on.
    pub fn for_each(
        &self,
        members: &Members,
        mut take: impl FnMut(&str, Result<Sample, String>) -> bool,
    ) -> Result<(), DataError> {
        match self {
            Self::Tar(file) => archive::for_each(file, |key, sample| match sample {
                Ok(sample) => {
                    let part = |name: &str| Some(sample.get_first(&[name])?.as_bytes()?.to_vec());
                    let mut samples = members.of_tar(key, part).into_iter();
                    samples.all(|sample| take(key, sample))
                }
                Err(lack) => take(key, Err(lack)),
            }),
            Self::Mds(shard) => {
                for (i, entry) in shard.read()?.iter().enumerate() {
                    let key = format!("{}:{i}", shard.file());
                    let mut samples = members.of_columns(&key, &(shard, entry)).into_iter();
                    if !samples.all(|sample| take(&key, sample)) {
                        break;
                    }
                }
                Ok(())
            }
            Self::Parquet(file) => {
                let name = file
                    .place()
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy();
                let wanted = |column: &str| members.wants(column);
                parquet::for_each(file, wanted, |number, row| {
                    let key = format!("{name}:{number}");
                    let mut samples = members.of_columns(&key, row).into_iter();
                    samples.all(|sample| take(&key, sample))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mds;

    #[test]
    fn shards_of_merged_indexes_keep_their_samples_apart() {
        let folder = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/mds_plain");
        let text = std::fs::read_to_string(golden.join(mds::INDEX)).unwrap();
        let mut merged: serde_json::Value = serde_json::from_str(&text).unwrap();
        let shards = merged["shards"].as_array().unwrap().clone();
        merged["shards"] = serde_json::json!([]);
        for name in ["a", "b"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            for shard in &shards {
                let mut shard = shard.clone();
                let file = shard["raw_data"]["basename"].as_str().unwrap().to_owned();
                let inner = format!("{name}/{file}");
                std::fs::copy(golden.join(file), folder.path().join(&inner)).unwrap();
                shard["raw_data"]["basename"] = inner.into();
                merged["shards"].as_array_mut().unwrap().push(shard);
            }
        }
        std::fs::write(folder.path().join(mds::INDEX), merged.to_string()).unwrap();
        let members = Members::latents(256);
        let shards = Shards::open(&folder.path().to_string_lossy(), members).unwrap();
        let mut keys = BTreeSet::new();
        for shard in shards.iter() {
            let (samples, _) = shards.read(shard).unwrap();
            keys.extend(samples.into_iter().map(|sample| sample.key));
        }
        assert_eq!(keys.len(), 48);
    }
}
