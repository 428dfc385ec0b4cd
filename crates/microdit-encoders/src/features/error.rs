//! What can go wrong with a network of features.

use super::inception::Resize;
use crate::hub::{HubError, PUBLISHED};
use microdit::weights::WeightsError;
use std::{io, path::PathBuf};

/// A network of features that cannot be opened, or does not do what is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// A network that is not there.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The weights of Inception-V3, which are not on the hub.
    #[error(
        "{name}: no such file. Inception-V3's weights are not on the Hugging Face hub: they are a release file of pytorch-fid, {}; download it from {} and give its path",
        Self::INCEPTION,
        Self::INCEPTION_SOURCE
    )]
    Release {
        /// What was asked for.
        name: String,
    },
    /// Neither a path nor the name of such a network.
    #[error(
        "{name}: no such file or directory, and no published network of features; known are {}, and Inception-V3's weights, {} from {}",
        known(),
        Self::INCEPTION,
        Self::INCEPTION_SOURCE
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A file that is damaged, or is not of such a network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// Another network than OpenAI's ViT-B/32 was to stand for it.
    #[error(
        "CLIP-FID is a distance of features of OpenAI's CLIP ViT-B/32, clip-b32; {network} is another network"
    )]
    NotCleanClip {
        /// The network.
        network: String,
    },
    /// Another network than Inception-V3 was to resize like it.
    #[error("{network} prepares its pictures in one way; resizing by {resize} is for inception")]
    Resize {
        /// The network.
        network: String,
        /// What was asked for.
        resize: Resize,
    },
}

impl FeatureError {
    /// The published weights of Inception-V3, whose SHA-256 begins as the name ends.
    pub const INCEPTION: &'static str = "pt_inception-2015-12-05-6726825d.pth";

    /// Where they are published.
    pub const INCEPTION_SOURCE: &'static str = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth";
}

/// The published networks of features.
fn known() -> String {
    let names = PUBLISHED.iter().map(|model| model.name);
    let sees = |name: &&str| name.contains("clip") || name.starts_with("dinov2");
    names.filter(sees).collect::<Vec<_>>().join(", ")
}
