//! What is wrong with a pipeline is named.

use super::*;
use std::path::PathBuf;

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
