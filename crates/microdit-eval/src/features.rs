//! What a feature network says about pictures: one row of numbers per picture.

use crate::error::EvalError;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The kinds of networks whose features metrics are made of. Which one it is decides what a metric is called
/// ([`crate::metrics::Metric::name`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The Inception-V3 of the FID literature, its 2,048 pooled features.
    Inception,
    /// CLIP's ViT-B/32 image tower with clean-fid's preprocessing.
    CleanClip,
    /// Any other CLIP image tower.
    Clip,
    /// DINOv2.
    DinoV2,
    /// A classifier that was trained on the data at hand.
    Classifier,
}

impl Family {
    /// What it is called in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::Inception => "Inception-V3",
            Self::CleanClip => "clean-fid's CLIP",
            Self::Clip => "CLIP",
            Self::DinoV2 => "DINOv2",
            Self::Classifier => "a classifier",
        }
    }
}

/// A feature network, and all that its features depend on besides the pictures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureNetwork {
    /// Its kind.
    pub family: Family,
    /// Its name, for messages and tables.
    pub name: String,
    /// SHA-256 of its weights, in lower-case hexadecimal.
    pub sha256: String,
    /// How pictures are brought to its size, such as `pytorch-fid` or `clean-fid`.
    pub resize: String,
    /// Where its weights come from: the address of the repository or file they are published as, or what it was trained on; none where
    /// that is not known. The checksum alone tells networks apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Features of pictures and the network they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    network: FeatureNetwork,
    dim: usize,
    values: Vec<f32>,
}

impl Features {
    /// Features `[pictures, dim]`, row by row.
    ///
    /// # Errors
    /// Values that are no whole number of rows, or not finite.
    pub fn new(network: FeatureNetwork, dim: usize, values: Vec<f32>) -> Result<Self, EvalError> {
        Rows::new(&values, dim)?;
        Ok(Self {
            network,
            dim,
            values,
        })
    }

    /// The network.
    pub fn network(&self) -> &FeatureNetwork {
        &self.network
    }

    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.rows().len()
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows.
    pub fn rows(&self) -> Rows<'_, f32> {
        Rows {
            values: &self.values,
            dim: self.dim,
        }
    }
}

/// Rows of finite numbers, all of one size, which metrics read as f64.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    values: &'a [T],
    dim: usize,
}

impl<'a, T: Copy + Into<f64>> Rows<'a, T> {
    /// Rows `[len, dim]`, row by row.
    ///
    /// # Errors
    /// Values that are no whole number of rows, or not finite.
    pub fn new(values: &'a [T], dim: usize) -> Result<Self, EvalError> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(EvalError::Rows {
                values: values.len(),
                dim,
            });
        }
        if let Some(at) = values.iter().position(|&value| !value.into().is_finite()) {
            return Err(EvalError::NotFinite {
                row: at / dim,
                column: at % dim,
                value: values[at].into(),
            });
        }
        Ok(Self { values, dim })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers per row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.dim..][..self.dim]
    }

    /// Consecutive rows.
    ///
    /// # Panics
    /// If there are no such rows.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Self {
        Self {
            values: &self.values[range.start * self.dim..range.end * self.dim],
            dim: self.dim,
        }
    }

    /// The rows at `indices`, one after the other.
    ///
    /// # Panics
    /// If there is no row at an index.
    pub fn select(&self, indices: &[usize]) -> Vec<T> {
        indices
            .iter()
            .flat_map(|&row| self.row(row))
            .copied()
            .collect()
    }

    /// The squared length of every row.
    pub(crate) fn squares(&self) -> Vec<f64> {
        let square = |row: &[T]| row.iter().map(|&value| value.into().powi(2)).sum();
        self.values.chunks_exact(self.dim).map(square).collect()
    }

    /// Replaces what `buffer` holds by the values of all rows.
    pub(crate) fn read_into(&self, buffer: &mut Vec<f64>) {
        buffer.clear();
        buffer.extend(self.values.iter().map(|&value| value.into()));
    }

    /// Checks that these and those of `other` have as many numbers.
    pub(crate) fn check_dim(&self, what: &str, expected: usize) -> Result<(), EvalError> {
        match self.dim == expected {
            true => Ok(()),
            false => Err(EvalError::Dimension {
                what: what.to_owned(),
                found: self.dim,
                expected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_checked() {
        let rows = Rows::new(&[1.0f32, 2.0, 3.0, 4.0], 2).unwrap();
        assert_eq!(
            (rows.len(), rows.row(1), rows.select(&[1, 0])),
            (2, [3.0, 4.0].as_slice(), vec![3.0, 4.0, 1.0, 2.0])
        );
        assert!(Rows::new(&[1.0f32, 2.0, 3.0], 2).is_err() && Rows::<f32>::new(&[], 0).is_err());
        let text = Rows::new(&[0.0, 0.0, 0.0, f64::INFINITY], 2)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("picture 1: its feature 1 is inf"),
            "{text}"
        );
    }
}
