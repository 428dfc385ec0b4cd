//! Kinds of parameters, so that a recipe can treat them differently.

use microdit::{
    nn::params::Role,
    range::{OutOfRange, within},
};
use serde::{Deserialize, Serialize};

/// Parameters of one role or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParamKind {
    /// Experts and their routers.
    Moe,
    /// Maps between data and tokens: patches, noise level, captions, and the final layer; learned tokens.
    Embeddings,
    /// Weights of layer norms.
    Norms,
    /// Biases.
    Biases,
    /// All other matrices: attention, dense feed-forward, modulation.
    Matrices,
    /// Low-rank adapters, such as a student's critic.
    Adapters,
}

impl From<Role> for ParamKind {
    fn from(role: Role) -> Self {
        match role {
            Role::Expert | Role::Router => Self::Moe,
            Role::Embedding => Self::Embeddings,
            Role::Norm => Self::Norms,
            Role::Bias => Self::Biases,
            Role::Matrix => Self::Matrices,
            Role::Adapter => Self::Adapters,
        }
    }
}

/// Parameters of some kinds, with multipliers of the learning rate and the weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// The kinds; a kind belongs to at most one group.
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
