//! What a dataset holds: counts, sizes, captions, damage, and a few of its samples to look at.

use crate::{
    error::DataError,
    image::decode,
    index::DatasetIndex,
    left_out::{LeftOut, reasons},
    npy,
    parallel::unless_it_panics,
    sample::{Image, Sample},
    shards::{Members, Shard, Shards},
};
use ::image::RgbImage;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The contents of a dataset, and what is wrong with them.
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
    /// Width and height of the pictures, and how many have them.
    #[serde(skip)]
    pub dimensions: BTreeMap<[u32; 2], u64>,
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
    /// What the index says is missing from its source.
    pub lacks: Vec<String>,
}

impl Inspection {
    /// Why this dataset cannot be trained on, if at most that share of the samples may be damaged; empty if it can.
    pub fn faults(&self, max_damage: f64) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !self.broken_shards.is_empty() {
            let (broken, of) = (self.broken_shards.len(), self.shards);
            faults.push(Fault::BrokenShards { broken, of });
        }
        if self.samples == 0 {
            faults.push(Fault::Empty);
        }
        let damaged: u64 = self.damaged.values().sum();
        let all = self.samples + damaged;
        if damaged as f64 > max_damage * all as f64 {
            faults.push(Fault::TooMuchDamage {
                damaged,
                of: all,
                share: max_damage,
                reasons: reasons(&self.damaged),
            });
        }
        faults
    }
}

/// Why an inspected dataset cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Shards that cannot be read, or are not what the index says.
    #[error("{broken} of {of} shards are broken")]
    BrokenShards {
        /// How many.
        broken: usize,
        /// Shards in all.
        of: usize,
    },
    /// Nothing to train on.
    #[error("there is no sound sample")]
    Empty,
    /// More damaged samples than are allowed.
    #[error(
        "{damaged} of {of} samples are damaged, more than the share of {share} that is allowed: {reasons}"
    )]
    TooMuchDamage {
        /// Damaged samples.
        damaged: u64,
        /// Samples in all.
        of: u64,
        /// Share that may be damaged.
        share: f64,
        /// What is wrong with them.
        reasons: String,
    },
}

/// Minimum, median and maximum of many numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub least: usize,
    /// The median.
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
    let index = shards.index()?;
    let mut page = Page::default();
    page.result.contents = names.into_iter().collect();
    page.result.lacks = index.iter().flat_map(|index| index.lacks.clone()).collect();
    let per_shard = glimpses.div_ceil(shards.iter().count());
    for (i, shard) in shards.in_turn().enumerate() {
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

/// Names of the members or columns of the first sample.
fn first_names(shards: &Shards) -> BTreeSet<String> {
    let names = shards.iter().filter_map(|shard| shard.names().ok());
    names
        .into_iter()
        .find(|names| !names.is_empty())
        .unwrap_or_default()
}

/// What is read of a sample with these members: a latent of every size, or else a picture.
fn kinds(names: &BTreeSet<String>) -> Vec<Members> {
    let size = |name: &String| {
        let number = name
            .strip_prefix("latent-")
            .and_then(|rest| rest.strip_suffix(".npy"))
            .or_else(|| name.strip_prefix("latents_"));
        number?.parse().ok()
    };
    let caption = |name: &String| {
        let inner = name
            .strip_prefix("caption-")
            .and_then(|rest| rest.strip_suffix(".npy"))
            .or_else(|| name.strip_prefix("caption_latents_"));
        inner.map(str::to_owned)
    };
    let captions: Vec<String> = names.iter().filter_map(caption).collect();
    let flipped = names.iter().any(|name| {
        name.strip_suffix(".npy")
            .unwrap_or(name)
            .ends_with("flipped")
    });
    let latents: Vec<Members> = names
        .iter()
        .filter_map(size)
        .map(|size| Members::Latents {
            size,
            captions: captions.clone(),
            flipped,
        })
        .collect();
    if latents.is_empty() {
        vec![Members::Pictures]
    } else {
        latents
    }
}

#[derive(Default)]
struct Page {
    result: Inspection,
    damaged: LeftOut,
    lengths: Vec<usize>,
    /// Number, sum and sum of squares of the latents' values.
    sums: (f64, f64, f64),
    glimpses: Vec<Glimpse>,
    /// How many of them there may be so far.
    wanted: usize,
}

impl Page {
    fn shard(&mut self, shard: &Shard, kinds: &[Members], index: Option<&DatasetIndex>) {
        let name = shard.name();
        match shard.file().checksum() {
            Ok((bytes, sha256)) => {
                self.result.bytes += bytes;
                let entry =
                    index.and_then(|index| index.shards.iter().find(|entry| entry.file == name));
                if entry.is_some_and(|entry| entry.sha256 != sha256) {
                    let broken = format!("{name}: its checksum is not that of the index");
                    self.result.broken_shards.push(broken);
                }
            }
            Err(error) => {
                let broken = format!("{name}: {}", error.reason());
                self.result.broken_shards.push(broken);
            }
        }
        // A sample is counted once, by its place, since keys may repeat; it is damaged if it is at any size.
        let mut damage: Vec<Option<(String, String)>> = Vec::new();
        let mut broken = None;
        for (i, members) in kinds.iter().enumerate() {
            let mut place = 0;
            let read = shard.for_each(members, |key, sample| {
                // A panic in a decoder costs only that sample.
                let looked =
                    unless_it_panics(|| sample.and_then(|sample| self.sample(sample, i == 0)));
                let lack = looked
                    .unwrap_or_else(|| Err("a decoder that panicked".into()))
                    .err();
                if damage.len() <= place {
                    damage.push(None);
                }
                if damage[place].is_none() {
                    damage[place] = lack.map(|lack| (key.to_owned(), lack));
                }
                place += 1;
                true
            });
            broken = broken.or(read.err());
        }
        self.result
            .broken_shards
            .extend(broken.map(|error| error.to_string()));
        for sample in damage {
            match sample {
                Some((key, lack)) => self.damaged.note(&name, &key, &lack),
                None => self.result.samples += 1,
            }
        }
    }

    fn sample(&mut self, sample: Sample, first: bool) -> Result<(), String> {
        let glimpse = match sample.image {
            Image::Encoded(file) => {
                let image = decode(&file)?;
                let dimensions = [image.width(), image.height()];
                *self.result.dimensions.entry(dimensions).or_default() += 1;
                let size = format!("{} x {}", image.width(), image.height());
                *self.result.sizes.entry(size).or_default() += 1;
                Glimpse::Picture(image)
            }
            Image::Decoded(image) => Glimpse::Picture(image),
            Image::Absent => return Err("no image".into()),
            Image::Precomputed { latent, caption } => {
                let latent = latent
                    .read()
                    .map_err(|error| format!("a latent: {error}"))?;
                if let Some(flipped) = sample.flipped {
                    let flipped = flipped.read();
                    let flipped = flipped.map_err(|error| format!("a flipped latent: {error}"))?;
                    if flipped.shape != latent.shape || !npy::all_finite(&flipped.values) {
                        return Err(
                            "a flipped latent that is not finite, or of another shape".into()
                        );
                    }
                }
                let others = sample.others.into_iter().filter_map(|other| other.states);
                let captions = std::iter::once(caption).chain(others);
                let captions: Vec<npy::Array> = captions
                    .map(|states| states.read())
                    .collect::<Result<_, _>>()
                    .map_err(|error| format!("caption states: {error}"))?;
                if !npy::all_finite(&latent.values) {
                    return Err("a non-finite latent".into());
                }
                if !captions
                    .iter()
                    .all(|states| npy::all_finite(&states.values))
                {
                    return Err("non-finite caption states".into());
                }
                *self
                    .result
                    .sizes
                    .entry(format!("{:?}", latent.shape))
                    .or_default() += 1;
                for states in captions.iter().filter(|_| first) {
                    *self
                        .result
                        .captions
                        .entry(format!("{:?}", states.shape))
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
        let there: BTreeSet<String> = shards.iter().map(Shard::name).collect();
        for entry in &index.shards {
            if !there.contains(&entry.file) {
                self.result
                    .broken_shards
                    .push(format!("{}: it is missing", entry.file));
            }
        }
    }

    fn finish(mut self) -> (Inspection, Vec<Glimpse>) {
        self.result.damaged = self.damaged.counts;
        self.result.examples = self.damaged.named.into_values().flatten().collect();
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
