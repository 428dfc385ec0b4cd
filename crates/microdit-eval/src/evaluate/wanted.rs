//! Which numbers are asked for, by their names.

use super::{error::EvaluateError, prompt_accuracy::ASPECTS};
use crate::{features::Family, metrics::Metric};
use std::{fmt, str::FromStr};

/// A number that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A metric over the features of a network.
    Features(Metric, Family),
    /// What prompts of the generated dataset ask for, all aspects of it.
    PromptAccuracy,
    /// The share of pictures that a classifier sees as what their prompt asks for.
    ClassAccuracy,
}

/// The name of [`Wanted::PromptAccuracy`].
const PROMPT_ACCURACY: &str = "prompt-accuracy";

/// The name of [`Wanted::ClassAccuracy`].
pub(crate) const CLASS_ACCURACY: &str = "class-accuracy";

impl Wanted {
    /// What is to be asked for, so that a number of this name is measured: labels may follow the name, and the aspects of prompts are
    /// measured together.
    ///
    /// # Errors
    /// A name that is none.
    pub fn measuring(number: &str) -> Result<Self, EvaluateError> {
        let metric = number.split(' ').next().unwrap_or_default();
        match ASPECTS.contains(&metric) {
            true => Ok(Self::PromptAccuracy),
            false => metric.parse(),
        }
    }

    /// Whether it is measured, where it can be, unless others are asked for.
    pub fn is_default(self) -> bool {
        match self {
            Self::Features(metric, _) => DEFAULT.contains(&metric),
            Self::PromptAccuracy | Self::ClassAccuracy => true,
        }
    }
}

impl FromStr for Wanted {
    type Err = EvaluateError;

    fn from_str(name: &str) -> Result<Self, EvaluateError> {
        match name {
            PROMPT_ACCURACY => return Ok(Self::PromptAccuracy),
            CLASS_ACCURACY => return Ok(Self::ClassAccuracy),
            _ => {}
        }
        let found = Metric::from_key(name).map(|(metric, family)| Self::Features(metric, family));
        found.ok_or_else(|| {
            let keys = Metric::keys().chain([PROMPT_ACCURACY, CLASS_ACCURACY]);
            let near = keys
                .map(|key| (strsim::damerau_levenshtein(key, name), key))
                .min();
            EvaluateError::UnknownMetric {
                name: name.to_owned(),
                near: near.map_or("", |(_, key)| key),
            }
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Features(metric, family) => metric.name(*family).map_or("", |name| name.key),
            Self::PromptAccuracy => PROMPT_ACCURACY,
            Self::ClassAccuracy => CLASS_ACCURACY,
        })
    }
}

/// Metrics of a network that are measured unless others are asked for: all but the extrapolated distance, which takes as long
/// as all others.
pub(super) const DEFAULT: [Metric; 10] = [
    Metric::Frechet,
    Metric::Kernel,
    Metric::Precision,
    Metric::Recall,
    Metric::Density,
    Metric::Coverage,
    Metric::Cmmd,
    Metric::CmmdUnbiased,
    Metric::ClipScore,
    Metric::InceptionScore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for key in Metric::keys().chain([PROMPT_ACCURACY, CLASS_ACCURACY]) {
            assert_eq!(key.parse::<Wanted>().unwrap().to_string(), key);
        }
        let error = "fid-dinov2".parse::<Wanted>().unwrap_err().to_string();
        assert!(error.contains("did you mean fd-dinov2?"), "{error}");
    }
}
