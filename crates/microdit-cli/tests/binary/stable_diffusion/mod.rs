//! Pipelines of the Stable Diffusion family, small and random: how they are made and drawn with.

mod averages;
mod copies;
mod decidiffusion;
mod errors;
mod layouts;

use crate::common::{fails, microdit, succeeds};
use burn::tensor::{DType, TensorData};
use burn_flex::Flex;
use image::RgbImage;
use microdit::{UNetConfig, weights::StateDict};
use microdit_encoders::{Weights, text::ClipTextConfig, vae::AutoencoderKlConfig};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// The two versions of Stable Diffusion, which differ in text encoder, projections, heads and padding.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Version {
    One,
    Two,
}

const PROMPT: &str = "a red fox";

fn write_json(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Values that depend on name and place, about as large as what they multiply stays.
fn values(name: &str, shape: &[usize]) -> TensorData {
    let seed: f64 = name
        .bytes()
        .fold(0.0, |sum, byte| sum * 1.7 % 97.0 + f64::from(byte));
    let fan_in: usize = shape.iter().skip(1).product();
    let (mean, size) = match shape.len() {
        1 if name.ends_with("weight") => (1.0, 0.1),
        1 => (0.0, 0.1),
        _ => (0.0, 1.5 / (fan_in as f64).sqrt()),
    };
    let value = |i: usize| mean + size * ((i as f64 + seed) * 12.9898).sin();
    let count: usize = shape.iter().product();
    TensorData::new(
        (0..count).map(|i| value(i) as f32).collect::<Vec<_>>(),
        shape,
    )
}

/// A directory as diffusers writes it. `sample_size` is 256: a single file stands for pictures of 512 pixels, and this VAE halves them.
pub(crate) fn pipeline(folder: &Path, version: Version) {
    let two = version == Version::Two;
    let write = |name: &str, value: &Value| write_json(&folder.join(name), value);
    let index = json!({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]});
    write("model_index.json", &index);
    write(
        "scheduler/scheduler_config.json",
        &json!({
            "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "trained_betas": null, "clip_sample": false,
        }),
    );
    // Where they disagree, the map of special tokens is right.
    let pad = if two { "!" } else { "<|endoftext|>" };
    write(
        "tokenizer/special_tokens_map.json",
        &json!({"pad_token": pad}),
    );
    write(
        "tokenizer/tokenizer_config.json",
        &json!({"pad_token": "<|endoftext|>"}),
    );

    let unet = json!({
        "_class_name": "UNet2DConditionModel", "sample_size": 256, "in_channels": 4, "out_channels": 4,
        "block_out_channels": [64, 64], "layers_per_block": 1, "norm_num_groups": 32,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 64,
        "attention_head_dim": if two { json!([1, 1]) } else { json!(8) }, "use_linear_projection": two,
    });
    let config = UNetConfig::from_diffusers(unet.as_object().unwrap()).unwrap();
    let network = config.init::<Flex>(0, &Default::default()).unwrap();
    let state = StateDict::from_module(&network);
    let tensors = state
        .iter()
        .map(|(name, data)| (name.clone(), values(name, &data.shape)));
    write("unet/config.json", &unet);
    save(
        tensors,
        &folder.join("unet/diffusion_pytorch_model.safetensors"),
    );

    let vae = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 4,
        "norm_num_groups": 32, "scaling_factor": 0.18215,
    });
    write("vae/config.json", &vae);
    let config: AutoencoderKlConfig = serde_json::from_value(vae).unwrap();
    let weights = Weights::random(1);
    config
        .load::<Flex>(&weights.at(""), &Default::default())
        .unwrap();
    let path = folder.join("vae/diffusion_pytorch_model.safetensors");
    weights.write_read(&path, DType::F32).unwrap();

    write(
        "text_encoder/config.json",
        &json!({
            "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "vocab_size": 49408, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1,
            "hidden_act": if two { "gelu" } else { "quick_gelu" },
        }),
    );
    let config = ClipTextConfig {
        width: 64,
        heads: 1,
        layers: 2,
        hidden: 128,
        projection: None,
        quick_gelu: !two,
        ..ClipTextConfig::vit_h_14()
    };
    let weights = Weights::random(2);
    config
        .load::<Flex>(&weights.at(""), &Default::default())
        .unwrap();
    let path = folder.join("text_encoder/model.safetensors");
    weights.write_read(&path, DType::F32).unwrap();
}

fn save(tensors: impl Iterator<Item = (String, TensorData)>, path: &Path) {
    let state = StateDict::from_tensors(tensors);
    state.write_safetensors(path, DType::F32, None).unwrap();
}

/// Tensors of a file, as bytes in f32.
fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let state = StateDict::read(path).unwrap();
    let values = state
        .iter()
        .map(|(name, data)| (name.clone(), data.iter::<f32>().collect()));
    values.collect()
}

/// Draws one small picture; it, and what was said.
#[track_caller]
fn draw(folder: &Path, pipeline: &Path, more: &[&str]) -> (RgbImage, String) {
    draw_prompt(folder, pipeline, PROMPT, more)
}

#[track_caller]
fn draw_prompt(folder: &Path, pipeline: &Path, prompt: &str, more: &[&str]) -> (RgbImage, String) {
    let out = folder.join("drawn.png");
    let arguments = sampling(&out, pipeline, prompt);
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words.extend(more);
    let said = succeeds(&words);
    (image::open(&out).unwrap().into_rgb8(), said)
}

fn sampling(out: &Path, pipeline: &Path, prompt: &str) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    let (out, pipeline) = (shown(out), shown(pipeline));
    let words = [
        "sample",
        "--pipeline",
        &pipeline,
        "--out",
        &out,
        "--prompt",
        prompt,
        "--steps",
        "3",
        "--width",
        "16",
        "--height",
        "16",
    ];
    words.map(str::to_owned).to_vec()
}

#[track_caller]
fn refused(pipeline: &Path, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let arguments = sampling(&folder.path().join("x.png"), pipeline, PROMPT);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    fails(&microdit(&words), parts);
}

fn convert(from: &Path, out: &Path, more: &[&str]) -> String {
    let (from, out) = (from.display().to_string(), out.display().to_string());
    succeeds(&[&["convert", &from, "--out", &out], more].concat())
}

/// A single file with an average beside its weights, half of each; its path. `own.safetensors` in the folder has the weights alone.
pub(crate) fn two_sets(folder: &Path) -> String {
    pipeline(&folder.join("one"), Version::One);
    let own = folder.join("own.safetensors");
    convert(&folder.join("one"), &own, &["--to", "ldm"]);
    let state = StateDict::read(&own).unwrap();
    let average = state.iter().filter_map(|(name, data)| {
        let flat = name
            .strip_prefix("model.diffusion_model.")?
            .replace('.', "");
        let half: Vec<f32> = data.iter::<f32>().map(|value| value * 0.5).collect();
        let half = TensorData::new(half, data.shape.to_vec());
        Some((format!("model_ema.diffusion_model{flat}"), half))
    });
    let scalar = |name: &str, value: f32| {
        (
            name.to_owned(),
            TensorData::new(vec![value], Vec::<usize>::new()),
        )
    };
    let positions = "cond_stage_model.transformer.text_model.embeddings.position_ids";
    let positions = (
        positions.to_owned(),
        TensorData::new((0..77).collect::<Vec<i64>>(), [1, 77]),
    );
    let beside = [
        scalar("model_ema.decay", 0.9999),
        scalar("model_ema.num_updates", 431.0),
        scalar("foreign.bias", 1.0),
        positions,
    ];
    let own = state
        .iter()
        .map(|(name, data)| (name.clone(), data.clone()));
    let both = folder.join("both.safetensors");
    save(own.chain(average).chain(beside), &both);
    both.display().to_string()
}

/// Pictures are of one color where a network's output does not depend on anything.
fn is_flat(image: &RgbImage) -> bool {
    let first = image.get_pixel(0, 0);
    image.pixels().all(|pixel| pixel == first)
}
