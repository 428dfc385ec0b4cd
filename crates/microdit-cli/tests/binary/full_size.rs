//! The whole chain at the sizes of the published models. Ignored by default: it writes 4 GB and computes for minutes.
//! `cargo test --workspace --test binary full_size -- --ignored --nocapture` reports time and peak memory.

use crate::common::root;
use burn::tensor::DType;
use burn_flex::Flex;
use microdit::{DitConfig, weights::StateDict};
use microdit_encoders::{Weights, text::ClipTextConfig, vae::AutoencoderKlConfig};
use std::{fs, path::Path, process::Command, time::Instant};

/// Random weights of SDXL's VAE, of ViT-H/14's text tower and of XL/2, as they are published.
fn write_weights(folder: &Path) {
    let device = Default::default();
    let path = |name: &str| folder.join(name);
    for name in ["vae", "clip"] {
        fs::create_dir(path(name)).unwrap();
    }
    let weights = Weights::random(0);
    AutoencoderKlConfig::sdxl()
        .load::<Flex>(&weights.at(""), &device)
        .unwrap();
    weights
        .write_read(&path("vae/diffusion_pytorch_model.safetensors"), DType::F16)
        .unwrap();
    let config = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.13025}"#;
    fs::write(path("vae/config.json"), config).unwrap();
    let weights = Weights::random(1);
    ClipTextConfig::vit_h_14()
        .load::<Flex>(&weights.at(""), &device)
        .unwrap();
    weights
        .write_read(&path("clip/open_clip_model.safetensors"), DType::F16)
        .unwrap();
    let config = r#"{"model_cfg": {"embed_dim": 1024, "quick_gelu": true, "text_cfg": {"width": 1024, "heads": 16, "layers": 24}}}"#;
    fs::write(path("clip/open_clip_config.json"), config).unwrap();
    let dit = DitConfig::xl_2().init::<Flex>(0, &device).unwrap();
    let state = StateDict::from_module(&dit);
    state
        .write_safetensors(&path("dit.safetensors"), DType::F16, None)
        .unwrap();
}

/// Peak memory of the children that have ended, in MiB.
fn peak() -> i64 {
    let usage = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = usage.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<i64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

#[test]
#[ignore = "writes 4 GB and computes for minutes"]
fn full_size() {
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    write_weights(folder.path());
    println!(
        "weights written: {:.0} s, this process {} MiB at its peak",
        begun.elapsed().as_secs_f64(),
        peak()
    );
    let out = folder.path().join("fox.png");
    let steps = std::env::var("MICRODIT_STEPS").unwrap_or_else(|_| "30".into());
    let begun = Instant::now();
    let output = Command::new("/usr/bin/env")
        .args(["time", "-f", "%e s, %M KiB at its peak"])
        .arg(env!("CARGO_BIN_EXE_microdit"))
        .args([
            "sample",
            "--model",
            "xl-2",
            "--diffusion",
            "Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)",
            "--size",
            "512",
            "--steps",
            &steps,
            "--prompt",
            "a red fox in the snow",
        ])
        .arg("--weights")
        .arg(folder.path().join("dit.safetensors"))
        .arg("--vae")
        .arg(folder.path().join("vae"))
        .arg("--text-encoder")
        .arg(folder.path().join("clip"))
        .arg("--out")
        .arg(&out)
        .current_dir(root())
        .output()
        .unwrap();
    println!(
        "{}",
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
    );
    println!("drawn: {:.0} s", begun.elapsed().as_secs_f64());
    assert!(output.status.success());
    // One picture and two pixels of white around it.
    assert_eq!(image::open(&out).unwrap().width(), 512 + 4);
}
