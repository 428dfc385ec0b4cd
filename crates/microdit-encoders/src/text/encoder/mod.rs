//! A text tower with its tokenizer, opened as it was published.

mod open_clip;
mod transformers;

use super::{
    clip::{ClipText, ClipTextConfig},
    states::TextStates,
    t5::{T5Config, T5Encoder},
    tokenizer::{ClipTokenizer, Padding},
};
use crate::{
    config_file::{OPEN_CLIP, TRANSFORMERS, find, parse, text},
    pipeline_files::{self, NetworkFiles},
    weights::Weights,
};
use burn::tensor::{Int, Tensor, TensorData};
use microdit::{DitBackend, nn::Precision, weights::WeightsError};
use open_clip::OpenClip;
use std::{path::Path, sync::Arc};
use tokenizers::{Tokenizer, TruncationParams};
use transformers::{Kind, T5_TOKENS, knows_all_tokens, sentence_pieces, transformers_clip};

pub(crate) use transformers::padding_of;

/// Captions to the states of their tokens.
#[derive(Debug)]
pub enum TextEncoder<B: DitBackend> {
    /// CLIP's text tower, from open_clip or transformers.
    Clip(Box<ClipText<B>>, Box<ClipTokenizer>, Padding),
    /// The encoder of T5 v1.1; the number of tokens is the user's choice.
    T5(Arc<T5Encoder<B>>, Box<Tokenizer>, usize),
}

/// A text encoder that reads one number of tokens only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the text encoder reads {own} tokens of a caption, for which alone its positions were learnt; not {asked}"
)]
pub struct FixedTokens {
    /// The tokens it reads.
    pub own: usize,
    /// Those asked for.
    pub asked: usize,
}

impl<B: DitBackend> TextEncoder<B> {
    /// Opens a directory as published: with `open_clip_config.json` (open_clip), or with `config.json` of transformers'
    /// CLIP or T5 models, T5 with `tokenizer.json` beside it; the parent of `text_encoder` in diffusers' layout; or the one in a
    /// single file of latent diffusion.
    ///
    /// # Errors
    /// Missing or damaged files, models of another kind, and weights that do not fit their configuration.
    pub fn open(path: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        let nested = path.join("text_encoder");
        let folder = if nested.is_dir() { &nested } else { path };
        if folder.join("open_clip_config.json").is_file() {
            return Self::open_clip(folder, device);
        }
        if path.is_file()
            && let Some((files, padding)) = pipeline_files::text_of_file(path)?
        {
            return Self::of(files, padding, device);
        }
        let files = NetworkFiles::in_directory(folder, &TRANSFORMERS)?;
        let kind: Kind = files.parse()?;
        if kind.model_type.as_deref() != Some("t5") {
            return Self::of(files, padding_of(folder)?, device);
        }
        let config: T5Config = files.parse()?;
        let vocabulary = config.vocab_size;
        let weights = Weights::of(files.weights);
        let encoder = Arc::new(config.load(&weights.at(""), device)?);
        Ok(Self::T5(
            encoder,
            Box::new(sentence_pieces(folder, vocabulary)?),
            T5_TOKENS,
        ))
    }

    /// CLIP's text tower of these files of transformers.
    ///
    /// # Errors
    /// One of another kind, damaged files, and weights that do not fit their configuration.
    pub fn of(
        files: NetworkFiles,
        padding: Padding,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let kind: Kind = files.parse()?;
        match kind.model_type.as_deref() {
            Some("clip_text_model" | "clip") => {
                let (path, text) = files.text();
                let config = transformers_clip(path, text)?;
                knows_all_tokens(path, config.vocabulary)?;
                let weights = Weights::of(files.weights);
                let tower = Box::new(config.load(&weights.at(""), device)?);
                Ok(Self::Clip(tower, Box::new(ClipTokenizer::new()), padding))
            }
            other => Err(files.unusable(&format!(
                "model_type is {}; expected clip_text_model, clip or t5",
                other.unwrap_or("missing")
            ))),
        }
    }

    fn open_clip(folder: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        let file = folder.join("open_clip_config.json");
        let config: OpenClip = parse(&file, &text(&file)?)?;
        let weights = Weights::open(&find(folder, &OPEN_CLIP)?)?;
        let config = config.text();
        knows_all_tokens(&file, config.vocabulary)?;
        let tower = config.load(&weights.at(""), device)?;
        Ok(Self::Clip(
            Box::new(tower),
            Box::new(ClipTokenizer::new()),
            Padding::Zero,
        ))
    }

    /// The same that computes in `precision`; for bf16, its weights are rounded for good.
    #[must_use]
    pub fn computing_in(self, precision: Precision) -> Self {
        match self {
            Self::Clip(tower, tokenizer, padding) => {
                Self::Clip(Box::new(tower.computing_in(precision)), tokenizer, padding)
            }
            Self::T5(encoder, tokenizer, tokens) => {
                let encoder = Arc::unwrap_or_clone(encoder).computing_in(precision);
                Self::T5(Arc::new(encoder), tokenizer, tokens)
            }
        }
    }

    /// The encoder that reads `tokens` of a caption, start and end included. T5 reads any number, 1 to 2^16 (its positions are relative; it
    /// was trained on 512); CLIP reads as many as it has positions.
    ///
    /// # Errors
    /// If it reads another number only.
    pub fn reading(self: &Arc<Self>, tokens: usize) -> Result<Arc<Self>, FixedTokens> {
        let own = self.tokens();
        match &**self {
            _ if own == tokens => Ok(self.clone()),
            Self::T5(encoder, tokenizer, _) if (1..=1 << 16).contains(&tokens) => {
                let mut tokenizer = tokenizer.clone();
                truncate(&mut tokenizer, tokens).map_err(|_| FixedTokens { own, asked: tokens })?;
                Ok(Arc::new(Self::T5(encoder.clone(), tokenizer, tokens)))
            }
            _ => Err(FixedTokens { own, asked: tokens }),
        }
    }

    /// Whether what stands in the place of padding is masked, so that the other states do not depend on it and it says nothing. CLIP
    /// lets padding see the caption, and the networks that are trained on it attend to it.
    pub fn masks_padding(&self) -> bool {
        matches!(self, Self::T5(..))
    }

    /// Tokens of each caption as [`encode`](Self::encode) reads it, from the first to the last that is not padding, at least 1.
    pub fn lengths(&self, captions: &[impl AsRef<str>]) -> Vec<usize> {
        let length = |caption: &str| match self {
            Self::Clip(_, tokenizer, padding) => {
                let ids = tokenizer.encode(caption, self.tokens(), *padding);
                let end = ids
                    .iter()
                    .position(|&id| id == i64::from(ClipTokenizer::END));
                end.map_or(ids.len(), |end| end + 1)
            }
            Self::T5(_, tokenizer, tokens) => {
                let encoded = tokenizer.encode(caption, true);
                encoded.map_or(0, |encoded| encoded.len()).min(*tokens)
            }
        };
        let captions = captions.iter();
        captions
            .map(|caption| length(caption.as_ref()).max(1))
            .collect()
    }

    /// Captions to `[batch, tokens, channels]` with zeros in the place of padding: the states that are left when padding is trimmed.
    pub fn encode_trimmed(&self, captions: &[impl AsRef<str>], device: &B::Device) -> Tensor<B, 3> {
        let tokens = self.tokens();
        let mut mask = Vec::with_capacity(captions.len() * tokens);
        for length in self.lengths(captions) {
            mask.extend((0..tokens).map(|token| f32::from(u8::from(token < length))));
        }
        let mask = TensorData::new(mask, [captions.len(), tokens, 1]);
        self.encode(captions, device) * Tensor::from_data(mask, device)
    }

    /// Captions to `[batch, tokens, channels]`, padding included, as the reference keeps it.
    pub fn encode(&self, captions: &[impl AsRef<str>], device: &B::Device) -> Tensor<B, 3> {
        let shape = [captions.len(), self.tokens()];
        let ids = |values: Vec<i64>| -> Tensor<B, 2, Int> {
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        match self {
            Self::Clip(tower, tokenizer, padding) => {
                states(tower, tokenizer, *padding, captions, device).hidden
            }
            Self::T5(encoder, tokenizer, tokens) => {
                let (mut rows, mut masks) = (Vec::new(), Vec::new());
                for caption in captions {
                    // A caption the tokenizer rejects is encoded as empty.
                    let encoded = tokenizer.encode(caption.as_ref(), true).ok();
                    let known = encoded
                        .as_ref()
                        .map_or(&[][..], |encoded| encoded.get_ids());
                    let pad = tokens.saturating_sub(known.len());
                    rows.extend(known.iter().take(*tokens).map(|&id| i64::from(id)));
                    rows.extend(std::iter::repeat_n(0, pad));
                    masks.extend(std::iter::repeat_n(1, tokens - pad));
                    masks.extend(std::iter::repeat_n(0, pad));
                }
                encoder.forward(ids(rows), Some(ids(masks)))
            }
        }
    }

    /// Captions to the features that are compared with those of images, `[batch, dim]`, not normalized; none of a tower without a
    /// projection, and of T5.
    pub fn features(
        &self,
        captions: &[impl AsRef<str>],
        device: &B::Device,
    ) -> Option<Tensor<B, 2>> {
        match self {
            Self::Clip(tower, tokenizer, padding) if self.dim().is_some() => {
                tower.feature(states(tower, tokenizer, *padding, captions, device).pooled)
            }
            _ => None,
        }
    }

    /// Values of such a feature.
    pub fn dim(&self) -> Option<usize> {
        match self {
            Self::Clip(tower, ..) => tower.config().projection,
            Self::T5(..) => None,
        }
    }

    /// Tokens of a caption.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Clip(tower, ..) => tower.config().tokens,
            Self::T5(_, _, tokens) => *tokens,
        }
    }

    /// Channels of a token's state.
    pub fn channels(&self) -> usize {
        match self {
            Self::Clip(tower, ..) => tower.config().width,
            Self::T5(encoder, ..) => encoder.config().d_model,
        }
    }
}

impl ClipTextConfig {
    /// That of CLIP's text tower in a directory as [`TextEncoder::open`] takes it.
    ///
    /// # Errors
    /// A missing or damaged configuration, and that of a model of another kind.
    pub fn of(folder: &Path) -> Result<Self, WeightsError> {
        let file = folder.join("open_clip_config.json");
        if file.is_file() {
            let config: OpenClip = parse(&file, &text(&file)?)?;
            return Ok(config.text());
        }
        let file = folder.join("config.json");
        transformers_clip(&file, &text(&file)?)
    }
}

/// Makes a tokenizer cut what is longer than that many tokens.
fn truncate(tokenizer: &mut Tokenizer, tokens: usize) -> tokenizers::Result<()> {
    let truncation = TruncationParams {
        max_length: tokens,
        ..TruncationParams::default()
    };
    tokenizer.with_truncation(Some(truncation))?;
    Ok(())
}

/// What CLIP's tower makes of captions.
fn states<B: DitBackend>(
    tower: &ClipText<B>,
    tokenizer: &ClipTokenizer,
    padding: Padding,
    captions: &[impl AsRef<str>],
    device: &B::Device,
) -> TextStates<B> {
    let tokens = tower.config().tokens;
    let encode = |text: &str| tokenizer.encode(text, tokens, padding);
    let rows: Vec<i64> = captions
        .iter()
        .flat_map(|text| encode(text.as_ref()))
        .collect();
    let ids = TensorData::new(rows, [captions.len(), tokens]);
    tower.forward(Tensor::from_data(ids, device))
}

#[cfg(test)]
mod tests;
