//! What is measured while a run is trained.

use microdit::range::{OutOfRange, within};
use microdit_data::check_names;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// When the loss on held-out samples is measured, and on which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations, at least 1.
    pub every: u64,
    /// Number of samples, 1 to 2^24; all of them, as the network sees them, take at most 2^40 bytes.
    pub samples: usize,
    /// Held-out shards; generated datasets need none.
    #[serde(default)]
    pub shards: Option<String>,
    /// Name of the caption that is taken where samples have several, as in `data.caption_mix`; the first of those that a sample has if
    /// absent.
    #[serde(default)]
    pub caption: Option<String>,
    /// How drawn pictures are compared with held-out ones; not at all if absent.
    #[serde(default)]
    pub feature_distance: Option<FeatureDistanceConfig>,
}

/// Pictures that are drawn at every evaluation, as `sampling` says, and the network by whose features they are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureDistanceConfig {
    /// Pictures drawn, 2 to 2^20; where there are fewer prompts, several of each.
    pub samples: usize,
    /// The network that sees them.
    pub network: FeatureNetworkConfig,
    /// What they are compared with, as `microdit eval` takes it: shards of pictures, a directory of them, or an .npz; the held-out
    /// shards if absent, and generated pictures if there are none.
    #[serde(default)]
    pub reference: Option<String>,
    /// Pictures of the reference that are used, the first ones, 2 to 2^24; all if absent, and 10,000 generated ones.
    #[serde(default)]
    pub reference_samples: Option<u64>,
    /// File of prompts, as `microdit eval` takes it; captions of the reference if absent.
    #[serde(default)]
    pub prompts: Option<PathBuf>,
}

/// A network whose features pictures are compared by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FeatureNetworkConfig {
    /// A small classifier, which is trained on labelled shards first, and kept for the next run. The reference is labelled too.
    Classifier {
        /// Shards it is trained on, or `shapes`, the generated dataset, which needs no labelled reference.
        shards: String,
        /// The member of a sample that holds its label, such as cls; what follows the last `-` of its key if absent.
        #[serde(default)]
        labels: Option<String>,
    },
    /// Inception-V3, CLIP or DINOv2: a file or directory, or a name such as dinov2-base.
    Published(PathBuf),
}

impl EvaluationConfig {
    pub(super) fn validate(&self) -> Result<(), OutOfRange> {
        within("every", self.every, 1..)?;
        within("samples", self.samples, 1..=1 << 24)?;
        let caption: Vec<String> = self.caption.iter().cloned().collect();
        check_names(&caption).map_err(|error| OutOfRange::new("caption", error))?;
        match &self.feature_distance {
            Some(config) => config
                .validate()
                .map_err(|error| error.inside("feature_distance")),
            None => Ok(()),
        }
    }
}

impl FeatureDistanceConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        within("samples", self.samples, 2..=1 << 20)?;
        let reference = self.reference_samples.unwrap_or(2);
        within("reference_samples", reference, 2..=1 << 24)
    }
}
