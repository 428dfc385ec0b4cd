//! The configurations and tokenizers beside published weights.

use microdit::weights::WeightsError;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The largest configuration or tokenizer that is read.
const MAX_JSON: u64 = 1 << 27;

/// Names of open_clip's weights, in the order they are looked for.
pub(crate) const OPEN_CLIP: [&str; 3] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// Names of transformers' weights, in the order they are looked for.
pub(crate) const TRANSFORMERS: [&str; 8] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.fp16.bin",
    "pytorch_model.bin.index.fp16.json",
];

/// The first of `names` that is a file in `folder`.
pub(crate) fn find(folder: &Path, names: &[&str]) -> Result<PathBuf, WeightsError> {
    let found = names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let message = format!(
            "no weights in this directory; expected {}",
            names.join(" or ")
        );
        format(folder, &message)
    })
}

/// The text of a configuration.
pub(crate) fn text(path: &Path) -> Result<String, WeightsError> {
    let io = |error| WeightsError::Io {
        path: path.to_owned(),
        error,
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX_JSON {
        let message = format!("expected a regular file of at most {MAX_JSON} bytes");
        return Err(format(path, &message));
    }
    std::fs::read_to_string(path).map_err(io)
}

/// What the text of the configuration at `path` says; errors name line and column.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, WeightsError> {
    serde_json::from_str(text).map_err(|error| format(path, &error.to_string()))
}

pub(crate) fn format(path: &Path, message: &str) -> WeightsError {
    WeightsError::Format {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}
