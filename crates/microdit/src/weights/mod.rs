//! Weights under the reference's names: PyTorch state dicts in and out.
//!
//! Parameters lie in memory as they lie in the file, so only names differ.

mod archive;
mod choice;
mod choice_error;
mod content;
mod description;
mod element;
mod file;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod hostile;
mod index;
mod ldm;
mod legacy;
mod lora;
mod merge;
mod names;
mod pickle;
mod pytorch;
mod safetensors;
mod state;
mod storages;
mod trainer;
mod wrappers;

pub use choice_error::{ChoiceError, NoChoice};
pub use description::{CaptionSource, Description, DescriptionError, LatentSource};
pub use file::WeightsFile;
pub use ldm::{LdmNames, LdmPart, TextNames, WeightSet, to_ldm};
pub use lora::{LoraError, LoraFile, write_lora};
pub use merge::{Unlike, merge};
pub use names::reference_name;
pub use state::StateDict;
pub use trainer::TrainerCheckpoint;

use burn::tensor::TensorData;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// A file of weights that cannot be read, written, or does not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file is damaged, or of another kind.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// It is not clear which of the file's tensors are the network.
    #[error("{}: {error}", path.display())]
    Choice {
        /// The file.
        path: PathBuf,
        /// Why, and what there is to choose from.
        error: ChoiceError,
    },
    /// What the file says about itself cannot be read.
    #[error("{}: {error}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: DescriptionError,
    },
    /// It holds no adapters, or none that the network can have.
    #[error("{origin}: {error}")]
    Lora {
        /// The file, or another name of the source.
        origin: String,
        /// What is wrong.
        error: Box<LoraError>,
    },
    /// The tensors do not fit the network.
    #[error("{}", describe(.origin, .missing, .surplus, .misshapen))]
    Mismatch {
        /// The file, or another name of the source.
        origin: String,
        /// Parameters of the network the source does not have.
        missing: Vec<String>,
        /// Tensors of the source the network does not have.
        surplus: Vec<String>,
        /// Name, shape in the network, shape in the source.
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
    /// Files that are to be merged are of different networks.
    #[error("{0}")]
    Unlike(Box<Unlike>),
    /// A tensor holds a value no computation can use, or that the type it is to be written in does not hold.
    #[error("{origin}: {tensor}: value {index} is {value}{expected}")]
    Value {
        /// The file, or another name of the source.
        origin: String,
        /// The tensor.
        tensor: String,
        /// The value's place in it, row-major.
        index: usize,
        /// The value.
        value: f32,
        /// What was expected, as the end of a sentence.
        expected: &'static str,
    },
}

impl WeightsError {
    /// Checks that every value of a tensor is a finite number.
    ///
    /// # Errors
    /// [`WeightsError::Value`] with the first that is not.
    pub fn unless_finite(origin: &str, tensor: &str, data: &TensorData) -> Result<(), Self> {
        let found = match data.as_slice::<f32>() {
            Ok(values) => values.iter().position(|value| !value.is_finite()),
            Err(_) => data.iter::<f32>().position(|value| !value.is_finite()),
        };
        found.map_or(Ok(()), |index| {
            Err(Self::Value {
                origin: origin.to_owned(),
                tensor: tensor.to_owned(),
                index,
                value: data.iter::<f32>().nth(index).unwrap_or(f32::NAN),
                expected: "; weights are finite numbers",
            })
        })
    }
}

fn describe(
    origin: &str,
    missing: &[String],
    surplus: &[String],
    misshapen: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let text = format!(
        "{origin} does not fit the network: {} tensors missing, {} surplus, {} of another shape; is it the checkpoint of this model configuration?",
        missing.len(),
        surplus.len(),
        misshapen.len()
    );
    listed(text, missing, surplus, misshapen)
}

/// The names of what does not fit, below `text`.
fn listed(
    mut text: String,
    missing: &[String],
    surplus: &[String],
    misshapen: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    // Writing to a string cannot fail.
    for name in missing {
        let _ = write!(text, "\n  missing    {name}");
    }
    for name in surplus {
        let _ = write!(text, "\n  surplus    {name}");
    }
    for (name, expected, found) in misshapen {
        let _ = write!(
            text,
            "\n  misshapen  {name}: expected {expected:?}, found {found:?}"
        );
    }
    text
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> WeightsError + '_ {
    move |error| WeightsError::Io {
        path: path.to_owned(),
        error,
    }
}

fn format_error(path: &Path, message: &str) -> WeightsError {
    WeightsError::Format {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}
