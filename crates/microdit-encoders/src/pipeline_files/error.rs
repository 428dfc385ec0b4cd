//! What keeps a published pipeline from being opened.

use microdit::weights::WeightsError;
use std::path::PathBuf;

/// A pipeline that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A file is missing, damaged or of another kind, or says something that is not supported.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A single file of version 2 does not say what its network predicts.
    #[error(
        "{}: it is of version 2, and does not say what its network predicts: those for 512 pixels (base) predict the noise, those for 768 the velocity", .0.display()
    )]
    Prediction(PathBuf),
    /// The average of the weights is asked for where there is none.
    #[error(
        "{}: a directory of diffusers' holds the weights of its network once, without an average beside them", .0.display()
    )]
    NoAverage(PathBuf),
    /// Something that no pipeline is without is missing from a directory.
    #[error(
        "{}: {what} is missing from this directory, which is no pipeline of Stable Diffusion without it; there {}", path.display(), listed(.there)
    )]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// What is there.
        there: Vec<String>,
    },
    /// The pipeline is of another architecture.
    #[error("{}: it describes a {class}; expected {expected}", path.display())]
    Class {
        /// The file that says so.
        path: PathBuf,
        /// Its class.
        class: String,
        /// The class that is known.
        expected: &'static str,
    },
}

fn listed(there: &[String]) -> String {
    match there {
        [] => "is nothing".to_owned(),
        [one] => format!("is {one}"),
        several => format!("are {}", several.join(", ")),
    }
}
