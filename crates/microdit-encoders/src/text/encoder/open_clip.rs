//! The configuration of open_clip, as far as it concerns the text tower.

use crate::text::clip::{ClipTextConfig, Pooling};
use serde::Deserialize;

/// `open_clip_config.json`.
#[derive(Deserialize)]
pub(super) struct OpenClip {
    model_cfg: OpenClipModel,
}

#[derive(Deserialize)]
struct OpenClipModel {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    text_cfg: OpenClipText,
}

#[derive(Deserialize)]
struct OpenClipText {
    #[serde(default = "context_length")]
    context_length: usize,
    #[serde(default = "vocab_size")]
    vocab_size: usize,
    width: usize,
    heads: usize,
    layers: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
}

fn context_length() -> usize {
    77
}

fn vocab_size() -> usize {
    49_408
}

fn mlp_ratio() -> f64 {
    4.0
}

impl OpenClip {
    pub(super) fn text(&self) -> ClipTextConfig {
        let OpenClipModel {
            embed_dim,
            quick_gelu,
            text_cfg,
        } = &self.model_cfg;
        ClipTextConfig {
            vocabulary: text_cfg.vocab_size,
            tokens: text_cfg.context_length,
            width: text_cfg.width,
            heads: text_cfg.heads,
            layers: text_cfg.layers,
            hidden: (text_cfg.width as f64 * text_cfg.mlp_ratio) as usize,
            projection: Some(*embed_dim),
            quick_gelu: *quick_gelu,
            eps: 1e-5,
            pooling: Pooling::LargestId,
        }
    }
}
