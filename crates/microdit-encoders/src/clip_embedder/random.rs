//! Small networks with random weights in files as they are published: to try what surrounds them without a download.

use crate::{
    features::ClipImageConfig, text::ClipTextConfig, vae::AutoencoderTinyConfig, weights::Weights,
};
use burn::tensor::DType;
use microdit::{DitBackend, weights::WeightsError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Writes a CLIP of both towers and a tiny autoencoder of latents with so many channels, at half the side of their images, to directories
/// of `folder`, and returns these. Their weights are random, from `seed`.
///
/// # Errors
/// If they cannot be written.
pub fn write_random<B: DitBackend>(
    folder: &Path,
    latent_channels: usize,
    seed: u64,
) -> Result<[PathBuf; 2], WeightsError> {
    let device = Default::default();
    let sizes = json!({
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8,
    });
    let config = json!({
        "model_type": "clip", "projection_dim": 6, "vision_config": sizes, "text_config": sizes,
    });
    let clip = folder.join("clip");
    written(&clip, &config)?;
    let weights = Weights::random(seed);
    let at = weights.at("");
    ClipImageConfig::of(&clip)?.load::<B>(&at, &device)?;
    ClipTextConfig::of(&clip)?.load::<B>(&at, &device)?;
    weights.write_read(&clip.join("model.safetensors"), DType::F32)?;

    let config = json!({
        "_class_name": "AutoencoderTiny", "latent_channels": latent_channels,
        "encoder_block_out_channels": [4, 4], "decoder_block_out_channels": [4, 4],
        "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1],
    });
    let decoder = folder.join("decoder");
    written(&decoder, &config)?;
    let weights = Weights::random(seed);
    let parsed = serde_json::from_value::<AutoencoderTinyConfig>(config);
    let parsed = parsed.expect("the keys are those of the type");
    parsed.load::<B>(&weights.at(""), &device)?;
    let file = decoder.join("diffusion_pytorch_model.safetensors");
    weights.write_read(&file, DType::F32)?;
    Ok([clip, decoder])
}

/// A directory with that configuration.
fn written(folder: &Path, config: &Value) -> Result<(), WeightsError> {
    let file = folder.join("config.json");
    let made = std::fs::create_dir_all(folder);
    let written = made.and_then(|()| std::fs::write(&file, config.to_string()));
    written.map_err(|error| WeightsError::Io { path: file, error })
}
