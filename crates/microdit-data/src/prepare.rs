//! The card of a dataset: which samples are used, and in which form.

use crate::{
    columns::Columns,
    image::{Limits, Picture, read, resize},
    sample::{Image, Sample},
    shards::Members,
};
use ::image::{ImageFormat, RgbImage, codecs::jpeg::JpegEncoder};
use microdit_text::clean_caption;
use serde::{Deserialize, Serialize};
use std::{io::Cursor, sync::Arc};

/// A dataset: where it comes from, and which of its samples are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetCard {
    /// Its name.
    pub name: String,
    /// Where it is described.
    pub source: String,
    /// Its license.
    pub license: String,
    /// How large it is.
    pub size: String,
    /// How to get it.
    pub get: String,
    /// How it is stored on disk.
    pub layout: Layout,
    /// Names of pictures and captions in shards, where they are unusual.
    #[serde(default)]
    pub columns: Columns,
    /// Background of transparent images: red, green, blue.
    #[serde(default = "white")]
    pub background: [u8; 3],
    /// How large pictures may be.
    #[serde(default)]
    pub limits: Limits,
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

fn white() -> [u8; 3] {
    [u8::MAX; 3]
}

/// How a dataset is stored on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Layout {
    /// Tars of images and texts, as img2dataset writes them, or MDS shards of them.
    Shards,
    /// A directory of pictures, with a text beside each or a table of captions.
    Folder(Columns),
    /// Generated, not collected.
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
    /// Lossy, at a quality of 1 to 100.
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

/// The same of a caption.
pub(crate) type TextFile = (String, String);

/// The extension of a caption.
const TEXT: &str = "txt";

impl DatasetCard {
    /// Which members make a sample, in sources that are shards.
    pub(crate) fn members(&self) -> Members {
        Members::Named(Arc::new(self.columns.clone()))
    }

    /// Checks the numbers of the card.
    ///
    /// # Errors
    /// The key, what was expected, what was found.
    pub fn validate(&self) -> Result<(), String> {
        self.limits.check()?;
        self.columns
            .validate()
            .map_err(|error| format!("columns.{error}"))?;
        if let Layout::Folder(columns) = &self.layout {
            columns
                .validate()
                .map_err(|error| format!("layout.{error}"))?;
        }
        let Filters {
            max_aspect,
            caption_length,
            ..
        } = &self.filters;
        if let Some(aspect) = max_aspect.filter(|aspect| !(1.0..f64::INFINITY).contains(aspect)) {
            return Err(format!(
                "filters.max_aspect is {aspect}; expected at least 1"
            ));
        }
        if let Some((least, most)) = caption_length.filter(|(least, most)| least > most) {
            return Err(format!(
                "filters.caption_length is ({least}, {most}); expected the smaller number first"
            ));
        }
        if self.max_side == Some(0) {
            return Err("max_side is 0; expected at least 1 pixel".into());
        }
        match (self.store, &self.layout) {
            (Store::Jpeg(quality), _) if !(1..=100).contains(&quality) => Err(format!(
                "store has a quality of {quality}; expected 1 to 100"
            )),
            (_, Layout::Shapes { size, .. }) if !(1..=8192).contains(size) => Err(format!(
                "layout has a size of {size} pixels; expected 1 to 8192"
            )),
            _ => Ok(()),
        }
    }

    /// The captions, each as a member of a tar, and the image to store, or why the sample is left out.
    pub(crate) fn admit(&self, sample: Sample) -> Result<(Vec<TextFile>, ImageFile), Refused> {
        let captions = self.admit_captions(&sample);
        let captions = captions.map_err(Refused::by_a_filter)?;
        let (image, file) = match sample.image {
            Image::Encoded(file) => {
                let Picture { image, transparent } = read(&file, self.background, &self.limits)?;
                // Readers of shards know nothing about this background.
                (image, Some(file).filter(|_| !transparent))
            }
            Image::Decoded(image) => (image, None),
            Image::Precomputed { .. } | Image::Absent => return Err("no image".to_owned().into()),
        };
        let (width, height) = image.dimensions();
        self.limits.admit_aspect(width, height)?;
        let filtered = self.filters.admit_image(width, height);
        filtered.map_err(Refused::by_a_filter)?;
        let side = self.side(width, height);
        // What needs no change is not compressed again.
        let kept = file
            .filter(|_| side.is_none())
            .and_then(|file| Some((extension(&file)?, file)));
        let image = match kept {
            Some(kept) => kept,
            None => self.store.encode(&shrunk(image, side))?,
        };
        Ok((captions, image))
    }

    /// The captions that the filters let through; of several the first also under the name that is looked for where none is
    /// asked for.
    fn admit_captions(&self, sample: &Sample) -> Result<Vec<TextFile>, String> {
        let (mut admitted, mut refused) = (Vec::<TextFile>::new(), None);
        for (named, caption) in sample.captions() {
            let caption = match self.clean {
                true => clean_caption(caption),
                false => caption.to_owned(),
            };
            if let Err(reason) = self.filters.admit_caption(&caption) {
                refused = refused.or(Some(reason));
                continue;
            }
            let name = match self.names().get(named) {
                Some(name) if name.ends_with(TEXT) => name.clone(),
                Some(name) => format!("{name}.{TEXT}"),
                None => TEXT.to_owned(),
            };
            admitted.push((name, caption));
        }
        let first = admitted.first().map(|(_, caption)| caption.clone());
        let first = first.ok_or_else(|| refused.unwrap_or_else(|| "no caption".into()))?;
        if admitted.iter().all(|(name, _)| name != TEXT) {
            admitted.push((TEXT.to_owned(), first));
        }
        Ok(admitted)
    }

    /// Names of several captions, if there are such.
    fn names(&self) -> &[String] {
        match &self.layout {
            Layout::Folder(columns) => &columns.captions,
            Layout::Shards | Layout::Shapes { .. } => &self.columns.captions,
        }
    }

    /// The shorter side to which a picture of that size is shrunk, if it is: to that of the card, and to what readers of shards accept
    /// with their default limits.
    fn side(&self, width: u32, height: u32) -> Option<u32> {
        let short = width.min(height);
        let most = Limits::default();
        let too_large = most.admit_size(width, height).is_err().then(|| {
            let by_side = f64::from(most.max_side) / f64::from(width.max(height));
            let by_pixels = most.max_pixels as f64 / (f64::from(width) * f64::from(height));
            // A little less, to be safe from rounding.
            let scale = 0.999 * by_side.min(by_pixels.sqrt());
            ((f64::from(short) * scale) as u32).max(1)
        });
        let by_card = self.max_side.filter(|side| short > *side);
        by_card.into_iter().chain(too_large).min()
    }
}

/// Why a sample is left out.
pub(crate) struct Refused {
    pub(crate) reason: String,
    /// Damaged, rather than filtered out.
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
