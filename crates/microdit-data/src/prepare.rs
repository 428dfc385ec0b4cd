//! Captioned images as they were collected to shards to train on or to pre-compute from.

use crate::{
    captions::clean_caption,
    folder::{Columns, Folder},
    image::{decode, resize},
    sample::{DataError, Image, Sample},
    shapes::Shapes,
    shards::{Members, Shards},
    writer::{DatasetIndex, ShardReport, ShardWriter, safe_key},
};
use ::image::{ImageFormat, RgbImage, codecs::jpeg::JpegEncoder};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io::Cursor, path::Path};

/// A dataset: where it comes from, and which of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetCard {
    /// Its name.
    pub name: String,
    /// Where it is described.
    pub source: String,
    /// On which terms it may be used.
    pub licence: String,
    /// How large it is.
    pub size: String,
    /// How to get it.
    pub get: String,
    /// How it lies on the disk.
    pub layout: Layout,
    /// Whether captions are cleaned.
    #[serde(default)]
    pub clean: bool,
    /// What is left out.
    #[serde(default)]
    pub filters: Filters,
    /// Larger pictures are shrunk until their shorter side has this many pixels.
    #[serde(default)]
    pub max_side: Option<u32>,
    /// How pictures that had to be shrunk are stored; the others stay as they are.
    #[serde(default)]
    pub store: Store,
}

/// How a dataset lies on the disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Layout {
    /// Tars of images and texts, as img2dataset writes them, or MDS shards of them.
    Shards,
    /// A directory of pictures, with a text beside each or a table of captions.
    Folder(Columns),
    /// Drawn, not collected.
    Shapes {
        /// Side of a picture in pixels.
        size: u32,
        /// Pictures.
        count: u64,
    },
}

/// What is left out of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// Pictures with a shorter side than this, in pixels.
    pub min_side: Option<u32>,
    /// Pictures whose longer side is more than this times the shorter.
    pub max_aspect: Option<f64>,
    /// Captions with fewer or more characters.
    pub caption_length: Option<(usize, usize)>,
    /// Captions with none of these words, in lower case.
    pub mentions: Vec<String>,
}

/// How pictures are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Store {
    /// With losses, at a quality of 1 to 100.
    Jpeg(u8),
    /// Without losses.
    Png,
}

impl Default for Store {
    fn default() -> Self {
        Self::Jpeg(95)
    }
}

/// How shards are written.
#[derive(Clone, Copy, Debug)]
pub struct PrepareConfig<'a> {
    /// Directory or shards of the collected pictures.
    pub source: &'a str,
    /// Table of captions, if it is not found by itself.
    pub captions: Option<&'a Path>,
    /// Bytes after which the next shard begins.
    pub shard_bytes: u64,
    /// Samples after which to stop.
    pub limit: Option<u64>,
}

/// Writes the shards of the dataset `card` describes into `out`, a new directory, and an index at the end. `progress` is
/// told the samples seen.
///
/// # Errors
/// Unreadable sources, files that cannot be written, a directory that is in use.
pub fn prepare(
    card: &DatasetCard,
    config: &PrepareConfig<'_>,
    out: &Path,
    mut progress: impl FnMut(u64),
) -> Result<DatasetIndex, DataError> {
    let used = out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(DataError::InUse(out.to_owned()));
    }
    std::fs::create_dir_all(out).map_err(DataError::io(out))?;
    let mut sink = Sink {
        card,
        out,
        bound: config.shard_bytes,
        writer: None,
        rejected: BTreeMap::new(),
        reports: Vec::new(),
    };
    let mut seen = 0;
    let mut take = |sample: Result<Sample, String>| -> Result<bool, DataError> {
        if config.limit.is_some_and(|limit| seen >= limit) {
            return Ok(false);
        }
        seen += 1;
        progress(seen);
        sink.take(sample)?;
        Ok(true)
    };
    match &card.layout {
        Layout::Shards => {
            let shards = Shards::open(config.source, Members::Pictures)?;
            for shard in shards.iter() {
                let mut result = Ok(true);
                shard.for_each(Members::Pictures, |_, sample| {
                    if matches!(result, Ok(true)) {
                        result = take(sample);
                    }
                })?;
                if !result? {
                    break;
                }
            }
        }
        Layout::Folder(columns) => {
            let folder = Folder::open(Path::new(config.source), config.captions, columns.clone())?;
            folder.for_each(|_, sample| take(sample))?;
        }
        Layout::Shapes { size, count } => {
            let shapes = Shapes { size: *size };
            for i in 0..*count {
                if !take(Ok(shapes.sample(0, i)))? {
                    break;
                }
            }
        }
    }
    sink.finish()
}

/// What samples go through on their way into shards.
struct Sink<'a> {
    card: &'a DatasetCard,
    out: &'a Path,
    bound: u64,
    writer: Option<ShardWriter>,
    /// Of the shard at hand.
    rejected: BTreeMap<String, u64>,
    reports: Vec<ShardReport>,
}

impl Sink<'_> {
    fn take(&mut self, sample: Result<Sample, String>) -> Result<(), DataError> {
        let (key, caption, image) = match sample.and_then(|sample| self.card.admit(sample)) {
            Ok(admitted) => admitted,
            Err(reason) => {
                *self.rejected.entry(reason).or_default() += 1;
                return Ok(());
            }
        };
        if self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.bytes() >= self.bound)
        {
            self.close()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            closed => {
                let path = self.out.join(format!("{:06}.tar", self.reports.len()));
                closed.insert(ShardWriter::create(&path)?)
            }
        };
        let (extension, file) = image;
        writer.add(&key, &[(extension, &file), ("txt", caption.as_bytes())])
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(writer) = self.writer.take() {
            let rejected = std::mem::take(&mut self.rejected);
            self.reports.push(writer.finish(rejected)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<DatasetIndex, DataError> {
        self.close()?;
        let card = serde_json::to_value(self.card).expect("keys are texts");
        let mut index = DatasetIndex::new(self.reports, card);
        // Those after the last shard, or all if there is none.
        for (reason, count) in self.rejected {
            *index.rejected.entry(reason).or_default() += count;
        }
        index.write(self.out)?;
        Ok(index)
    }
}

/// A file's extension and content.
type ImageFile = (&'static str, Vec<u8>);

impl DatasetCard {
    /// What becomes of a sample: key, caption and picture, or why it is left out.
    fn admit(&self, sample: Sample) -> Result<(String, String, ImageFile), String> {
        let caption = match self.clean {
            true => clean_caption(&sample.caption),
            false => sample.caption,
        };
        self.filters.admit_caption(&caption)?;
        let (image, file) = match sample.image {
            Image::Encoded(file) => {
                let image = decode(&file).map_err(|_| "an image that cannot be decoded")?;
                (image, Some(file))
            }
            Image::Decoded(image) => (image, None),
            Image::Precomputed { .. } => return Err("no image".into()),
        };
        self.filters.admit_image(image.width(), image.height())?;
        let small = self
            .max_side
            .is_none_or(|side| image.width().min(image.height()) <= side);
        // What is fine already is not compressed a second time.
        let kept = file
            .filter(|_| small)
            .and_then(|file| Some((extension(&file)?, file)));
        let image = match kept {
            Some(kept) => kept,
            None => self.store.encode(&shrunk(image, self.max_side))?,
        };
        Ok((safe_key(&sample.key), caption, image))
    }
}

impl Filters {
    fn admit_caption(&self, caption: &str) -> Result<(), String> {
        let length = caption.chars().count();
        let (least, most) = self.caption_length.unwrap_or((1, usize::MAX));
        if length < least {
            return Err(if length == 0 {
                "an empty caption"
            } else {
                "a caption that is too short"
            }
            .into());
        }
        if length > most {
            return Err("a caption that is too long".into());
        }
        let lower = caption.to_lowercase();
        let mut words = lower.split(|c: char| !c.is_alphanumeric());
        let mentioned = |word: &str| self.mentions.iter().any(|mention| mention == word);
        if !self.mentions.is_empty() && !words.any(mentioned) {
            return Err("a caption without any of the words".into());
        }
        Ok(())
    }

    fn admit_image(&self, width: u32, height: u32) -> Result<(), String> {
        let (short, long) = (width.min(height), width.max(height));
        if self.min_side.is_some_and(|side| short < side) {
            return Err("an image that is too small".into());
        }
        let aspect = f64::from(long) / f64::from(short);
        if self.max_aspect.is_some_and(|most| aspect > most) {
            return Err("an image that is too narrow".into());
        }
        Ok(())
    }
}

impl Store {
    fn encode(self, image: &RgbImage) -> Result<ImageFile, String> {
        let mut file = Cursor::new(Vec::new());
        let (extension, written) = match self {
            Self::Jpeg(quality) => (
                "jpg",
                image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality)),
            ),
            Self::Png => ("png", image.write_to(&mut file, ImageFormat::Png)),
        };
        written.map_err(|_| "an image that cannot be encoded")?;
        Ok((extension, file.into_inner()))
    }
}

/// The extension of a picture in one of the formats of shards.
fn extension(file: &[u8]) -> Option<&'static str> {
    match ::image::guess_format(file).ok()? {
        ImageFormat::Jpeg => Some("jpg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::WebP => Some("webp"),
        _ => None,
    }
}

fn shrunk(image: RgbImage, side: Option<u32>) -> RgbImage {
    match side {
        Some(side) if image.width().min(image.height()) > side => {
            let short = f64::from(image.width().min(image.height()));
            let scaled = |length: u32| (f64::from(length) * f64::from(side) / short).round() as u32;
            resize(&image, scaled(image.width()), scaled(image.height()))
        }
        _ => image,
    }
}
