//! Image autoencoders of latent diffusion (arXiv 2112.10752), as the diffusers library stores them.

mod kl;
mod tiled;
mod tiny;

pub use kl::{AutoencoderKl, AutoencoderKlConfig, Posterior};
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig};

use crate::weights::Weights;
use burn::tensor::Tensor;
use image::RgbImage;
use microdit::{DitBackend, weights::WeightsError};
use std::path::Path;

/// File names of weights in a diffusers directory, in the order they are looked for.
const WEIGHTS: [&str; 3] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
];

/// An autoencoder of either kind: images in -1..1 to the latents the denoiser is trained on, and back.
#[derive(Clone, Debug)]
pub enum Vae<B: DitBackend> {
    /// With a Gaussian posterior.
    Kl(Box<AutoencoderKl<B>>),
    /// Small and deterministic (TAESD).
    Tiny(Box<AutoencoderTiny<B>>),
}

impl<B: DitBackend> Vae<B> {
    /// Opens what diffusers saved: a directory with `config.json` and weights, its parent with a directory `vae`, or the file of
    /// weights beside its `config.json`.
    ///
    /// # Errors
    /// Missing or damaged files, and weights that do not fit their configuration.
    pub fn open(path: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        let nested = path.join("vae");
        let path = if nested.is_dir() { &nested } else { path };
        let (folder, weights) = if path.is_dir() {
            (path, crate::weights::find(path, &WEIGHTS)?)
        } else {
            (path.parent().unwrap_or(path), path.to_owned())
        };
        let (file, json) = crate::weights::json(&folder.join("config.json"))?;
        let weights = Weights::open(&weights)?;
        let invalid = |error: serde_json::Error| crate::weights::format(&file, &error.to_string());
        match json["_class_name"].as_str() {
            Some("AutoencoderTiny") => {
                let config: AutoencoderTinyConfig =
                    serde_json::from_value(json).map_err(invalid)?;
                Ok(Self::Tiny(Box::new(config.load(&weights.at(""), device)?)))
            }
            Some("AutoencoderKL") | None => {
                let config: AutoencoderKlConfig = serde_json::from_value(json).map_err(invalid)?;
                Ok(Self::Kl(Box::new(config.load(&weights.at(""), device)?)))
            }
            Some(other) => Err(crate::weights::format(
                &file,
                &format!("it describes a {other}; expected AutoencoderKL or AutoencoderTiny"),
            )),
        }
    }

    /// Images `[batch, 3, height, width]` in -1..1 to latents `[batch, channels, height / 8, width / 8]` for the denoiser, sampled
    /// from the posterior with standard normal `noise` of the latents' shape, which a tiny autoencoder ignores.
    pub fn encode(&self, images: Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Kl(vae) => vae.scaled(vae.encode(images).sample(noise)),
            Self::Tiny(vae) => vae.encode(images),
        }
    }

    /// Latents of the denoiser to images, about -1..1.
    pub fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Kl(vae) => vae.decode_tiled(vae.unscaled(latents)),
            Self::Tiny(vae) => vae.decode(latents),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().latent_channels,
            Self::Tiny(vae) => vae.config().latent_channels,
        }
    }

    /// Pixels of an image's side to one of the latents'.
    pub fn shrinks_by(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().shrinks_by(),
            Self::Tiny(vae) => vae.config().shrinks_by(),
        }
    }
}

/// Images `[batch, 3, height, width]` to pictures; values beyond -1..1 are cut.
pub fn pictures<B: DitBackend>(images: Tensor<B, 4>) -> Vec<RgbImage> {
    let [_, _, height, width] = images.dims();
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    crate::PixelCodec { scale: 1.0 }.decode(&values, width as u32, height as u32)
}
