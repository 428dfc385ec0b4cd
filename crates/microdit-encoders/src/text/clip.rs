//! CLIP's text tower (arXiv 2103.00020), under the names of open_clip or of transformers.

use super::states::TextStates;
use crate::{
    layers::{LayerNorm, Linear},
    transformer::{BlockConfig, Names, Stack},
    weights::{At, MAX_WIDTH},
};
use burn::tensor::{Int, Tensor, TensorData, module::embedding};
use microdit::{DitBackend, nn::Precision, ops::Activation, weights::WeightsError};

/// Where the tower lies among tensors named by transformers: of a model of both towers or with a projection, and of a text
/// model, which has no prefix of its own since transformers 5.
const TRANSFORMERS: &[&str] = &["text_model", "text_model.text_model", ""];

/// Where it lies among those named by open_clip, which has a class of models with separate towers.
const OPEN_CLIP: &[&str] = &["text", ""];

/// Most tokens a tower may know, and most tokens of a caption.
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_TOKENS: usize = 1 << 14;

/// Sizes of a [`ClipText`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Known tokens.
    pub vocabulary: usize,
    /// Tokens of a caption.
    pub tokens: usize,
    /// Width of a token's state.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub hidden: usize,
    /// Width of the feature shared with images, if there is one.
    pub projection: Option<usize>,
    /// Whether the activation is `x sigmoid(1.702 x)` in place of the exact GELU.
    pub quick_gelu: bool,
    /// Added to variances.
    pub eps: f64,
    /// Which token's state stands for the caption.
    pub pooling: Pooling,
}

/// Which token's state stands for the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The one with the largest id: the end token of CLIP's vocabulary.
    LargestId,
    /// The first of this id.
    First(i64),
}

impl ClipTextConfig {
    /// The text tower of ViT-H/14 with quick GELU (DFN5B-CLIP-ViT-H-14-378), which MicroDiT's captions come from.
    pub fn vit_h_14() -> Self {
        Self {
            vocabulary: 49408,
            tokens: 77,
            width: 1024,
            heads: 16,
            layers: 24,
            hidden: 4096,
            projection: Some(1024),
            quick_gelu: true,
            eps: 1e-5,
            pooling: Pooling::LargestId,
        }
    }

    /// The text tower of OpenAI's ViT-B/32.
    pub fn vit_b_32() -> Self {
        Self {
            width: 512,
            heads: 8,
            layers: 12,
            hidden: 2048,
            projection: Some(512),
            ..Self::vit_h_14()
        }
    }

    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            hidden: self.hidden,
            eps: self.eps,
            activation: match self.quick_gelu {
                true => Activation::QuickGelu,
                false => Activation::Gelu,
            },
            qkv_bias: true,
            layer_scale: false,
            gated: false,
        }
    }

    /// The tower with the weights at `at`; tensors of other towers may lie beside its own.
    ///
    /// # Errors
    /// Missing and misshapen tensors, blocks the configuration does not have, and sizes out of range.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit_encoders::{Weights, text::ClipTextConfig};
    ///
    /// let config = ClipTextConfig { vocabulary: 10, width: 8, heads: 2, layers: 1, hidden: 16, ..ClipTextConfig::vit_h_14() };
    /// let device = Default::default();
    /// let tower = config.load::<Flex>(&Weights::random(0).at(""), &device)?;
    /// let states = tower.forward(Tensor::zeros([2, 77], &device));
    /// assert_eq!(states.hidden.dims(), [2, 77, 8]);
    /// assert_eq!(tower.feature(states.pooled).unwrap().dims(), [2, 1024]);
    /// # Ok::<(), microdit::weights::WeightsError>(())
    /// ```
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<ClipText<B>, WeightsError> {
        let block = self.block();
        block.check(at, self.layers)?;
        at.within("the vocabulary", self.vocabulary, 1..=MAX_VOCABULARY)?;
        at.within("the number of tokens", self.tokens, 1..=MAX_TOKENS)?;
        at.within(
            "the projection",
            self.projection.unwrap_or(1),
            1..=MAX_WIDTH,
        )?;
        let known = |prefixes: &[&'static str], table: &str| {
            let has = |prefix: &&&str| at.at(prefix).has(table);
            prefixes.iter().find(has).map(|prefix| at.at(prefix))
        };
        let (names, text) = match (
            known(TRANSFORMERS, "embeddings.token_embedding.weight"),
            known(OPEN_CLIP, "token_embedding.weight"),
        ) {
            (Some(text), _) => (Names::Clip, text),
            (None, Some(text)) => (Names::OpenClip, text),
            (None, None) => {
                return Err(at.unusable(
                    "it holds no text tower of CLIP: neither embeddings.token_embedding.weight (transformers) nor token_embedding.weight (open_clip), with or without a prefix",
                ));
            }
        };
        let blocks = text.at(match names {
            Names::OpenClip => "transformer.resblocks",
            _ => "encoder.layers",
        });
        let table = [self.tokens, self.width];
        let (token, position, norm) = match names {
            Names::OpenClip => (
                text.at("token_embedding"),
                text.tensor("positional_embedding", table, device)?,
                text.at("ln_final"),
            ),
            _ => (
                text.at("embeddings.token_embedding"),
                text.at("embeddings.position_embedding")
                    .tensor("weight", table, device)?,
                text.at("final_layer_norm"),
            ),
        };
        let projection = |width| -> Result<Linear<B>, WeightsError> {
            match names {
                // Stored as a plain matrix that multiplies from the right.
                Names::OpenClip => {
                    let matrix = text.tensor("text_projection", [self.width, width], device)?;
                    Ok(Linear::new(matrix.transpose(), None))
                }
                _ => Linear::load(
                    &at.at_any(&["text_projection", "text_model.text_projection"]),
                    [self.width, width],
                    false,
                    device,
                ),
            }
        };
        Ok(ClipText {
            token: token.tensor("weight", [self.vocabulary, self.width], device)?,
            position,
            blocks: Stack::load(&block, self.layers, names, &blocks, device)?,
            norm: LayerNorm::load(&norm, self.width, self.eps, device)?,
            projection: self.projection.map(projection).transpose()?,
            config: self.clone(),
        })
    }
}

/// A text transformer with a causal mask.
#[derive(Clone, Debug)]
pub struct ClipText<B: DitBackend> {
    token: Tensor<B, 2>,
    position: Tensor<B, 2>,
    blocks: Stack<B>,
    norm: LayerNorm<B>,
    projection: Option<Linear<B>>,
    config: ClipTextConfig,
}

impl<B: DitBackend> ClipText<B> {
    /// The same whose linear layers and attention compute in `precision`; norms and what one block hands to the next stay f32.
    /// For bf16, weights are rounded for good.
    #[must_use]
    pub fn computing_in(mut self, precision: Precision) -> Self {
        self.blocks = self.blocks.computing_in(precision);
        self
    }

    /// Token ids `[batch, tokens]` to the states of all tokens, padding included, and of the caption.
    ///
    /// # Panics
    /// If there are more tokens than positions, or an id is beyond the vocabulary.
    pub fn forward(&self, ids: Tensor<B, 2, Int>) -> TextStates<B> {
        self.traced(ids, |_, _| ())
    }

    /// The same; `block` sees the states after each block.
    ///
    /// # Panics
    /// Like [`forward`](Self::forward).
    pub fn traced(
        &self,
        ids: Tensor<B, 2, Int>,
        mut block: impl FnMut(usize, &Tensor<B, 3>),
    ) -> TextStates<B> {
        let [batch, tokens] = ids.dims();
        assert!(
            tokens <= self.config.tokens,
            "{tokens} tokens for {} positions",
            self.config.tokens
        );
        let device = ids.device();
        let position = self.position.clone().narrow(0, 0, tokens);
        let x = embedding(self.token.clone(), ids.clone()) + position.unsqueeze();
        let x = self.blocks.forward(x, true, |i, state| {
            if let Some(i) = i.checked_sub(1) {
                block(i, state);
            }
        });
        let hidden = self.norm.forward(x);
        let rows = self.caption_rows(ids);
        let pooled = hidden.clone().reshape([batch * tokens, self.config.width]);
        let rows = Tensor::from_data(TensorData::new(rows, [batch]), &device);
        TextStates {
            pooled: pooled.select(0, rows),
            hidden,
        }
    }

    /// Pooled states `[batch, width]` to the feature that is compared with images' `[batch, projection]`; not
    /// normalized.
    pub fn feature(&self, pooled: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let projection = self.projection.as_ref()?;
        Some(
            projection
                .forward(pooled.unsqueeze_dim::<3>(1))
                .squeeze_dim::<2>(1),
        )
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The row of each caption's pooled state among all `batch x tokens`.
    fn caption_rows(&self, ids: Tensor<B, 2, Int>) -> Vec<i64> {
        let tokens = ids.dims()[1];
        let ids: Vec<i64> = ids.into_data().iter::<i64>().collect();
        let place = |caption: &[i64]| match self.config.pooling {
            Pooling::First(id) => caption.iter().position(|&token| token == id).unwrap_or(0),
            Pooling::LargestId => {
                let largest = caption.iter().max();
                caption
                    .iter()
                    .position(|token| Some(token) == largest)
                    .unwrap_or(0)
            }
        };
        let rows = ids.chunks(tokens).enumerate();
        rows.map(|(i, caption)| (i * tokens + place(caption)) as i64)
            .collect()
    }
}
