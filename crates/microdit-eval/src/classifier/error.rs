//! What can be wrong with the data a classifier is trained on, or judges.

use microdit::{range::OutOfRange, weights::WeightsError};
use microdit_data::DataError;

/// A classifier that cannot be trained, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifierError {
    /// A number of its configuration.
    #[error("classifier: {0}")]
    Config(#[from] OutOfRange),
    /// Shards, or files beside the weights, that cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Weights that cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A sample without a label.
    #[error("{shard}: {key}: {expected}")]
    Label {
        /// The file of its shard.
        shard: String,
        /// Its key.
        key: String,
        /// Where its label was looked for.
        expected: String,
    },
    /// Shards that are not to be learnt from.
    #[error("{shards}: {message}")]
    Shards {
        /// As they were given.
        shards: String,
        /// Why, and what would do.
        message: String,
    },
    /// A training that went astray.
    #[error("the classifier's loss is {loss} at step {step}; a lower learning rate may do")]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// The loss.
        loss: f32,
    },
}

impl ClassifierError {
    pub(super) fn shards(shards: &str, message: impl Into<String>) -> Self {
        Self::Shards {
            shards: shards.to_owned(),
            message: message.into(),
        }
    }
}
