//! Small encoders in directories as they are published, made of golden networks.

use crate::common::root;
use burn::tensor::{DType, TensorData};
use microdit::weights::StateDict;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Tokens of CLIP's vocabulary.
const VOCABULARY: usize = 49_408;

/// Weights and configuration of a golden network.
fn golden(name: &str) -> (Vec<(String, TensorData)>, Value) {
    let path = root().join(format!("tests/goldens/{name}.safetensors"));
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let config = &metadata.metadata().as_ref().unwrap()["config"];
    let tensors = file.iter().filter_map(|(name, view)| {
        let name = name.strip_prefix("weights.")?.to_owned();
        let shape = view.shape().to_vec();
        Some((
            name,
            TensorData::from_bytes_vec(view.data().to_vec(), shape, DType::F32),
        ))
    });
    (tensors.collect(), serde_json::from_str(config).unwrap())
}

fn write(tensors: Vec<(String, TensorData)>, weights: &Path, config: &Path, json: &Value) {
    fs::create_dir_all(weights.parent().unwrap()).unwrap();
    let state = StateDict::from_tensors(tensors);
    state.write_safetensors(weights, DType::F32, None).unwrap();
    fs::write(config, json.to_string()).unwrap();
}

/// The golden VAE: 4 channels, an eighth of the side.
pub(crate) fn vae(folder: &Path) {
    let (tensors, config) = golden("vae");
    let mut config = config["vae"].clone();
    config["_class_name"] = "AutoencoderKL".into();
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    write(tensors, &weights, &folder.join("config.json"), &config);
}

/// The golden text tower, its table of tokens repeated until every token of the real vocabulary has a row: 77 tokens, 64
/// channels.
pub(crate) fn clip(folder: &Path) {
    let (mut tensors, config) = golden("clip_text");
    let width = config["width"].as_u64().unwrap() as usize;
    for (name, data) in &mut tensors {
        if name == "token_embedding.weight" {
            let rows: Vec<f32> = data.iter::<f32>().collect();
            let values: Vec<f32> = rows
                .iter()
                .copied()
                .cycle()
                .take(VOCABULARY * width)
                .collect();
            *data = TensorData::new(values, [VOCABULARY, width]);
        }
    }
    let text = json!({
        "context_length": config["context_length"], "vocab_size": VOCABULARY, "width": width,
        "heads": config["heads"], "layers": config["layers"],
    });
    let config = json!({"model_cfg": {
        "embed_dim": config["embed_dim"], "quick_gelu": config["quick_gelu"], "text_cfg": text,
    }});
    let weights = folder.join("open_clip_model.safetensors");
    write(
        tensors,
        &weights,
        &folder.join("open_clip_config.json"),
        &config,
    );
}
