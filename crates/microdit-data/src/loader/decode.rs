//! Decodes samples into what the network takes.

use super::config::LoaderConfig;
use crate::{
    image::{self, write_pixels},
    npy,
    parallel::{self, unless_it_panics},
    sample::{Image, Sample, Stored},
};
use ::image::RgbImage;
use std::borrow::Cow;

/// A sample ready for the network.
pub(super) struct Decoded {
    pub(super) key: String,
    pub(super) image: Shown,
    /// What its caption says; empty if that is not known of a precomputed one.
    pub(super) text: String,
    /// The states of a precomputed caption.
    pub(super) states: Option<Vec<f32>>,
}

/// The image of a sample, as small as it can wait for its batch.
pub(super) enum Shown {
    /// A picture of the batch's shape.
    Picture(RgbImage),
    /// Pixels or a latent as the network takes them.
    Values(Vec<f32>),
}

impl Shown {
    /// Writes what the network takes.
    pub(super) fn write(&self, values: &mut [f32]) {
        match self {
            Self::Picture(picture) => write_pixels(picture, values),
            Self::Values(own) => values.copy_from_slice(own),
        }
    }
}

/// Decodes in parallel, keeping the order.
pub(super) fn decode_all(
    samples: &[&Sample],
    config: &LoaderConfig,
    shape: [usize; 3],
) -> Vec<Result<Decoded, String>> {
    let decode = |_, sample: &Sample| decode(sample, config, shape);
    let results = parallel::map(samples.iter().copied(), config.threads, decode);
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(panicked))
        .collect()
}

/// A panic in a decoder counts as a damaged image and does not end the run.
pub(super) fn panicked<T>() -> Result<T, String> {
    Err("its decoder panicked".into())
}

fn decode(sample: &Sample, config: &LoaderConfig, shape: [usize; 3]) -> Result<Decoded, String> {
    let (image, states) = match &sample.image {
        Image::Absent => (Shown::Values(vec![0.0; shape.iter().product()]), None),
        Image::Decoded(image) => (part(Cow::Borrowed(image), sample, shape), None),
        Image::Encoded(file) => (part(Cow::Owned(image::decode(file)?), sample, shape), None),
        Image::Precomputed { latent, caption } => {
            let latent = array("latent", latent, &shape)?;
            let states = match config.trimmed {
                true => padded(caption, config.caption)?,
                false => array("caption", caption, &config.caption)?,
            };
            (Shown::Values(latent), Some(states))
        }
    };
    Ok(Decoded {
        key: sample.key.clone(),
        image,
        text: sample.caption.clone(),
        states,
    })
}

/// The number of the bucket that a sample belongs to: nearest to its picture's shape, or of exactly the size of its latent.
pub(super) fn bucket_of(sample: &Sample, config: &LoaderConfig) -> Result<usize, String> {
    unless_it_panics(|| bucket(sample, config)).unwrap_or_else(panicked)
}

fn bucket(sample: &Sample, config: &LoaderConfig) -> Result<usize, String> {
    let nearest = |[width, height]: [u32; 2]| {
        let buckets = config.buckets.as_ref();
        buckets.map_or(0, |buckets| buckets.nearest(width, height))
    };
    match &sample.image {
        Image::Absent => Ok(nearest([1, 1])),
        Image::Decoded(image) => Ok(nearest([image.width(), image.height()])),
        Image::Encoded(file) => Ok(nearest(image::size(file)?)),
        Image::Precomputed { latent, .. } => {
            let shape = latent
                .shape()
                .map_err(|error| format!("its latent: {error}"))?;
            let mut shapes = (0..config.sizes().len()).map(|bucket| config.shape_of(bucket));
            shapes
                .position(|bucket| shape == bucket)
                .ok_or_else(|| format!("its latent has shape {shape:?}, that of no bucket"))
        }
    }
}

/// The values of a pre-computed array, which must have the given shape.
fn array(what: &str, stored: &Stored, shape: &[usize]) -> Result<Vec<f32>, String> {
    let array = match stored {
        Stored::Npy(file) => npy::read(file),
        Stored::Halves(bytes) => npy::read_halves(bytes, shape),
    };
    let array = array.map_err(|error| format!("its {what}: {error}"))?;
    if array.shape != shape {
        let found = array.shape;
        let trimmed = what == "caption"
            && matches!((&found[..], shape), ([few, a], [many, b]) if few < many && a == b);
        let trimmed = match trimmed {
            true => {
                "; if its padding was trimmed off, `trimmed: true` of the data reads it, as another conditioning"
            }
            false => "",
        };
        return Err(format!(
            "its {what} has shape {found:?}, expected {shape:?}{trimmed}"
        ));
    }
    if !npy::all_finite(&array.values) {
        return Err(format!("its {what} is not finite"));
    }
    Ok(array.values)
}

/// The states of a caption without its padding, with zeros in its place.
fn padded(stored: &Stored, [tokens, channels]: [usize; 2]) -> Result<Vec<f32>, String> {
    let there = match stored {
        Stored::Npy(_) => {
            let array = stored
                .read()
                .map_err(|error| format!("its caption: {error}"))?;
            match array.shape[..] {
                [there, found] if found == channels => there,
                _ => {
                    let found = array.shape;
                    return Err(format!(
                        "its caption has shape {found:?}, expected at most {tokens} tokens of {channels} channels"
                    ));
                }
            }
        }
        Stored::Halves(bytes) => bytes.len() / (2 * channels.max(1)),
    };
    if !(1..=tokens).contains(&there) {
        return Err(format!(
            "its caption has {there} tokens, expected 1 to {tokens}"
        ));
    }
    let mut states = array("caption", stored, &[there, channels])?;
    states.resize(tokens * channels, 0.0);
    Ok(states)
}

/// The part of the image that the sample shows, in as many pixels as the network takes.
fn part(image: Cow<'_, RgbImage>, sample: &Sample, [_, height, width]: [usize; 3]) -> Shown {
    let part = image::viewed(image, width as u32, height as u32, sample.view);
    Shown::Picture(part.into_owned())
}
