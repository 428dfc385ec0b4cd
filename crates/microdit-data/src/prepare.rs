//! What is used of a dataset, and in which form.

use crate::{
    captions::clean_caption,
    folder::Columns,
    image::{decode, resize},
    sample::{Image, Sample},
};
use ::image::{ImageFormat, RgbImage, codecs::jpeg::JpegEncoder};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

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

/// A file's extension and content.
pub(crate) type ImageFile = (&'static str, Vec<u8>);

impl DatasetCard {
    /// What becomes of a sample: its caption and picture, or why it is left out.
    pub(crate) fn admit(&self, sample: Sample) -> Result<(String, ImageFile), Refused> {
        let caption = match self.clean {
            true => clean_caption(&sample.caption),
            false => sample.caption,
        };
        let filtered = self.filters.admit_caption(&caption);
        filtered.map_err(Refused::by_a_filter)?;
        let (image, file) = match sample.image {
            Image::Encoded(file) => {
                let image = decode(&file)
                    .map_err(|error| format!("an image that cannot be decoded: {error}"))?;
                (image, Some(file))
            }
            Image::Decoded(image) => (image, None),
            Image::Precomputed { .. } => return Err("no image".to_owned().into()),
        };
        let filtered = self.filters.admit_image(image.width(), image.height());
        filtered.map_err(Refused::by_a_filter)?;
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
        Ok((caption, image))
    }
}

/// Why a sample is left out.
pub(crate) struct Refused {
    pub(crate) reason: String,
    /// It is not as it should be, rather than not wanted.
    pub(crate) damaged: bool,
}

impl Refused {
    fn by_a_filter(reason: String) -> Self {
        Self {
            reason,
            damaged: false,
        }
    }
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self {
            reason,
            damaged: true,
        }
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
