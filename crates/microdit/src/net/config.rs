//! The networks by name, for files of weights.

use crate::{ConfigError, DitConfig};
use serde::{Deserialize, Serialize};

/// One of the networks, with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NetworkConfig {
    /// [`Dit`](crate::Dit).
    Dit(DitConfig),
}

impl NetworkConfig {
    /// Checks the sizes.
    ///
    /// # Errors
    /// The first field outside of its range, or fields that do not go together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Dit(config) => config.validate(),
        }
    }
}
