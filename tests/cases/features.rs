//! inception, dinov2, clip_image, hf_clip_image: the networks whose features pictures are judged by.

use super::{Inner, Train};
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::tensor::{Tensor, backend::Backend};
use image::RgbImage;
use microdit_encoders::{
    Weights,
    features::{ClipImage, ClipImageConfig, Corner, DinoV2Config, Fit, Inception, Preparation},
};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeMap, fmt::Display, path::Path, rc::Rc};

/// Activations and outputs, relative to their largest value.
const OUTPUT: f64 = 5e-5;

/// Gradients, relative to their largest value.
const GRADIENT: f64 = 2e-4;

fn or_panic<T>(result: Result<T, impl Display>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn open(path: &Path) -> (Golden, Weights) {
    let path = path.with_extension("safetensors");
    (Golden::open(&path), or_panic(Weights::open(&path)))
}

/// Compares `found` with `out.NAME`, where the file has it.
fn compare<B: Backend, const D: usize>(
    report: &mut Report,
    golden: &Golden,
    name: &str,
    found: Tensor<B, D>,
) {
    let key = format!("out.{name}");
    if golden.has(&key) {
        let expected = golden.get(&key);
        let limit = OUTPUT * expected.max_abs();
        report.close(name, &values(found), expected, limit);
    }
}

/// The pictures `in.pixels.N`.
fn pictures(golden: &Golden) -> Vec<RgbImage> {
    let keys = (0..).map(|i| format!("in.pixels.{i}"));
    let there = keys.take_while(|key| golden.has(key));
    there.map(|key| picture(golden.get(&key))).collect()
}

fn picture(pixels: &Array) -> RgbImage {
    let levels = pixels.data.iter().map(|&level| level as u8).collect();
    let (height, width) = (pixels.shape[0] as u32, pixels.shape[1] as u32);
    RgbImage::from_raw(width, height, levels).expect("three levels per pixel")
}

/// Prepared pictures are Pillow's to the last bit; what remains is the rounding of f32.
fn prepared(report: &mut Report, what: String, found: Tensor<Inner, 4>, expected: &Array) {
    report.close(what, &values(found), expected, 1e-6 * expected.max_abs());
}

pub(super) fn clip_image(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let device = Default::default();
    let json = json!({"model_cfg": golden.config, "preprocess_cfg": golden.config});
    let config = or_panic(ClipImageConfig::from_open_clip(&json));
    // As open_clip has it: a picture covers what is not a square.
    let shortest = match config.image_size {
        [height, width] if height == width => Fit::Shorter(height),
        size => Fit::Cover(size),
    };
    for (i, picture) in pictures(&golden).into_iter().enumerate() {
        let fits = [
            ("squash", Fit::Squash(config.image_size)),
            ("shortest", shortest),
            ("longest", Fit::Within(config.image_size)),
        ];
        for (name, fit) in fits {
            let key = format!("out.prep.{name}.{i}");
            if golden.has(&key) {
                let preparation = Preparation {
                    fit,
                    ..config.preparation.clone()
                };
                let found = preparation.pictures(std::slice::from_ref(&picture), &device);
                prepared(report, format!("prep.{name}.{i}"), found, golden.get(&key));
            }
        }
    }
    let tower: ClipImage<Inner> = or_panic(config.load(&weights.at("weights"), &device));
    let found = tower.prepare_pictures(&pictures(&golden), &device);
    prepared(report, "images".into(), found, golden.get("in.images"));
    let states = tower.traced(golden.get("in.images").float(&device), |i, x| match i {
        0 => compare(report, &golden, "embed", x.clone()),
        i => compare(report, &golden, &format!("block.{}", i - 1), x.clone()),
    });
    compare(report, &golden, "tokens", states.patches);
    let feature = tower.feature(states.pooled);
    compare(report, &golden, "image_feature", feature.clone());
    let normalized = normalized(feature);
    compare(report, &golden, "image_feature_normalized", normalized);
    gradient(&golden, &weights, &config, report);
}

fn normalized<B: Backend>(feature: Tensor<B, 2>) -> Tensor<B, 2> {
    let length = feature.clone().square().sum_dim(1).sqrt();
    feature / length
}

/// The gradient of the cosines with the file's directions with respect to the images.
fn gradient(golden: &Golden, weights: &Weights, config: &ClipImageConfig, report: &mut Report) {
    if !golden.has("out.grad_images") {
        return;
    }
    let device = Default::default();
    let tower: ClipImage<Train> = or_panic(config.load(&weights.at("weights"), &device));
    let images = golden
        .get("in.images")
        .float::<Train, 4>(&device)
        .require_grad();
    let direction = golden.get("in.direction").float::<Train, 2>(&device);
    let feature = normalized(tower.features(images.clone()));
    let cosines = (feature * normalized(direction)).sum_dim(1);
    compare(report, golden, "cosine", cosines.clone());
    let gradient = images.grad(&cosines.sum().backward());
    let expected = golden.get("out.grad_images");
    report.close(
        "grad_images",
        &values(gradient.expect("images have a gradient")),
        expected,
        GRADIENT * expected.max_abs(),
    );
}

pub(super) fn hf_clip_image(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let device = Default::default();
    let config = ClipImageConfig::from_transformers(
        &golden.config["vision"],
        Some(&golden.config["preprocessor"]),
    );
    let config = or_panic(config);
    assert_eq!(config.preparation.corner, Corner::Before);
    let tower: ClipImage<Inner> = or_panic(config.load(&weights.at("weights"), &device));
    let expected = golden.get("out.pixel_values");
    let images = tower.prepare_pictures(&pictures(&golden), &device);
    prepared(report, "pixel_values".into(), images, expected);
    let layers = config.layers;
    let states = tower.traced(expected.float(&device), |i, x| {
        compare(report, &golden, &format!("block.{i}"), x.clone());
        if i + 1 == layers {
            compare(report, &golden, "hidden_2", x.clone());
        }
    });
    compare(report, &golden, "hidden", states.hidden);
    compare(report, &golden, "pooled_hf", states.pooled.clone());
    let feature = tower.feature(states.pooled);
    compare(report, &golden, "image_feature", feature);
}

pub(super) fn dinov2(path: &Path, report: &mut Report) {
    let (golden, weights) = open(path);
    let (device, at) = (Default::default(), weights.at("weights"));
    let mut config = match golden.config["names"].as_str() {
        Some("transformers") | None => {
            or_panic(DinoV2Config::from_transformers(&golden.config["dinov2"]))
        }
        _ => or_panic(DinoV2Config::from_weights(&at)),
    };
    config.heads = golden.number("heads") as usize;
    config.eps = golden.number("ln_eps");
    let network = or_panic(config.load::<Inner>(&at, &device));
    for i in 0.. {
        let key = format!("in.pixel_values.{i}");
        if !golden.has(&key) {
            break;
        }
        let images = golden.get(&key).float(&device);
        let states = network.traced(images, |block, x| match block {
            0 => compare(report, &golden, &format!("{i}.embed"), x.clone()),
            block => compare(
                report,
                &golden,
                &format!("{i}.block.{}", block - 1),
                x.clone(),
            ),
        });
        compare(report, &golden, &format!("{i}.cls"), states.class);
        compare(
            report,
            &golden,
            &format!("{i}.patch_tokens"),
            states.patches,
        );
    }
}

/// Values the file's weights have, by name and place: a hash in -1..1, scaled by what the tensor is for.
fn formula(salt: &str, gain: f64, name: &str, shape: &[usize]) -> Vec<f32> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = salt
        .bytes()
        .chain(name.bytes())
        .fold(0xcbf2_9ce4_8422_2325, fnv);
    let inputs: usize = shape.iter().skip(1).product();
    let (center, scale) = match name.rsplit_once('.').expect("a path") {
        (layer, "weight") if layer.ends_with("bn") => (1.0, 0.1),
        (_, "weight") => (0.0, (gain / inputs as f64).sqrt()),
        (_, "running_var") => (1.0, 0.5),
        _ => (0.0, 0.1),
    };
    let value = |i: usize| {
        let mut z = start
            .wrapping_add(i as u64)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let uniform = (z >> 11) as f64 * 2f64.powi(-53) * 2.0 - 1.0;
        (center + scale * uniform) as f32
    };
    (0..shape.iter().product()).map(value).collect()
}

pub(super) fn inception(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = Default::default();
    let salt = golden.config["salt"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let gain = golden.number("gain");
    let asked = Rc::new(RefCell::new(BTreeMap::new()));
    let weights = Weights::computed("weights by a formula", {
        let (salt, asked) = (salt.clone(), asked.clone());
        move |name, shape| {
            asked.borrow_mut().insert(name.to_owned(), shape.to_vec());
            formula(&salt, gain, name, shape)
        }
    });
    let network = or_panic(Inception::<Inner>::load(&weights.at(""), &device));
    let asked = asked.borrow();
    for (name, head) in golden.with_prefix("out.weight_head.") {
        let values = formula(&salt, gain, name, &asked[name]).into_iter();
        let values: Vec<f64> = values.map(f64::from).take(head.data.len()).collect();
        report.equal(format!("weight_head.{name}"), &values, &head.data);
    }
    names(&path.with_file_name("inception_names.json"), &asked, report);
    for i in 0.. {
        let key = format!("in.image.{i}");
        if !golden.has(&key) {
            break;
        }
        let image = golden.get(&key).float::<Inner, 3>(&device);
        let input = network.prepare(image.unsqueeze());
        let pixels: Tensor<Inner, 2> = input.clone().flatten::<3>(2, 3).squeeze_dim(0);
        let (variance, mean) = pixels.var_mean_bias(1);
        compare(report, &golden, &format!("input_mean.{i}"), mean);
        spread(report, &golden, i, variance, input.dims());
        let features = network.traced(input, |name, x| {
            let means = x.clone().flatten::<3>(2, 3).mean_dim(2);
            compare(report, &golden, &format!("mean.{name}.{i}"), means);
        });
        compare(report, &golden, &format!("features.{i}"), features.clone());
        compare(
            report,
            &golden,
            &format!("logits.{i}"),
            network.logits(features),
        );
    }
}

/// PyTorch divides by one less than the number of values.
fn spread(
    report: &mut Report,
    golden: &Golden,
    image: usize,
    variance: Tensor<Inner, 2>,
    [_, _, height, width]: [usize; 4],
) {
    let count = (height * width) as f64;
    let std = (variance * (count / (count - 1.0))).sqrt();
    compare(report, golden, &format!("input_std.{image}"), std);
}

/// The names and shapes of the published file are those the network asks for, apart from counters nobody uses.
fn names(list: &Path, asked: &BTreeMap<String, Vec<usize>>, report: &mut Report) {
    let Ok(text) = std::fs::read_to_string(list) else {
        return;
    };
    let list: Value = or_panic(serde_json::from_str(&text));
    let entries = list["entries"].as_array().expect("a list of entries");
    let entry = |entry: &Value| -> (String, Vec<usize>) {
        let name = or_panic(serde_json::from_value(entry["name"].clone()));
        (
            name,
            or_panic(serde_json::from_value(entry["shape"].clone())),
        )
    };
    let expected: BTreeMap<String, Vec<usize>> = entries
        .iter()
        .map(entry)
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .collect();
    let differing = expected
        .iter()
        .filter(|(name, shape)| asked.get(*name) != Some(shape));
    let surplus = asked.keys().filter(|name| !expected.contains_key(*name));
    let count = differing.count() + surplus.count();
    report.at_most("names and shapes that differ", count as f64, 0.0);
}
