//! Sizes of a transformer block and of its experts.

use super::Precision;
use serde::{Deserialize, Serialize};

/// Expert-choice mixture of experts (arXiv 2202.09368) in the feed-forward of every n-th block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeConfig {
    /// Number of experts, 1 to 2^16.
    pub experts: usize,
    /// Mean number of experts that process a token: an expert takes `capacity x tokens / experts` tokens,
    /// which is at least one and at most all of them.
    pub capacity: f64,
    /// Every n-th block has experts, except the last backbone block and the first mixer block; at least 1.
    pub every: usize,
}

/// The feed-forward of blocks without experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dense {
    /// [`SwiGlu`](super::feed_forward::SwiGlu), three matrices.
    #[default]
    SwiGlu,
    /// [`Gelu`](super::feed_forward::Gelu), two matrices: half as wide again, which makes parameters and FLOPs the same.
    Gelu,
}

/// What the router of the experts sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Router {
    /// The tokens as the experts get them, modulated by the noise level.
    #[default]
    Modulated,
    /// The tokens before they are modulated, and the embedded noise level beside them (arXiv 2604.12163): modulation, which
    /// moves all tokens of an image alike, then has no part in which of them are chosen.
    Decoupled,
}

/// Widths of one transformer block, derived from a [`DitConfig`](crate::DitConfig).
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Width of the vector that modulates the block.
    pub condition_dim: usize,
    /// Width of queries, keys and values of the self-attention.
    pub attention_dim: usize,
    /// Heads of the self-attention.
    pub heads: usize,
    /// Heads of the cross-attention, whose width is `dim`.
    pub cross_heads: usize,
    /// Hidden width of the feed-forward, or of one expert.
    pub hidden_dim: usize,
    /// Kind of the feed-forward, where it has no experts.
    pub dense: Dense,
    /// Experts of this block, if it has any.
    pub moe: Option<MoeConfig>,
    /// What their router sees.
    pub router: Router,
    /// Biases in attention and dense feed-forward.
    pub use_bias: bool,
    /// Epsilon of the layer norms.
    pub norm_eps: f64,
    /// Standard deviation of the initial output projections.
    pub output_std: f64,
    /// What the block computes in.
    pub precision: Precision,
}

impl MoeConfig {
    /// Tokens each expert takes of `tokens`: `floor(capacity x tokens / experts)`.
    pub fn tokens_per_expert(&self, tokens: usize) -> usize {
        (self.capacity * tokens as f64 / self.experts as f64) as usize
    }
}
