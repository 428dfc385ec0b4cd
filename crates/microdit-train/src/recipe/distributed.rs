//! How the work of a stage is split over the ranks and devices of a run.

use microdit::{
    Precision,
    range::{OutOfRange, within},
};
use serde::{Deserialize, Serialize};

/// How the work of a stage is split over ranks (processes that work together) and their devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistributedConfig {
    /// Whether every device keeps the optimizer's moments and the averages of its share of the parameters alone, and updates
    /// those (ZeRO, arXiv 1910.02054, stage 1). The weights are the same bit for bit. Of several ranks, all write into the run
    /// directory, each its share of the checkpoints.
    pub shard_optimizer: bool,
    /// The numbers in which ranks send each other their gradients; sums are taken in F32. Bf16 halves what they send, and rounds every
    /// rank's gradients to 8 bits.
    pub gradients: Precision,
    /// Most MiB of gradients or weights that a rank exchanges at once, 1 to 4096.
    pub bucket_mib: usize,
}

impl Default for DistributedConfig {
    fn default() -> Self {
        Self {
            shard_optimizer: false,
            gradients: Precision::F32,
            bucket_mib: 64,
        }
    }
}

impl DistributedConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The key that is outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("bucket_mib", self.bucket_mib, 1..=4096)
    }
}
