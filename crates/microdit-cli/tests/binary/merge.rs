//! Weights are merged, and pictures drawn with adapters.

use crate::common::{fails, microdit, root, succeeds, train};
use burn::{
    module::Param,
    tensor::{DType, Tensor, TensorData},
};
use burn_flex::Flex;
use microdit::{
    net::{Denoiser as _, Network},
    nn::lora::{Adapter, Lora, LoraConfig},
    rng::{Purpose, Stream},
    weights::{Description, StateDict, WeightsFile, write_lora},
};
use std::path::{Path, PathBuf};

/// Weights of a trained network.
fn weights(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    assert!(train(&run, &[]).status.success());
    run.join("weights.safetensors")
}

/// What a file of weights holds.
fn open(path: &Path) -> (Network<Flex>, Description) {
    let description = WeightsFile::open(path)
        .unwrap()
        .description()
        .unwrap()
        .unwrap();
    let network = description.network.as_ref().unwrap();
    let network = network.init(0, &Default::default()).unwrap();
    let state = StateDict::read(path).unwrap();
    let network = state.load_into(network, &Default::default()).unwrap();
    (network, description)
}

/// Adapters in which nothing is zero.
fn adapters(network: &Network<Flex>) -> Lora<Flex> {
    let config = LoraConfig {
        layers: vec!["qkv".into(), "kv_linear".into()],
        rank: 2,
        alpha: Some(3.0),
        ..LoraConfig::default()
    };
    let fresh = config.init(network, 0, &Default::default()).unwrap();
    let adapters = fresh.adapters.into_iter().map(|adapter| {
        let [outputs, rank] = adapter.up.dims();
        let values = Stream::named(1, Purpose::Init, &adapter.layer().path).normal(outputs * rank);
        let values = TensorData::new(values, [outputs, rank]);
        let up = Param::from_tensor(Tensor::from_data(values, &Default::default()));
        let (alpha, rslora) = (adapter.alpha(), adapter.is_rslora());
        Adapter::new(adapter.layer().clone(), adapter.down, up, alpha, rslora)
    });
    Lora {
        adapters: adapters.collect(),
    }
}

fn write(network: &Network<Flex>, description: &Description, path: &Path) {
    let state = StateDict::from_module(network)
        .into_reference()
        .with_buffers(network.buffers());
    state
        .write_safetensors(path, DType::F32, Some(description))
        .unwrap();
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn files_are_merged_by_their_shares() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let a = weights(folder.path());
    let (network, description) = open(&a);
    let b = path("b.safetensors");
    write(&adapters(&network).apply(network, 1.0), &description, &b);
    let out = path("out.safetensors");
    let merge = |files: &[&Path], more: &[&str]| {
        let files: Vec<String> = files.iter().map(|file| text(file)).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let out = text(&out);
        microdit(&[&["merge"], &files[..], &["--out", &out], more].concat())
    };
    let [one, other] = [&a, &b].map(|path| StateDict::read(path).unwrap());
    for (files, more, shares, tolerance) in [
        (vec![&*a, &*b], vec![], [0.5, 0.5], 1e-6),
        (vec![&*a, &*b], vec!["--lambda", "0.25"], [0.25, 0.75], 1e-6),
        (vec![&*a, &*b], vec!["--lambda", "-0.5"], [-0.5, 1.5], 1e-6),
        (
            vec![&*a, &*b],
            vec!["--shares", "-0.5,1.5"],
            [-0.5, 1.5],
            1e-6,
        ),
        (
            vec![&*a, &*b, &*a],
            vec!["--shares", "0.2,0.5,0.3", "--dtype", "bf16"],
            [0.5, 0.5],
            4e-3,
        ),
    ] {
        let output = merge(&files, &more);
        assert!(
            output.status.success(),
            "{more:?}: {}",
            crate::common::text(&output)
        );
        let merged = WeightsFile::open(&out).unwrap();
        assert_eq!(merged.description().unwrap().as_ref(), Some(&description));
        let merged = StateDict::take(merged, &out).unwrap();
        assert_eq!(merged.len(), one.len());
        let mut moved = 0.0f64;
        for (name, found) in merged.iter() {
            let [one, other] = [&one, &other].map(|state| state.get(name).unwrap().iter::<f64>());
            for ((one, other), found) in one.zip(other).zip(found.iter::<f64>()) {
                let expected = shares[0] * one + shares[1] * other;
                let error = (found - expected).abs();
                assert!(
                    error <= tolerance * expected.abs().max(1e-3),
                    "{name}: {found}, {expected}"
                );
                moved = moved.max((one - other).abs());
            }
        }
        assert!(moved > 0.01, "the networks differ by {moved}");
    }
    fails(
        &merge(&[&a, &b, &a], &[]),
        &["3 files need --shares", "--lambda is for two"],
    );
    fails(
        &merge(&[&a, &b], &["--shares", "0.5,0.4"]),
        &["--shares: together they must be 1, not 0.9"],
    );
    fails(
        &merge(&[&a, &b], &["--shares", "1"]),
        &["1 numbers for 2 files"],
    );
    // The shares are read: what is wrong are those of the files.
    fails(
        &merge(&[&a, &b, &a], &["--sweep", "-0.5,0,...,1"]),
        &["--sweep is for two files, not for 3"],
    );
    fails(&merge(&[&a], &[]), &["2 values required"]);
    let bare = root().join("tests/goldens/ckpt_bare.pt");
    fails(
        &merge(&[&a, &bare], &[]),
        &["ckpt_bare.pt is of another network than", "missing"],
    );
}

#[test]
fn adapters_draw_as_the_network_with_their_weights_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (network, description) = open(&weights(folder.path()));
    // So little trained, its last layer and its gates are nearly zero, and nothing inside would be seen.
    let noisy = StateDict::from_module(&network);
    let noisy = noisy.iter().map(|(name, data)| {
        let values = Stream::named(2, Purpose::Init, name).normal(data.num_elements());
        let values: Vec<f32> = values.into_iter().map(|value| 0.1 * value).collect();
        (name.clone(), TensorData::new(values, data.shape.clone()))
    });
    let noisy = StateDict::from_tensors(noisy).load_into(network, &Default::default());
    let network = noisy.unwrap();
    let own = path("own.safetensors");
    write(&network, &description, &own);
    let lora = adapters(&network);
    let (one, other) = (path("one.safetensors"), path("two:half.safetensors"));
    write_lora(&lora, "transformer", &one, DType::F32).unwrap();
    write_lora(&lora, "unet", &other, DType::F32).unwrap();
    let draw = |weights: &Path, loras: &[String], name: &str| {
        let out = path(name);
        let (weights, out_text) = (text(weights), text(&out));
        let mut words = vec!["sample", "--weights", &weights, "--out", &out_text];
        words.extend([
            "--prompt",
            "a red circle",
            "--steps",
            "2",
            "--guidance",
            "2",
        ]);
        words.extend(loras.iter().flat_map(|lora| ["--lora", lora.as_str()]));
        let said = succeeds(&words);
        (image::open(&out).unwrap().to_rgb8(), said)
    };
    let merged = path("merged.safetensors");
    write(&lora.apply(network.clone(), 0.5), &description, &merged);
    let expected = draw(&merged, &[], "merged.png").0;
    let half = draw(&own, &[format!("{}:0.5", text(&one))], "half.png").0;
    assert!(half == expected, "pictures differ");
    let plain = draw(&own, &[], "plain.png").0;
    assert!(plain != expected, "adapters do nothing");
    // Several at once; a colon may be part of a name.
    let both = [
        format!("{}:0.3", text(&one)),
        format!("{}:0.2", text(&other)),
    ];
    let both = draw(&own, &both, "both.png").0;
    let distance = |a: &image::RgbImage, b: &image::RgbImage| -> f64 {
        let pairs = a.as_raw().iter().zip(b.as_raw());
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum()
    };
    assert!(distance(&both, &expected) < 0.02 * distance(&plain, &expected));
    assert!(draw(&own, &[text(&other)], "name.png").0 != plain);
    let wrong = |lora: &str, parts: &[&str]| {
        let out = text(&path("wrong.png"));
        let own = text(&own);
        let words = [
            "sample",
            "--weights",
            &own,
            "--prompt",
            "a",
            "--out",
            &out,
            "--lora",
            lora,
        ];
        fails(&microdit(&words), parts);
    };
    wrong(":0.5", &["expected a file, or FILE:SCALE"]);
    wrong(
        &format!("{}:1e9", text(&one)),
        &["its scale must be at least -100"],
    );
    wrong(&text(&own), &["are not those of plain adapters"]);
    wrong(
        &text(&root().join("tests/goldens/vae.safetensors")),
        &["are not those of plain adapters"],
    );
}

/// Every share is drawn with and measured as the merged file would be, which is not kept.
#[test]
fn a_sweep_measures_every_share() {
    let folder = tempfile::tempdir().unwrap();
    let a = weights(folder.path());
    let (network, description) = open(&a);
    let b = folder.path().join("b.safetensors");
    write(&adapters(&network).apply(network, 0.2), &description, &b);
    let scene = folder.path().join("scene.txt");
    std::fs::write(&scene, "a large red circle on a white background").unwrap();
    let out = folder.path().join("curve");
    let (a, b, scene, out_text) = (text(&a), text(&b), text(&scene), text(&out));
    let how = ["--prompts", &scene, "--samples", "6", "--steps", "2"];
    let how = [&how[..], &["--metrics", "prompt-accuracy"]].concat();
    let sweep = [
        "merge",
        &a,
        &b,
        "--sweep",
        "0,0.5,...,1",
        "--out",
        &out_text,
        "--",
    ];
    let said = succeeds(&[&sweep[..], &how].concat());
    assert!(said.contains("| share of the first |"), "{said}");
    let rows = |folder: &Path| {
        let file = std::fs::read(folder.join("eval.json")).unwrap();
        let all: serde_json::Value = serde_json::from_slice(&file).unwrap();
        all["results"].clone()
    };
    for share in ["0", "0.5", "1"] {
        let point = out.join(format!("share-{share}"));
        assert!(said.contains(&format!("| {share} |")), "{said}");
        assert!(!point.join("merged.safetensors").exists());
        // The same numbers as those of the file, by itself.
        let merged = folder.path().join(format!("merged-{share}.safetensors"));
        let merged = text(&merged);
        succeeds(&["merge", &a, &b, "--lambda", share, "--out", &merged]);
        let alone = folder.path().join(format!("alone-{share}"));
        let start = ["eval", "--weights", &merged, "--out", &text(&alone)].map(str::to_owned);
        let words: Vec<&str> = start
            .iter()
            .map(String::as_str)
            .chain(how.clone())
            .collect();
        succeeds(&words);
        assert_eq!(rows(&point), rows(&alone), "share {share}");
    }
    assert_ne!(rows(&out.join("share-0")), rows(&out.join("share-1")));
    let refused = |more: &[&str], part: &str| {
        let words = [&["merge"], more].concat();
        fails(&microdit(&words), &[part]);
    };
    refused(&[&a, &b, &a, "--sweep", "0,1"], "--sweep is for two files");
    refused(
        &[&a, &b, "--sweep", "0,0.3,...,1"],
        "1 is not reached from 0",
    );
    refused(
        &[&a, &b, "--sweep", "0,1", "--", "--samples", "x"],
        "after --",
    );
    refused(&[&a, &b], "--out");
}
