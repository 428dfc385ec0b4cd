//! Kinds of parameters, so that a recipe can treat them differently.

use microdit::range::{OutOfRange, within};
use serde::{Deserialize, Serialize};

/// What a parameter is for, told by the reference's name of it and its number of dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParamKind {
    /// Experts and their routers.
    Moe,
    /// Maps between data and tokens: patches, noise level, captions, and the final layer.
    Embeddings,
    /// Weights of layer norms.
    Norms,
    /// Biases.
    Biases,
    /// All other matrices: attention, dense feed-forward, modulation.
    Matrices,
}

/// Names of modules between data and tokens.
const EMBEDDINGS: [&str; 5] = [
    "x_embedder.",
    "t_embedder.",
    "y_embedder.",
    "pooled_y_emb_process.",
    "final_layer.linear.",
];

impl ParamKind {
    /// The kind of a parameter.
    ///
    /// ```
    /// use microdit_train::optim::ParamKind;
    /// assert_eq!(ParamKind::of("blocks.1.mlp.w1", 3), ParamKind::Moe);
    /// assert_eq!(ParamKind::of("blocks.0.mlp.w1.weight", 2), ParamKind::Matrices);
    /// assert_eq!(ParamKind::of("blocks.0.norm1.weight", 1), ParamKind::Norms);
    /// ```
    pub fn of(name: &str, dimensions: usize) -> Self {
        if name.ends_with(".bias") {
            Self::Biases
        } else if dimensions == 1 {
            Self::Norms
        } else if dimensions == 3 || name.ends_with(".mlp.gate.weight") {
            Self::Moe
        } else if EMBEDDINGS.iter().any(|prefix| name.starts_with(prefix)) {
            Self::Embeddings
        } else {
            Self::Matrices
        }
    }
}

/// Parameters of some kinds, with multipliers of the learning rate and the weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// The kinds; a kind belongs to one group at most.
    pub kinds: Vec<ParamKind>,
    /// Multiplies the learning rate, 0 to 1000.
    #[serde(default = "one")]
    pub lr: f64,
    /// Multiplies the weight decay, 0 to 1000.
    #[serde(default = "one")]
    pub weight_decay: f64,
}

impl ParamGroup {
    pub(super) fn validate(&self) -> Result<(), OutOfRange> {
        within("lr", self.lr, 0.0..=1000.0)?;
        within("weight_decay", self.weight_decay, 0.0..=1000.0)
    }
}

fn one() -> f64 {
    1.0
}
