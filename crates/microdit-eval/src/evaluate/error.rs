//! What can go wrong with an evaluation.

use crate::{
    classifier::ClassifierError, error::EvalError, features::Family, prompts::PromptsError,
};
use microdit_data::DataError;
use microdit_encoders::features::FeatureError;
use microdit_train::TrainError;
use std::path::{Path, PathBuf};

/// An evaluation that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// There is no picture.
    #[error("{name}: no pictures there; expected a directory of pictures, or shards of them")]
    NoPictures {
        /// Where they were looked for.
        name: String,
    },
    /// Nobody says what the pictures show.
    #[error("{name}: no captions there, so there is nothing to draw from it; give prompts")]
    NoCaptions {
        /// Where they were looked for.
        name: String,
    },
    /// Not one picture can be decoded.
    #[error("{name}: none of the pictures there can be decoded: {reasons}")]
    NothingDecodes {
        /// Where they are.
        name: String,
        /// What is wrong with them, with counts.
        reasons: String,
    },
    /// There is no such metric.
    #[error("there is no metric called {name}; did you mean {near}?")]
    UnknownMetric {
        /// What was asked for.
        name: String,
        /// The name that is nearest to it.
        near: &'static str,
    },
    /// The network of a metric was not given.
    #[error("{metric} needs a network that was not given: {}", family.title())]
    NoNetwork {
        /// The metric.
        metric: String,
        /// The kind of network.
        family: Family,
    },
    /// There is nothing to compare with.
    #[error("{metric} compares pictures with others, and there are none")]
    NoReference {
        /// The metric.
        metric: String,
    },
    /// A score of pictures and texts, of a network without a text tower.
    #[error("{metric} compares pictures with texts, and {network} has no text tower")]
    NoTexts {
        /// The metric.
        metric: String,
        /// The network.
        network: String,
    },
    /// Pictures without a caption.
    #[error(
        "{without} of {pictures} pictures have no caption, which the CLIP score compares them with"
    )]
    Uncaptioned {
        /// Pictures there are.
        pictures: usize,
        /// Those without a caption.
        without: usize,
    },
    /// A reference by which a classifier's accuracy cannot be measured.
    #[error(
        "the classifier's own accuracy is not known, since {found}: it is measured on labelled shards that it is not trained on"
    )]
    Unlabelled {
        /// What is there in their place.
        found: String,
    },
    /// Mean and covariance are not enough for it.
    #[error(
        "{metric} needs the pictures of the reference, or their features; this .npz gives mean and covariance only"
    )]
    NeedsPictures {
        /// The metric.
        metric: String,
    },
    /// A limit on the number of images of a reference that gives statistics only.
    #[error(
        "{}: it gives the mean and covariance of its images only, so that the first {limit} cannot be taken; take it without a limit, or \
         an .npz of features, a directory or shards", path.display()
    )]
    LimitedStatistics {
        /// The file.
        path: PathBuf,
        /// How many were to be used.
        limit: u64,
    },
    /// No prompt is one of the classifier's.
    #[error(
        "none of the prompts of {pictures} pictures is a caption of the classifier's training shards"
    )]
    NoClass {
        /// Pictures there are.
        pictures: usize,
    },
    /// Neither a network nor a prompt that can be checked.
    #[error(
        "nothing can be measured: no metric needs a network that was given, and no prompt is of the generated dataset"
    )]
    NothingToMeasure,
    /// A file of features that were kept cannot be used.
    #[error("{}: {message}; remove it, and its pictures are seen again", path.display())]
    Chunk {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// What cannot be measured.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A published network that cannot be opened.
    #[error(transparent)]
    Network(#[from] FeatureError),
    /// A classifier that cannot be trained or read.
    #[error(transparent)]
    Classifier(#[from] ClassifierError),
    /// Prompts that cannot be read.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// Data that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A network that cannot draw.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl EvaluateError {
    /// An operating system's error at `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
