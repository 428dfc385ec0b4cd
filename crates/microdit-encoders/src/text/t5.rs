//! The encoder of T5 v1.1 (arXiv 1910.10683, arXiv 2002.05202), under the names of transformers.

use crate::{
    layers::Linear,
    weights::{At, MAX_LAYERS, MAX_WIDTH},
};
use burn::tensor::{Int, Tensor, TensorData, module::embedding};
use microdit::{DitBackend, nn::Precision, ops::Activation, weights::WeightsError};
use serde::Deserialize;

/// Sizes of a [`T5Encoder`], under the names of transformers' `config.json`.
///
/// What it leaves out is as in transformers: the configuration of T5-small, which is not v1.1 and is refused if
/// `feed_forward_proj` is left out too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Known tokens.
    pub vocab_size: usize,
    /// Width of a token's state.
    pub d_model: usize,
    /// Width of an attention head.
    pub d_kv: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Kinds of distance the position bias distinguishes, half of them for each direction.
    pub relative_attention_num_buckets: usize,
    /// Distance beyond which all are one kind.
    pub relative_attention_max_distance: usize,
    /// Added to mean squares.
    pub layer_norm_epsilon: f64,
    /// Must be `gated-gelu`, as in v1.1.
    pub feed_forward_proj: String,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".into(),
        }
    }
}

impl T5Config {
    /// The encoder with the weights at `at`; a decoder may lie beside it.
    ///
    /// # Errors
    /// Missing and misshapen tensors, blocks the configuration does not have, feed-forward layers of another kind, and sizes
    /// out of range.
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<T5Encoder<B>, WeightsError> {
        if self.feed_forward_proj != "gated-gelu" {
            return Err(at.unusable(&format!(
                "feed_forward_proj is `{}`; expected `gated-gelu` (T5 v1.1)",
                self.feed_forward_proj
            )));
        }
        for (key, value, range) in [
            ("vocab_size", self.vocab_size, 1..=1 << 24),
            ("d_model", self.d_model, 1..=MAX_WIDTH),
            ("d_kv", self.d_kv, 1..=MAX_WIDTH),
            ("d_ff", self.d_ff, 1..=MAX_WIDTH),
            ("num_layers", self.num_layers, 1..=MAX_LAYERS),
            ("num_heads", self.num_heads, 1..=1 << 10),
            (
                "relative_attention_num_buckets",
                self.relative_attention_num_buckets,
                4..=1 << 10,
            ),
            // Beyond the distances that have a bucket of their own: the rest is divided by the logarithm.
            (
                "relative_attention_max_distance",
                self.relative_attention_max_distance,
                self.relative_attention_num_buckets / 4 + 1..=1 << 20,
            ),
        ] {
            at.within(key, value, range)?;
        }
        at.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        let blocks = at.at("encoder.block");
        let block = |i| Block::load(self, &blocks.at(i), device);
        // One table, stored under either name or both.
        let token = if at.has("shared.weight") {
            at.at("shared")
        } else {
            at.at("encoder.embed_tokens")
        };
        let bias = blocks.at("0.layer.0.SelfAttention.relative_attention_bias");
        let encoder = T5Encoder {
            token: token.tensor("weight", [self.vocab_size, self.d_model], device)?,
            distance: bias.tensor(
                "weight",
                [self.relative_attention_num_buckets, self.num_heads],
                device,
            )?,
            blocks: (0..self.num_layers).map(block).collect::<Result<_, _>>()?,
            norm: RmsNorm::load(self, &at.at("encoder.final_layer_norm"), device)?,
            precision: Precision::F32,
            config: self.clone(),
        };
        blocks.all_read()?;
        Ok(encoder)
    }

    /// The kind of distance from a token to another `distance` places to the right.
    fn bucket(&self, distance: isize) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let side = if distance > 0 { half } else { 0 };
        let distance = distance.unsigned_abs();
        // Half of them are single distances, the others grow with the logarithm.
        let exact = half / 2;
        if distance < exact {
            return side + distance;
        }
        let ratio = |distance: usize| (distance as f32 / exact as f32).ln();
        let place = ratio(distance) / ratio(self.relative_attention_max_distance);
        let bucket = exact + (place * (half - exact) as f32) as usize;
        side + bucket.min(half - 1)
    }
}

/// A text transformer with relative positions.
#[derive(Clone, Debug)]
pub struct T5Encoder<B: DitBackend> {
    token: Tensor<B, 2>,
    /// What a head adds to the scores of a kind of distance `[kinds, heads]`.
    distance: Tensor<B, 2>,
    blocks: Vec<Block<B>>,
    norm: RmsNorm<B>,
    /// Of the blocks' products.
    precision: Precision,
    config: T5Config,
}

impl<B: DitBackend> T5Encoder<B> {
    /// The same whose linear layers and attention compute in `precision`; norms and what one block hands to the next stay f32.
    /// For bf16, weights are rounded for good.
    #[must_use]
    pub fn computing_in(self, precision: Precision) -> Self {
        let blocks = self.blocks.into_iter();
        let blocks = blocks.map(|block| block.computing_in(precision));
        Self {
            blocks: blocks.collect(),
            precision,
            ..self
        }
    }

    /// Token ids `[batch, tokens]` to states `[batch, tokens, width]`; where `mask` `[batch, tokens]` is 0, a token is
    /// padding that no token attends to.
    ///
    /// # Panics
    /// If an id is beyond the vocabulary.
    pub fn forward(&self, ids: Tensor<B, 2, Int>, mask: Option<Tensor<B, 2, Int>>) -> Tensor<B, 3> {
        let [_, tokens] = ids.dims();
        let bias = self.position_bias(tokens, &ids.device());
        let padding = mask.map(|mask| (mask.float().neg() + 1.0) * -1e9);
        let blocks = self.blocks.iter();
        let x = blocks.fold(embedding(self.token.clone(), ids), |x, block| {
            block.forward(x, bias.clone(), padding.clone(), self.precision)
        });
        self.norm.forward(x, Precision::F32)
    }

    /// Its sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// `[heads, tokens, tokens]`.
    fn position_bias(&self, tokens: usize, device: &B::Device) -> Tensor<B, 3> {
        let bucket = |at: usize| {
            let (query, key) = ((at / tokens) as isize, (at % tokens) as isize);
            self.config.bucket(key - query) as i64
        };
        let buckets: Vec<i64> = (0..tokens * tokens).map(bucket).collect();
        let buckets = Tensor::from_data(TensorData::new(buckets, [tokens * tokens]), device);
        // Head after head, so that no layer has to lay it out again.
        let heads = self.distance.dims()[1];
        let rows = self.distance.clone().transpose().select(1, buckets);
        rows.reshape([heads, tokens, tokens])
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Clone, Debug)]
struct RmsNorm<B: DitBackend> {
    weight: Tensor<B, 1>,
    eps: f64,
}

impl<B: DitBackend> RmsNorm<B> {
    fn load(config: &T5Config, at: &At<'_>, device: &B::Device) -> Result<Self, WeightsError> {
        Ok(Self {
            weight: at.tensor("weight", [config.d_model], device)?,
            eps: config.layer_norm_epsilon,
        })
    }

    fn forward(&self, x: Tensor<B, 3>, precision: Precision) -> Tensor<B, 3> {
        B::rms_norm(x, self.weight.clone(), self.eps, precision)
    }
}

/// Pre-norm self-attention and gated feed-forward layers.
#[derive(Clone, Debug)]
struct Block<B: DitBackend> {
    norm1: RmsNorm<B>,
    /// Queries, keys and values stacked.
    qkv: Linear<B>,
    out: Linear<B>,
    norm2: RmsNorm<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
}

impl<B: DitBackend> Block<B> {
    fn load(config: &T5Config, at: &At<'_>, device: &B::Device) -> Result<Self, WeightsError> {
        let (dim, hidden) = (config.d_model, config.d_ff);
        let inner = config.num_heads * config.d_kv;
        let (first, second) = (at.at("layer.0"), at.at("layer.1"));
        let attention = first.at("SelfAttention");
        let part = |name: &str| attention.at(name).tensor("weight", [inner, dim], device);
        let qkv = Tensor::cat(vec![part("q")?, part("k")?, part("v")?], 0);
        let feed = |name: &str, shape| {
            Linear::load(&second.at("DenseReluDense").at(name), shape, false, device)
        };
        Ok(Self {
            norm1: RmsNorm::load(config, &first.at("layer_norm"), device)?,
            qkv: Linear::new(qkv, None),
            out: Linear::load(&attention.at("o"), [inner, dim], false, device)?,
            norm2: RmsNorm::load(config, &second.at("layer_norm"), device)?,
            gate: feed("wi_0", [dim, hidden])?,
            up: feed("wi_1", [dim, hidden])?,
            down: feed("wo", [hidden, dim])?,
        })
    }

    fn computing_in(self, precision: Precision) -> Self {
        let [qkv, out, gate, up, down] = [self.qkv, self.out, self.gate, self.up, self.down]
            .map(|linear| linear.computing_in(precision));
        Self {
            qkv,
            out,
            gate,
            up,
            down,
            ..self
        }
    }

    fn forward(
        &self,
        x: Tensor<B, 3>,
        bias: Tensor<B, 3>,
        padding: Option<Tensor<B, 2>>,
        precision: Precision,
    ) -> Tensor<B, 3> {
        let qkv = self.qkv.forward(self.norm1.forward(x.clone(), precision));
        // T5 does not scale its scores: the initial weights did.
        let attended = B::biased_attention(qkv, bias, padding);
        let x = B::residual(x, self.out.forward(attended));
        let h = self.norm2.forward(x.clone(), precision);
        let gate = self.gate.forward(h.clone());
        let hidden = B::gated(gate, self.up.forward(h), Activation::GeluTanh);
        B::residual(x, self.down.forward(hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_their_own_bucket_and_far_ones_share() {
        let config = T5Config {
            vocab_size: 1,
            d_model: 1,
            d_kv: 1,
            d_ff: 1,
            num_layers: 0,
            num_heads: 1,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".into(),
        };
        // Of 16 per side, the first 8 are exact; 8..128 is divided into 8 by the logarithm: 8 x 16^(1/8) = 11.3.
        for (distance, bucket) in [
            (0, 0),
            (-7, 7),
            (7, 23),
            (-8, 8),
            (-11, 8),
            (-12, 9),
            (-1000, 15),
            (128, 31),
        ] {
            assert_eq!(config.bucket(distance), bucket, "distance {distance}");
        }
    }
}
