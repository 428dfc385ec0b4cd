//! Decodes samples into what the network takes.

use super::config::LoaderConfig;
use crate::{
    image::{self, pixels},
    npy, parallel,
    sample::{Image, Sample, Stored},
};
use ::image::RgbImage;

/// A sample ready for the network.
pub(super) struct Decoded {
    pub(super) key: String,
    pub(super) image: Vec<f32>,
    pub(super) caption: Caption,
}

pub(super) enum Caption {
    Text(String),
    Vectors(Vec<f32>),
}

/// Decodes in parallel, keeping the order.
pub(super) fn decode_all(
    samples: &[Sample],
    config: &LoaderConfig,
) -> Vec<Result<Decoded, String>> {
    let results = parallel::map(samples, config.threads, |_, sample| decode(sample, config));
    // A panic in a decoder counts as a damaged image and does not end the run.
    let panicked = || Err("its decoder panicked".to_owned());
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(panicked))
        .collect()
}

fn decode(sample: &Sample, config: &LoaderConfig) -> Result<Decoded, String> {
    let text = || Caption::Text(sample.caption.clone());
    let (image, caption) = match &sample.image {
        Image::Absent => (vec![0.0; config.shape.iter().product()], text()),
        Image::Decoded(image) => (part(image, sample, config.shape), text()),
        Image::Encoded(file) => (part(&image::decode(file)?, sample, config.shape), text()),
        Image::Precomputed { latent, caption } => {
            let latent = array("latent", latent, &config.shape)?;
            let caption = array("caption", caption, &config.caption)?;
            (latent, Caption::Vectors(caption))
        }
    };
    Ok(Decoded {
        key: sample.key.clone(),
        image,
        caption,
    })
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
        return Err(format!(
            "its {what} has shape {found:?}, expected {shape:?}"
        ));
    }
    if !npy::all_finite(&array.values) {
        return Err(format!("its {what} is not finite"));
    }
    Ok(array.values)
}

/// The part of the image that the sample shows, in as many pixels as the network takes.
fn part(image: &RgbImage, sample: &Sample, [_, height, width]: [usize; 3]) -> Vec<f32> {
    pixels(&image::viewed(
        image,
        width as u32,
        height as u32,
        sample.view,
    ))
}
