//! What a dataset holds: counts, sizes, captions, damage, and a few of its samples to look at.

use crate::{
    image::decode,
    sample::{DataError, Image, Sample},
    shards::{Members, Shard, Shards},
    writer::{DatasetIndex, checksum},
};
use ::image::RgbImage;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What there is, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// What a sample consists of.
    pub contents: Vec<String>,
    /// Shards.
    pub shards: usize,
    /// Sound samples.
    pub samples: u64,
    /// Length of the shards in bytes.
    pub bytes: u64,
    /// Sizes of the pictures or shapes of the latents, and how many have them.
    pub sizes: BTreeMap<String, u64>,
    /// Shapes of the caption states, and how many have them.
    pub captions: BTreeMap<String, u64>,
    /// Characters of a caption.
    pub caption_length: Spread,
    /// Values of the latents.
    pub latents: Moments,
    /// Samples that lack something or cannot be read, by what is wrong.
    pub damaged: BTreeMap<String, u64>,
    /// The first of them, by shard and key.
    pub examples: Vec<String>,
    /// Shards that cannot be read, or are not what the index says.
    pub broken_shards: Vec<String>,
}

/// Smallest, middle and largest of many numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub least: usize,
    /// As many are below as above.
    pub median: usize,
    /// Largest.
    pub most: usize,
}

/// Mean and standard deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

/// A sample to look at.
#[derive(Clone, Debug)]
pub enum Glimpse {
    /// A picture.
    Picture(RgbImage),
    /// A latent: its shape, `[channels, height, width]` or, where none is stored, the number of its values; and these.
    Latent(Vec<usize>, Vec<f32>),
}

/// Damaged samples that are named.
const EXAMPLES: usize = 10;

/// Reads all samples of the shards `spec` names, as [`Shards::open`] takes it, decodes them, and compares the shards with
/// their index, if there is one. Of the sound samples, `glimpses` evenly spread over the shards' beginnings are kept.
/// `progress` is told the shards read.
///
/// # Errors
/// If there are no shards.
pub fn inspect(
    spec: &str,
    glimpses: usize,
    mut progress: impl FnMut(usize),
) -> Result<(Inspection, Vec<Glimpse>), DataError> {
    let shards = Shards::open(spec, Members::Pictures)?;
    let names = first_names(&shards);
    let kinds = kinds(&names);
    let index = match Path::new(spec).is_dir() {
        true => DatasetIndex::read(Path::new(spec))?,
        false => None,
    };
    let mut page = Page::default();
    page.result.contents = names.into_iter().collect();
    let per_shard = glimpses.div_ceil(shards.iter().count());
    for (i, shard) in shards.iter().enumerate() {
        page.result.shards += 1;
        page.wanted = (page.glimpses.len() + per_shard).min(glimpses);
        page.shard(shard, &kinds, index.as_ref());
        progress(i + 1);
    }
    if let Some(index) = &index {
        page.absent(&shards, index);
    }
    Ok(page.finish())
}

/// Names of the members or columns of the first sample there is.
fn first_names(shards: &Shards) -> BTreeSet<String> {
    let names = shards.iter().filter_map(|shard| shard.names().ok());
    names
        .into_iter()
        .find(|names| !names.is_empty())
        .unwrap_or_default()
}

/// What is read of a sample with such members: a latent for every size there is, or else a picture.
fn kinds(names: &BTreeSet<String>) -> Vec<Members> {
    let size = |name: &String| {
        let number = name
            .strip_prefix("latent-")
            .and_then(|rest| rest.strip_suffix(".npy"))
            .or_else(|| name.strip_prefix("latents_"));
        let size = number?.parse().ok()?;
        Some(Members::Latents { size })
    };
    let latents: Vec<Members> = names.iter().filter_map(size).collect();
    if latents.is_empty() {
        vec![Members::Pictures]
    } else {
        latents
    }
}

#[derive(Default)]
struct Page {
    result: Inspection,
    lengths: Vec<usize>,
    /// Number, sum and sum of squares of the latents' values.
    sums: (f64, f64, f64),
    glimpses: Vec<Glimpse>,
    /// How many of them there may be so far.
    wanted: usize,
}

impl Page {
    fn shard(&mut self, shard: &Shard, kinds: &[Members], index: Option<&DatasetIndex>) {
        let path = shard.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match checksum(path) {
            Ok((bytes, sha256)) => {
                self.result.bytes += bytes;
                let entry =
                    index.and_then(|index| index.shards.iter().find(|entry| entry.file == name));
                if entry.is_some_and(|entry| entry.sha256 != sha256) {
                    let broken = format!("{name}: its checksum is not that of the index");
                    self.result.broken_shards.push(broken);
                }
            }
            Err(error) => self.result.broken_shards.push(format!("{name}: {error}")),
        }
        // A sample is counted once, and damaged if it is at any size.
        let mut damaged: BTreeMap<String, String> = BTreeMap::new();
        let mut sound: BTreeSet<String> = BTreeSet::new();
        for (i, &members) in kinds.iter().enumerate() {
            let read = shard.for_each(members, |key, sample| {
                match sample.and_then(|sample| self.sample(sample, i == 0)) {
                    Ok(()) => {
                        sound.insert(key.to_owned());
                    }
                    Err(lack) => {
                        damaged.insert(key.to_owned(), lack);
                    }
                }
            });
            if let Err(error) = read {
                self.result.broken_shards.push(error.to_string());
                break;
            }
        }
        self.result.samples += sound
            .iter()
            .filter(|key| !damaged.contains_key(*key))
            .count() as u64;
        for (key, lack) in damaged {
            if self.result.examples.len() < EXAMPLES {
                self.result.examples.push(format!("{name}: {key}: {lack}"));
            }
            *self.result.damaged.entry(lack).or_default() += 1;
        }
    }

    fn sample(&mut self, sample: Sample, first: bool) -> Result<(), String> {
        let glimpse = match sample.image {
            Image::Encoded(file) => {
                let image = decode(&file).map_err(|_| "an image that cannot be decoded")?;
                let size = format!("{} x {}", image.width(), image.height());
                *self.result.sizes.entry(size).or_default() += 1;
                Glimpse::Picture(image)
            }
            Image::Decoded(image) => Glimpse::Picture(image),
            Image::Precomputed { latent, caption } => {
                let latent = latent
                    .read()
                    .map_err(|error| format!("a latent: {error}"))?;
                let caption = caption
                    .read()
                    .map_err(|error| format!("caption states: {error}"))?;
                if latent
                    .values
                    .iter()
                    .chain(&caption.values)
                    .any(|value| !value.is_finite())
                {
                    return Err("values that are no numbers".into());
                }
                *self
                    .result
                    .sizes
                    .entry(format!("{:?}", latent.shape))
                    .or_default() += 1;
                if first {
                    *self
                        .result
                        .captions
                        .entry(format!("{:?}", caption.shape))
                        .or_default() += 1;
                }
                for &value in &latent.values {
                    let value = f64::from(value);
                    self.sums.0 += 1.0;
                    self.sums.1 += value;
                    self.sums.2 += value * value;
                }
                Glimpse::Latent(latent.shape, latent.values)
            }
        };
        if first {
            self.lengths.push(sample.caption.chars().count());
            if self.glimpses.len() < self.wanted {
                self.glimpses.push(glimpse);
            }
        }
        Ok(())
    }

    /// Names the shards of the index that are not there.
    fn absent(&mut self, shards: &Shards, index: &DatasetIndex) {
        let there: BTreeSet<_> = shards
            .iter()
            .filter_map(|shard| shard.path().file_name())
            .collect();
        for entry in &index.shards {
            if !there.contains(std::ffi::OsStr::new(&entry.file)) {
                self.result
                    .broken_shards
                    .push(format!("{}: it is missing", entry.file));
            }
        }
    }

    fn finish(mut self) -> (Inspection, Vec<Glimpse>) {
        self.lengths.sort_unstable();
        if let (Some(&least), Some(&most)) = (self.lengths.first(), self.lengths.last()) {
            let median = self.lengths[self.lengths.len() / 2];
            self.result.caption_length = Spread {
                least,
                median,
                most,
            };
        }
        let (count, sum, squares) = self.sums;
        if count > 0.0 {
            let mean = sum / count;
            let std = (squares / count - mean * mean).max(0.0).sqrt();
            self.result.latents = Moments { mean, std };
        }
        (self.result, self.glimpses)
    }
}
