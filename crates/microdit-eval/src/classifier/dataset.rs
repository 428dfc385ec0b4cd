//! Labelled pictures in memory, out of shards or generated.

use super::ClassifierError;
use crate::evaluate::SHAPES;
use image::RgbImage;
use microdit::checksum::hexadecimal;
use microdit_data::{
    Columns, Image, Members, Names, Sample, Shapes, Shard, Shards,
    image::{decode, square},
    parallel,
    shapes::Scene,
};
use microdit_train::recipe::MAX_IMAGES;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    thread,
};

/// Bytes of all pixels together.
const LARGEST: usize = 4 << 30;

/// Classes at most: what a small network can tell apart.
const MOST_CLASSES: usize = 1000;

/// Where the label of a sample is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Labels {
    /// What follows the last of these characters in the key: `'-'` for `000123-cat`.
    FromKeySuffix(char),
    /// The text of a member of the tar, or of a column of the MDS shard, such as `cls`.
    Member(String),
}

impl Labels {
    /// As command lines and recipes say it: the name of a member, or `-` or nothing for what follows the last `-` in a key.
    pub fn named(name: Option<&str>) -> Self {
        match name {
            None | Some("-") => Self::FromKeySuffix('-'),
            Some(member) => Self::Member(member.to_owned()),
        }
    }
}

/// Whether `shards` is the name of the generated dataset, [`SHAPES`], and not of files.
pub fn is_generated(shards: &str) -> bool {
    shards == SHAPES && !Path::new(shards).exists()
}

/// What a classifier is shown a dataset for; of the generated dataset these are different parts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// To learn from.
    Training,
    /// To be measured by.
    HeldOut,
}

impl Part {
    /// Places in the generated dataset; no run trains on those that are held out.
    fn places(self) -> Range<u64> {
        match self {
            Self::Training => 0..12_000,
            Self::HeldOut => MAX_IMAGES..MAX_IMAGES + 2_000,
        }
    }
}

/// Pictures of one side with their classes, and the captions of each class.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// As the shards were given.
    pub(super) shards: String,
    pub(super) side: usize,
    /// Levels `[pictures, 3, side, side]`.
    pub(super) pixels: Vec<u8>,
    /// Place of each picture's class in `classes`.
    pub(super) labels: Vec<usize>,
    /// Sorted.
    pub(super) classes: Vec<String>,
    /// The class of each caption; none if pictures of several classes have it.
    pub(super) captions: BTreeMap<String, Option<usize>>,
    left_out: usize,
}

impl Dataset {
    /// The part of what `shards` names: shards as [`read`](Self::read) takes them, or the [generated](is_generated) dataset, where every
    /// caption of a single figure is a class of its own. Pairs, of which there are too many kinds, are left out of it.
    pub(super) fn part(
        shards: &str,
        part: Part,
        labels: &Labels,
        side: usize,
    ) -> Result<Self, ClassifierError> {
        if !is_generated(shards) {
            return Self::read(shards, labels, side);
        }
        let (mut data, mut named) = (Self::empty(shards, side), Vec::new());
        let scenes = part.places().map(|place| Shapes::scene(0, place));
        let scenes: Vec<Scene> = scenes.filter(|scene| scene.relation.is_none()).collect();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let painted = parallel::map(&scenes, threads, |_, scene| {
            (levels(&scene.paint(side as u32)), scene.caption())
        });
        for (levels, caption) in painted.into_iter().flatten() {
            data.pixels.extend(levels);
            named.push((caption.clone(), Some(caption)));
        }
        data.number(named)?;
        Ok(data)
    }

    fn empty(shards: &str, side: usize) -> Self {
        Self {
            shards: shards.to_owned(),
            side,
            pixels: Vec::new(),
            labels: Vec::new(),
            classes: Vec::new(),
            captions: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// Reads the shards that `shards` names, as [`Shards::open`] takes it; pictures are resized by their shorter side and
    /// cut to the square in the middle. Samples that are damaged are left out, and a warning names the first.
    ///
    /// # Errors
    /// Shards that cannot be read, a sample without a label, and more pictures or classes than there is room for.
    pub fn read(shards: &str, labels: &Labels, side: usize) -> Result<Self, ClassifierError> {
        let (mut data, mut named) = (Self::empty(shards, side), Vec::new());
        let members = |name: &String| {
            let columns = Columns {
                caption: Names::from([name.as_str()]),
                ..Columns::default()
            };
            Members::Named(columns.into())
        };
        // Labels that are members are read as if they were captions; the captions are then read by themselves.
        let (members, captioned) = match labels {
            Labels::FromKeySuffix(_) => (Members::Pictures, None),
            Labels::Member(name) => {
                let captioned = Shards::open(shards, Members::Pictures)?;
                (members(name), Some(captioned))
            }
        };
        let opened = Shards::open(shards, members)?;
        for shard in opened.in_turn() {
            let (samples, incomplete) = opened.read(shard)?;
            for lack in incomplete {
                let key = lack.key.as_deref().unwrap_or("the rest");
                data.leave_out(&lack.shard, key, &lack.lack);
            }
            let captions = match &captioned {
                Some(shards) => captions(shards, shard),
                None => BTreeMap::new(),
            };
            data.add(shard, labels, samples, &captions, &mut named)?;
        }
        data.number(named)?;
        Ok(data)
    }

    /// Pictures in it.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The classes, sorted.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Samples that could not be read.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The levels of a picture, `[3, side, side]`.
    pub(super) fn picture(&self, place: usize) -> &[u8] {
        let size = 3 * self.side * self.side;
        &self.pixels[place * size..][..size]
    }

    /// Adds the pictures of a shard, with the names of their classes and their captions in `named`.
    fn add(
        &mut self,
        shard: &Shard,
        labels: &Labels,
        samples: Vec<Sample>,
        captions: &BTreeMap<String, String>,
        named: &mut Vec<(String, Option<String>)>,
    ) -> Result<(), ClassifierError> {
        let side = self.side as u32;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let squares = parallel::map(&samples, threads, |_, sample| planes(sample, side));
        for (sample, square) in samples.into_iter().zip(squares) {
            let levels = match square.unwrap_or_else(|| Err("its decoder panicked".into())) {
                Ok(levels) => levels,
                Err(error) => {
                    self.leave_out(&shard.name(), &sample.key, &error);
                    continue;
                }
            };
            let (label, caption) = match labels {
                Labels::FromKeySuffix(mark) => {
                    let suffix = sample.key.rsplit_once(*mark).map(|(_, suffix)| suffix);
                    let label = suffix.filter(|suffix| !suffix.is_empty());
                    let label = label.ok_or_else(|| ClassifierError::Label {
                        shard: shard.name(),
                        key: sample.key.clone(),
                        expected: format!("expected a label after the last `{mark}` of its key"),
                    })?;
                    (label.to_owned(), Some(sample.caption))
                }
                Labels::Member(_) => (sample.caption, captions.get(&sample.key).cloned()),
            };
            self.pixels.extend(levels);
            if self.pixels.len() > LARGEST {
                let count = named.len();
                let message = format!(
                    "{count} pictures of {side} pixels take more than {} GiB; give fewer shards",
                    LARGEST >> 30
                );
                return Err(ClassifierError::shards(&self.shards, message));
            }
            named.push((label, caption));
        }
        Ok(())
    }

    /// Numbers the classes in their order, and notes the class of each caption.
    fn number(&mut self, named: Vec<(String, Option<String>)>) -> Result<(), ClassifierError> {
        let classes: BTreeSet<&String> = named.iter().map(|(label, _)| label).collect();
        if !(2..=MOST_CLASSES).contains(&classes.len()) {
            let (found, first) = (classes.len(), classes.first());
            let first = first.map_or(String::new(), |first| format!(", such as `{first}`"));
            let message =
                format!("its pictures are of {found} classes{first}; expected 2 to {MOST_CLASSES}");
            return Err(ClassifierError::shards(&self.shards, message));
        }
        self.classes = classes.into_iter().cloned().collect();
        for (label, caption) in named {
            // It is among them.
            let place = self.classes.binary_search(&label).unwrap_or_default();
            self.labels.push(place);
            if let Some(caption) = caption {
                let class = self.captions.entry(caption).or_insert(Some(place));
                *class = class.filter(|known| *known == place);
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, shard: &str, key: &str, lack: &str) {
        if self.left_out == 0 {
            tracing::warn!("left out of what the classifier sees: {shard}: {key}: {lack}");
        }
        self.left_out += 1;
    }
}

/// The levels of a sample's picture, plane by plane.
fn planes(sample: &Sample, side: u32) -> Result<Vec<u8>, String> {
    let decoded;
    let picture: &RgbImage = match &sample.image {
        Image::Decoded(picture) => picture,
        Image::Encoded(file) => {
            decoded = decode(file)?;
            &decoded
        }
        Image::Precomputed { .. } => return Err("a latent; expected a picture".into()),
        Image::Absent => return Err("a caption alone; expected a picture".into()),
    };
    Ok(levels(&square(picture, side)))
}

/// The levels of a picture, plane by plane.
fn levels(picture: &RgbImage) -> Vec<u8> {
    let plane = |channel: usize| picture.pixels().map(move |pixel| pixel.0[channel]);
    (0..3).flat_map(plane).collect()
}

/// The captions of a shard by the keys of their samples; samples without one have none.
fn captions(shards: &Shards, shard: &Shard) -> BTreeMap<String, String> {
    let samples = shards.read(shard).map(|(samples, _)| samples);
    let samples = samples.unwrap_or_default().into_iter();
    samples.map(|sample| (sample.key, sample.caption)).collect()
}

/// SHA-256 over the checksums of the files of these shards, in their order; of the generated dataset, of what is generated.
pub(super) fn content(shards: &str, part: Part) -> Result<String, ClassifierError> {
    let mut digest = Sha256::new();
    if is_generated(shards) {
        digest.update(format!("{SHAPES} {:?}", part.places()));
        return Ok(hexadecimal(&digest.finalize()));
    }
    for shard in Shards::open(shards, Members::Pictures)?.in_turn() {
        let (_, sum) = shard.file().checksum()?;
        digest.update(sum);
    }
    Ok(hexadecimal(&digest.finalize()))
}
