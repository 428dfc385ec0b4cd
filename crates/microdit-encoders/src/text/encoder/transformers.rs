//! The configurations and tokenizers of transformers.

use crate::{
    config_file::{format, parse, text},
    text::{
        clip::{ClipTextConfig, Pooling},
        tokenizer::{ClipTokenizer, Padding},
    },
};
use microdit::weights::WeightsError;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Tokens of a caption for encoders that take any number, unless another is asked for: those of PixArt (arXiv 2310.00426).
pub(super) const T5_TOKENS: usize = 120;

/// What a `config.json` of transformers describes.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) model_type: Option<String>,
}

/// The `config.json` of a model of both towers.
#[derive(Deserialize)]
struct BothTowers {
    text_config: Transformers,
    projection_dim: Option<usize>,
}

/// transformers' `config.json`; what it leaves out is as in transformers' `CLIPTextConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Transformers {
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    eos_token_id: i64,
}

impl Default for Transformers {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

pub(super) fn transformers_clip(file: &Path, text: &str) -> Result<ClipTextConfig, WeightsError> {
    let kind: Kind = parse(file, text)?;
    let both_towers = kind.model_type.as_deref() == Some("clip");
    let config = if both_towers {
        let both: BothTowers = parse(file, text)?;
        let projection_dim = both.projection_dim;
        Transformers {
            projection_dim: projection_dim.unwrap_or(both.text_config.projection_dim),
            ..both.text_config
        }
    } else {
        parse(file, text)?
    };
    let projects = both_towers
        || config
            .architectures
            .iter()
            .any(|name| name.ends_with("WithProjection"));
    let quick_gelu = match config.hidden_act.as_str() {
        "quick_gelu" => true,
        "gelu" => false,
        other => {
            let message = format!("hidden_act is `{other}`; expected quick_gelu or gelu");
            return Err(format(file, &message));
        }
    };
    Ok(ClipTextConfig {
        vocabulary: config.vocab_size,
        tokens: config.max_position_embeddings,
        width: config.hidden_size,
        heads: config.num_attention_heads,
        layers: config.num_hidden_layers,
        hidden: config.intermediate_size,
        projection: projects.then_some(config.projection_dim),
        quick_gelu,
        eps: config.layer_norm_eps,
        // Early configurations say 2, but mean the largest id.
        pooling: match config.eos_token_id {
            2 => Pooling::LargestId,
            id => Pooling::First(id),
        },
    })
}

/// Every token id of CLIP's tokenizer needs an embedding.
pub(super) fn knows_all_tokens(file: &Path, vocabulary: usize) -> Result<(), WeightsError> {
    if vocabulary > ClipTokenizer::END as usize {
        return Ok(());
    }
    let least = ClipTokenizer::END + 1;
    Err(format(
        file,
        &format!("{vocabulary} tokens; CLIP's tokenizer knows {least}"),
    ))
}

/// Where a tokenizer's files lie: beside the weights, or in diffusers' layout beside their directory.
pub(super) fn tokenizer_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let beside = folder.join("../tokenizer").join(name);
    [folder.join(name), beside]
        .into_iter()
        .find(|path| path.is_file())
}

/// The padding that the tokenizer of the text encoder in `folder` asks for: more end tokens, unless it names CLIP's token 0. Where its
/// two files disagree, as those of Stable Diffusion 2 do, transformers takes the map of special tokens.
pub(crate) fn padding_of(folder: &Path) -> Result<Padding, WeightsError> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Some(path) = tokenizer_file(folder, name) else {
            continue;
        };
        let config: serde_json::Value = parse(&path, &text(&path)?)?;
        let pad = &config["pad_token"];
        let pad = pad.as_str().or_else(|| pad["content"].as_str());
        if let Some(pad) = pad {
            return Ok(match pad {
                "!" => Padding::Zero,
                _ => Padding::End,
            });
        }
    }
    Ok(Padding::End)
}

pub(super) fn sentence_pieces(folder: &Path, vocabulary: usize) -> Result<Tokenizer, WeightsError> {
    let path = tokenizer_file(folder, "tokenizer.json")
        .ok_or_else(|| format(folder, "no tokenizer.json in this directory"))?;
    let mut tokenizer: Tokenizer = text(&path)?
        .parse()
        .map_err(|error: tokenizers::Error| format(&path, &error.to_string()))?;
    let known = tokenizer.get_vocab_size(true);
    if known > vocabulary {
        return Err(format(
            &path,
            &format!("{known} tokens; the encoder knows {vocabulary}"),
        ));
    }
    super::truncate(&mut tokenizer, T5_TOKENS)
        .map_err(|error| format(&path, &error.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}
