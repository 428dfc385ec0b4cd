//! Image autoencoders of latent diffusion (arXiv 2112.10752), as the diffusers library stores them.

mod blocks;
mod kl;
mod kl_config;
mod tiled;
mod tiny;

pub use kl::{AutoencoderKl, Posterior};
pub use kl_config::AutoencoderKlConfig;
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig};

use crate::{
    pipeline_files::{self, DIFFUSERS, NetworkFiles},
    weights::Weights,
};
use burn::tensor::Tensor;
use image::RgbImage;
use microdit::{DitBackend, nn::Precision, weights::WeightsError};
use serde::Deserialize;
use std::path::Path;

/// What a `config.json` of diffusers describes.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_class_name")]
    class: Option<String>,
}

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
    /// weights beside its `config.json`; or the one in a single file of latent diffusion.
    ///
    /// # Errors
    /// Missing or damaged files, and weights that do not fit their configuration.
    pub fn open(path: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        Self::of(files(path)?, device)
    }

    /// The autoencoder of these files.
    ///
    /// # Errors
    /// One of another kind, damaged files, and weights that do not fit their configuration.
    pub fn of(files: NetworkFiles, device: &B::Device) -> Result<Self, WeightsError> {
        let kind: Kind = files.parse()?;
        match kind.class.as_deref() {
            Some("AutoencoderTiny") => {
                let config: AutoencoderTinyConfig = files.parse()?;
                let weights = Weights::of(files.weights);
                Ok(Self::Tiny(Box::new(config.load(&weights.at(""), device)?)))
            }
            Some("AutoencoderKL") | None => {
                let keys = files.keys()?;
                if let Some((key, value)) = kl_config::unsupported(&keys) {
                    return Err(
                        files.unusable(&format!("{key} is {value}, which is not supported"))
                    );
                }
                let config: AutoencoderKlConfig = files.parse()?;
                let weights = Weights::of(files.weights);
                Ok(Self::Kl(Box::new(config.load(&weights.at(""), device)?)))
            }
            Some(other) => Err(files.unusable(&format!(
                "it describes a {other}; expected AutoencoderKL or AutoencoderTiny"
            ))),
        }
    }

    /// The same that computes in `precision`; a tiny one computes in f32 always.
    #[must_use]
    pub fn computing_in(self, precision: Precision) -> Self {
        match self {
            Self::Kl(vae) => Self::Kl(Box::new(vae.computing_in(precision))),
            Self::Tiny(_) => self,
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

    /// Pixels of an image's side per pixel of the latents' side.
    pub fn shrinks_by(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().shrinks_by(),
            Self::Tiny(vae) => vae.config().shrinks_by(),
        }
    }
}

/// The files of the autoencoder at a path, as [`Vae::open`] takes it, of which no weights are read yet.
///
/// # Errors
/// Missing or damaged files.
pub fn files(path: &Path) -> Result<NetworkFiles, WeightsError> {
    let nested = path.join("vae");
    let path = if nested.is_dir() { &nested } else { path };
    if path.is_dir() {
        return NetworkFiles::in_directory(path, &DIFFUSERS);
    }
    match pipeline_files::vae_of_file(path)? {
        Some(files) => Ok(files),
        None => NetworkFiles::beside(path.parent().unwrap_or(path), path),
    }
}

/// Images `[batch, 3, height, width]` to pictures; values beyond -1..1 are clipped.
pub fn pictures<B: DitBackend>(images: Tensor<B, 4>) -> Vec<RgbImage> {
    let [_, _, height, width] = images.dims();
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    crate::PixelCodec { scale: 1.0 }.decode(&values, width as u32, height as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, TensorData};
    use burn_flex::Flex;
    use serde_json::json;

    /// A directory as diffusers saves it, with random weights.
    fn saved(folder: &Path, config: &serde_json::Value) {
        let (weights, device) = (Weights::random(0), Default::default());
        let at = weights.at("");
        if config["_class_name"] == "AutoencoderTiny" {
            let config: AutoencoderTinyConfig = serde_json::from_value(config.clone()).unwrap();
            config.load::<Flex>(&at, &device).unwrap();
        } else {
            let config: AutoencoderKlConfig = serde_json::from_value(config.clone()).unwrap();
            config.load::<Flex>(&at, &device).unwrap();
        }
        std::fs::create_dir_all(folder).unwrap();
        weights
            .write_read(&folder.join(DIFFUSERS[0]), DType::F32)
            .unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }

    fn image() -> Tensor<Flex, 4> {
        let values: Vec<f32> = (0..3 * 16 * 16).map(|i| (i as f32).sin()).collect();
        Tensor::from_data(TensorData::new(values, [1, 3, 16, 16]), &Default::default())
    }

    #[test]
    fn both_kinds_are_opened_as_diffusers_saves_them() {
        let folder = tempfile::tempdir().unwrap();
        let kl = json!({
            "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "layers_per_block": 1, "latent_channels": 16,
            "norm_num_groups": 4, "scaling_factor": 0.5, "shift_factor": 0.25, "use_quant_conv": false,
            "use_post_quant_conv": false, "sample_size": 32,
        });
        let tiny = json!({
            "_class_name": "AutoencoderTiny", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
            "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 2], "num_decoder_blocks": [2, 1],
        });
        let device = Default::default();
        for (name, config, channels) in [("pipeline/vae", kl, 16), ("tiny", tiny, 4)] {
            saved(&folder.path().join(name), &config);
            let name = name.trim_end_matches("/vae");
            let vae = Vae::<Flex>::open(&folder.path().join(name), &device).unwrap();
            assert_eq!((vae.latent_channels(), vae.shrinks_by()), (channels, 2));
            let noise = Tensor::zeros([1, channels, 8, 8], &device);
            let latents = vae.encode(image(), noise);
            assert_eq!(latents.dims(), [1, channels, 8, 8]);
            if let Vae::Kl(vae) = &vae {
                // Without noise: the mean, shifted, then scaled.
                let expected = (vae.encode(image()).mean - 0.25) * 0.5;
                let error = (latents.clone() - expected).abs().max().into_scalar();
                assert!(error < 1e-6, "{error}");
            }
            assert_eq!(vae.decode(latents).dims(), [1, 3, 16, 16]);
        }
    }

    /// Each of some twenty layers rounds what it hands on, its weights and its sums, by 2^-8 at most and half of that as a rule: together
    /// about `2^-9 (3 * 20)^0.5` of the size of the result, 1.5 %.
    #[test]
    fn bf16_follows_f32_at_its_precision() {
        let config = AutoencoderKlConfig {
            block_out_channels: vec![64, 96],
            layers_per_block: 1,
            norm_num_groups: 4,
            ..AutoencoderKlConfig::sdxl()
        };
        let (weights, device) = (Weights::random(0), Default::default());
        let wide = config.load::<Flex>(&weights.at(""), &device).unwrap();
        let narrow = wide.clone().computing_in(Precision::Bf16);
        let size = |x: Tensor<Flex, 4>| x.powi_scalar(2).mean().sqrt().into_scalar();
        let assert_rounded = |found: Tensor<Flex, 4>, expected: Tensor<Flex, 4>| {
            assert_eq!(found.dtype(), DType::F32);
            let error = size(found - expected.clone()) / size(expected);
            assert!((1e-4..0.03).contains(&error), "off by {error}");
        };
        let values: Vec<f32> = (0..3 * 80 * 72).map(|i| (i as f32).sin()).collect();
        let image = Tensor::from_data(TensorData::new(values, [1, 3, 80, 72]), &device);
        let latents = wide.moments(image.clone());
        assert_rounded(narrow.moments(image), latents.clone());
        let latents = latents.narrow(1, 0, 4);
        assert_rounded(narrow.decode(latents.clone()), wide.decode(latents));
    }

    #[test]
    fn what_is_no_autoencoder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            Vae::<Flex>::open(folder.path(), &Default::default())
                .unwrap_err()
                .to_string()
        };
        assert!(
            open().contains("diffusion_pytorch_model.safetensors"),
            "{}",
            open()
        );
        let weights = Weights::random(0);
        weights
            .at("")
            .tensor::<Flex, 1>("any", [1], &Default::default())
            .unwrap();
        weights
            .write_read(&folder.path().join(DIFFUSERS[0]), DType::F32)
            .unwrap();
        assert!(open().contains("config.json"), "{}", open());
        std::fs::write(
            folder.path().join("config.json"),
            r#"{"_class_name": "UNet2DModel"}"#,
        )
        .unwrap();
        assert!(open().contains("it describes a UNet2DModel"), "{}", open());
        let config = r#"{"block_out_channels": [10], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert!(
            open().contains("norm_num_groups 4 must divide"),
            "{}",
            open()
        );
        for (key, value) in [
            ("act_fn", json!("mish")),
            ("latents_mean", json!([0.5])),
            ("down_block_types", json!(["AttnDownEncoderBlock2D"])),
        ] {
            let config = json!({key: value, "block_out_channels": [8], "norm_num_groups": 4});
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let expected = format!("{key} is {value}, which is not supported");
            assert!(open().contains(&expected), "{}", open());
        }
    }

    /// Every number of both configurations, replaced by each of several that no model has.
    #[test]
    fn numbers_of_a_configuration_have_ranges() {
        let kl = json!({
            "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 8],
            "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.5,
        });
        let tiny = json!({
            "_class_name": "AutoencoderTiny", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
            "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 2], "num_decoder_blocks": [2, 1],
        });
        let device = Default::default();
        let folder = tempfile::tempdir().unwrap();
        let mut tried = 0;
        for config in [kl, tiny] {
            saved(folder.path(), &config);
            for (key, value) in config.as_object().unwrap() {
                let bad: &[&str] = match value {
                    serde_json::Value::Number(_) => &[
                        "0",
                        "-1e400",
                        "1e308",
                        "18446744073709551615",
                        "1e999",
                        "[]",
                    ],
                    serde_json::Value::Array(_) => &[
                        "[]",
                        "[0, 0]",
                        "[8]",
                        "[8, -1]",
                        "[18446744073709551615, 8]",
                        "[8, 8, 8]",
                        "3",
                    ],
                    _ => continue,
                };
                for bad in bad {
                    if key == "scaling_factor" && ["1e308", "18446744073709551615"].contains(bad) {
                        // Useless but finite: its effect shows in the latents, which are checked.
                        continue;
                    }
                    let mut changed = config.clone();
                    changed[key] = json!("BAD");
                    let text = changed.to_string().replace("\"BAD\"", bad);
                    std::fs::write(folder.path().join("config.json"), text).unwrap();
                    let opened = Vae::<Flex>::open(folder.path(), &device);
                    assert!(opened.is_err(), "{key} = {bad} was accepted");
                    tried += 1;
                }
            }
        }
        assert!(tried > 60, "{tried} values");
    }

    /// Before 0.18, diffusers had other names for the layers of attention.
    #[test]
    fn earlier_names_of_attention_are_known() {
        let device = Default::default();
        let config = AutoencoderKlConfig {
            block_out_channels: vec![8],
            layers_per_block: 1,
            norm_num_groups: 4,
            ..AutoencoderKlConfig::sdxl()
        };
        let weights = Weights::random(0);
        let vae = config.load::<Flex>(&weights.at(""), &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        weights.write_read(&path, DType::F32).unwrap();
        let tensors = microdit::weights::StateDict::read(&path).unwrap();
        let renamed = tensors.iter().map(|(name, data)| {
            let pairs = [
                ("to_q.", "query."),
                ("to_k.", "key."),
                ("to_v.", "value."),
                ("to_out.0.", "proj_attn."),
            ];
            let name = pairs
                .iter()
                .fold(name.clone(), |name, (new, old)| name.replace(new, old));
            (name, data.clone())
        });
        let old = microdit::weights::StateDict::from_tensors(renamed);
        old.write_safetensors(&path, DType::F32, None).unwrap();
        let weights = Weights::open(&path).unwrap();
        let loaded = config.load::<Flex>(&weights.at(""), &device).unwrap();
        let difference = loaded.moments(image()) - vae.moments(image());
        assert_eq!(difference.abs().max().into_scalar(), 0.0);
    }
}
