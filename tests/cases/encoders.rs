//! vae, vae_tiny, clip_text, hf_clip_text, t5_encoder: the frozen networks around the denoiser.

use super::Inner;
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::tensor::{Int, Tensor, TensorData};
use microdit_encoders::{
    Weights,
    text::{ClipText, ClipTextConfig, Pooling, T5Config},
    vae::{AutoencoderKlConfig, AutoencoderTinyConfig},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// Activations and outputs, relative to their largest value.
const OUTPUT: f64 = 5e-5;

/// The file's tensors, its network's weights read as a user's would be: from the mapped file.
fn open(path: &Path) -> (Golden, Weights) {
    let path = path.with_extension("safetensors");
    let weights = Weights::open(&path).unwrap_or_else(|error| panic!("{error}"));
    (Golden::open(&path), weights)
}

fn config<T: DeserializeOwned>(json: &Value) -> T {
    serde_json::from_value(json.clone()).expect("the configuration is of this kind")
}

/// Compares `found` with `out.NAME`, where the file has it.
fn compare<const D: usize>(
    report: &mut Report,
    golden: &Golden,
    name: &str,
    found: Tensor<Inner, D>,
) {
    let key = format!("out.{name}");
    if golden.has(&key) {
        let expected = golden.get(&key);
        let limit = OUTPUT * expected.max_abs();
        report.close(name, &values(found), expected, limit);
    }
}

fn ids(array: &Array) -> Tensor<Inner, 2, Int> {
    let ids: Vec<i64> = array.data.iter().map(|&id| id as i64).collect();
    let data = TensorData::new(ids, array.shape.clone());
    Tensor::from_data(data, &Default::default())
}

pub(super) fn vae(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let device = Default::default();
    let vae = config::<AutoencoderKlConfig>(&golden.config["vae"])
        .load::<Inner>(&weights.at("weights"), &device)
        .unwrap_or_else(|error| panic!("{error}"));
    let float = |name: &str| golden.get(name).float::<Inner, 4>(&device);
    let image = float("in.image");
    vae.encoder.traced(image.clone(), |stage, x| {
        compare(report, &golden, &format!("enc.{stage}"), x.clone());
    });
    compare(report, &golden, "moments", vae.moments(image.clone()));
    let posterior = vae.encode(image);
    compare(report, &golden, "mean", posterior.mean.clone());
    compare(report, &golden, "logvar", posterior.logvar.clone());
    compare(
        report,
        &golden,
        "roundtrip",
        vae.decode(posterior.mean.clone()),
    );
    let sample = posterior.sample(float("in.eps"));
    compare(report, &golden, "sample", sample.clone());
    let scaled = vae.scaled(sample.clone());
    compare(report, &golden, "scaled_sample", scaled.clone());
    let expected = golden.get("out.sample");
    let limit = OUTPUT * expected.max_abs();
    report.close("unscaled", &values(vae.unscaled(scaled)), expected, limit);
    let latent = float("in.latent");
    compare(report, &golden, "decoded", vae.decode(latent.clone()));
    vae.decoder.traced(vae.before_decoder(latent), |stage, x| {
        compare(report, &golden, &format!("dec.{stage}"), x.clone());
    });
}

pub(super) fn vae_tiny(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let device = Default::default();
    let vae = config::<AutoencoderTinyConfig>(&golden.config["vae"])
        .load::<Inner>(&weights.at("weights"), &device)
        .unwrap_or_else(|error| panic!("{error}"));
    let float = |name: &str| golden.get(name).float::<Inner, 4>(&device);
    let latent = vae.encode(float("in.image"));
    compare(report, &golden, "latent", latent.clone());
    compare(report, &golden, "roundtrip", vae.decode(latent));
    compare(report, &golden, "decoded", vae.decode(float("in.latent")));
}

/// Compares all a tower makes of the file's ids.
fn tower(golden: &Golden, tower: &ClipText<Inner>, report: &mut Report) {
    let ids = ids(golden.get("in.ids"));
    let layers = tower.config().layers;
    let states = tower.traced(ids, |i, x| {
        compare(report, golden, &format!("block.{i}"), x.clone());
        if i + 2 == layers {
            compare(report, golden, "hidden_2", x.clone());
        }
    });
    compare(report, golden, "hidden", states.hidden);
    for name in ["pooled", "pooled_hf"] {
        compare(report, golden, name, states.pooled.clone());
    }
    let feature = tower
        .feature(states.pooled)
        .expect("the file has a projection");
    compare(report, golden, "text_feature", feature.clone());
    let length = feature.clone().square().sum_dim(1).sqrt();
    compare(report, golden, "text_feature_normalized", feature / length);
}

pub(super) fn clip_text(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let size = |key: &str| golden.number(key) as usize;
    let network = ClipTextConfig {
        vocabulary: size("vocab_size"),
        tokens: size("context_length"),
        width: size("width"),
        heads: size("heads"),
        layers: size("layers"),
        hidden: (golden.number("mlp_ratio") * golden.number("width")) as usize,
        projection: Some(size("embed_dim")),
        quick_gelu: golden.config["quick_gelu"] == true,
        eps: golden.number("ln_eps"),
        pooling: Pooling::LargestId,
    };
    let network = network.load(&weights.at("weights"), &Default::default());
    tower(
        &golden,
        &network.unwrap_or_else(|error| panic!("{error}")),
        report,
    );
}

pub(super) fn hf_clip_text(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let size = |key: &str| golden.number(key) as usize;
    let network = ClipTextConfig {
        vocabulary: size("vocab_size"),
        tokens: size("context_length"),
        width: size("hidden_size"),
        heads: size("heads"),
        layers: size("layers"),
        hidden: size("intermediate_size"),
        projection: Some(size("projection_dim")),
        quick_gelu: golden.config["hidden_act"] == "quick_gelu",
        eps: golden.number("ln_eps"),
        pooling: Pooling::First(size("eos_token_id") as i64),
    };
    let network = network.load(&weights.at("weights"), &Default::default());
    tower(
        &golden,
        &network.unwrap_or_else(|error| panic!("{error}")),
        report,
    );
}

pub(super) fn t5_encoder(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let network = config::<T5Config>(&golden.config)
        .load::<Inner>(&weights.at("weights"), &Default::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let tokens = ids(golden.get("in.ids"));
    let mask = ids(golden.get("in.attention_mask"));
    compare(
        report,
        &golden,
        "hidden",
        network.forward(tokens.clone(), Some(mask)),
    );
    compare(
        report,
        &golden,
        "hidden_nomask",
        network.forward(tokens, None),
    );
}
