//! What can be wrong with what is to be measured.

use std::path::{Path, PathBuf};

/// Pictures, features or references that cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Features of another size than what they are compared with.
    #[error(
        "{what} has {found} numbers per picture, expected {expected}; both sides need the same feature network"
    )]
    Dimension {
        /// Whose.
        what: String,
        /// Its size.
        found: usize,
        /// The size of the other side.
        expected: usize,
    },
    /// Values that are no whole number of rows.
    #[error("{values} values are no whole number of rows of {dim}")]
    Rows {
        /// Values there are.
        values: usize,
        /// Values per row.
        dim: usize,
    },
    /// A NaN or an infinity.
    #[error(
        "picture {row}: its feature {column} is {value}; the network overflowed, or the file is damaged"
    )]
    NotFinite {
        /// The picture.
        row: usize,
        /// Its feature.
        column: usize,
        /// The value.
        value: f64,
    },
    /// Too few pictures for a metric.
    #[error("{what}: {found} pictures, at least {needed} are needed{why}")]
    TooFew {
        /// Which side, or which metric.
        what: String,
        /// Pictures there are.
        found: usize,
        /// Pictures that would do.
        needed: usize,
        /// The reason, with its punctuation; may be empty.
        why: String,
    },
    /// A vector that has no direction.
    #[error("{what} {row}: all its features are zero, so that it has no direction to compare")]
    NoDirection {
        /// Picture or text.
        what: &'static str,
        /// Which.
        row: usize,
    },
    /// A matrix that is no covariance.
    #[error(
        "the covariance has an eigenvalue of {smallest:e} beside one of {largest:e}: it is no covariance"
    )]
    NotPositive {
        /// The smallest eigenvalue.
        smallest: f64,
        /// The largest.
        largest: f64,
    },
    /// A decomposition that did not converge.
    #[error("the {0} of the covariance does not converge")]
    NoConvergence(&'static str),
    /// A file of statistics or features that cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        message: String,
    },
}

impl EvalError {
    /// What is wrong with the file at `path`.
    pub(crate) fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}
