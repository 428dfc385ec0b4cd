//! Lists of shards: WebDataset tars, whose members with one key make a sample, and MDS shards.

use crate::{
    archive,
    mds::{self, MdsShard},
    sample::{Damage, DataError, Image, Sample, Stored},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Extensions of images, in the order they are looked for.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// A sample that lacks something, or the rest of a shard that could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The file of its shard.
    pub shard: String,
    /// Its key; none of the rest of a shard.
    pub key: Option<String>,
    /// What it lacks, or why the rest was not read.
    pub lack: String,
}

/// Which parts of a shard make a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// In tars `KEY.jpg` (or .png, .webp) and `KEY.txt`, as img2dataset writes them; in MDS shards the columns `image` and `caption`.
    Pictures,
    /// Pre-computed for images of SIZE pixels: in tars `KEY.latent-SIZE.npy` and `KEY.caption.npy`; in MDS shards the columns
    /// `latents_SIZE` and `caption_latents`.
    Latents {
        /// Side of the images in pixels.
        size: u32,
    },
}

/// A list of shards.
#[derive(Clone, Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    members: Members,
}

/// A file of samples.
#[derive(Clone, Debug)]
pub enum Shard {
    /// WebDataset.
    Tar(PathBuf),
    /// MosaicML Streaming.
    Mds(MdsShard),
}

impl Shards {
    /// A tar, a pattern with braces such as `train-{000..009}.tar`, a directory of tars, or one of MDS shards with their
    /// `index.json`.
    ///
    /// # Errors
    /// If that names no existing shard.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let missing = || DataError::NoShards(spec.to_owned());
        let path = Path::new(spec);
        if path.join(mds::INDEX).is_file() {
            let shards = MdsShard::list(path)?;
            return Self::new(shards.into_iter().map(Shard::Mds).collect(), members, spec);
        }
        let paths: Vec<PathBuf> = if path.is_dir() {
            let entries = path.read_dir().map_err(|_| missing())?;
            let mut tars: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
                .collect();
            tars.sort();
            tars
        } else {
            let expanded = webdataset::braceexpand(spec).map_err(|_| missing())?;
            expanded.into_iter().map(PathBuf::from).collect()
        };
        Self::new(paths.into_iter().map(Shard::Tar).collect(), members, spec)
    }

    fn new(shards: Vec<Shard>, members: Members, spec: &str) -> Result<Self, DataError> {
        if let Some(absent) = shards.iter().find(|shard| !shard.path().is_file()) {
            return Err(DataError::NoShards(absent.path().display().to_string()));
        }
        if shards.is_empty() {
            return Err(DataError::NoShards(spec.to_owned()));
        }
        Ok(Self { shards, members })
    }

    /// The shards in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// The samples of one shard in their order, and those that are incomplete. Of a shard that cannot be read to its end the
    /// samples before are used; its rest counts as one more that is incomplete.
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
        let read = shard.for_each(self.members, |key, sample| {
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
        let damage = Arc::new(Damage::new(shard.path(), total, lacks));
        for sample in &mut samples {
            sample.damage = Some(damage.clone());
        }
        Ok((samples, incomplete))
    }
}

impl Shard {
    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tar(path) => path,
            Self::Mds(shard) => shard.path(),
        }
    }

    /// Names of the members or columns of its first sample.
    ///
    /// # Errors
    /// An unreadable shard.
    pub fn names(&self) -> Result<BTreeSet<String>, DataError> {
        match self {
            Self::Tar(path) => {
                let mut names = BTreeSet::new();
                archive::for_each(path, |_, sample| {
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
        }
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        let name = self.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Hands every sample to `take` by its key, or what it lacks, until it answers false.
    ///
    /// # Errors
    /// An unreadable shard, once the samples that could be read have been handed on.
    pub fn for_each(
        &self,
        members: Members,
        mut take: impl FnMut(&str, Result<Sample, String>) -> bool,
    ) -> Result<(), DataError> {
        match self {
            Self::Tar(path) => archive::for_each(path, |key, sample| {
                let sample = sample.and_then(|sample| {
                    let part = |name: &str| Some(sample.get_first(&[name])?.as_bytes()?.to_vec());
                    members.of_tar(key, part)
                });
                take(key, sample)
            }),
            Self::Mds(shard) => {
                for (i, entry) in shard.read()?.iter().enumerate() {
                    let key = format!("{}:{i}", shard.file());
                    let part = |column: &str| entry.get(column).map(<[u8]>::to_vec);
                    if !take(&key, members.of_mds(&key, part)) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Members {
    /// A sample of the members of a tar, or what it lacks.
    fn of_tar(self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Sample, String> {
        let text = part("txt");
        match self {
            Self::Pictures => {
                let image = IMAGES.iter().find_map(|name| part(name));
                picture(key, image, text)
            }
            Self::Latents { size } => {
                let name = format!("latent-{size}.npy");
                let arrays = [part(&name), part("caption.npy")];
                latents(
                    key,
                    arrays.map(|array| array.map(Stored::Npy)),
                    [&name, "caption.npy"],
                    text,
                )
            }
        }
    }

    /// A sample of the columns of an MDS shard, or what it lacks.
    fn of_mds(self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Sample, String> {
        let text = part("caption");
        match self {
            Self::Pictures => picture(key, part("image"), text),
            Self::Latents { size } => {
                let name = format!("latents_{size}");
                let arrays = [part(&name), part("caption_latents")];
                let arrays = arrays.map(|array| array.map(Stored::Halves));
                latents(key, arrays, [&name, "caption_latents"], text)
            }
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Pictures => {
                "KEY.jpg (or .png, .webp) and KEY.txt, or columns image and caption".into()
            }
            Self::Latents { size } => format!(
                "KEY.latent-{size}.npy and KEY.caption.npy, or columns latents_{size} and caption_latents"
            ),
        }
    }
}

/// A file of pixels and its caption.
fn picture(key: &str, image: Option<Vec<u8>>, text: Option<Vec<u8>>) -> Result<Sample, String> {
    let image = Image::Encoded(image.ok_or("no image")?);
    let caption = trimmed(&text.ok_or("no caption")?);
    if caption.is_empty() {
        return Err("an empty caption".into());
    }
    let key = key.to_owned();
    Ok(Sample {
        key,
        caption,
        image,
        damage: None,
    })
}

/// Latent and caption states, and the text they were made of, if it was kept.
fn latents(
    key: &str,
    arrays: [Option<Stored>; 2],
    names: [&str; 2],
    text: Option<Vec<u8>>,
) -> Result<Sample, String> {
    let [latent, caption] = arrays;
    let missing = |i: usize| move || format!("no {}", names[i]);
    let image = Image::Precomputed {
        latent: latent.ok_or_else(missing(0))?,
        caption: caption.ok_or_else(missing(1))?,
    };
    Ok(Sample {
        key: key.to_owned(),
        caption: trimmed(&text.unwrap_or_default()),
        image,
        damage: None,
    })
}

fn trimmed(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let members = Members::Latents { size: 256 };
        let shards = Shards::open(&folder.path().to_string_lossy(), members).unwrap();
        let mut keys = BTreeSet::new();
        for shard in shards.iter() {
            let (samples, _) = shards.read(shard).unwrap();
            keys.extend(samples.into_iter().map(|sample| sample.key));
        }
        assert_eq!(keys.len(), 48);
    }
}
