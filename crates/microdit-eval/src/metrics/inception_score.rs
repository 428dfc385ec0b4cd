//! How sure and how varied a classifier is about pictures.

use crate::{error::EvalError, features::Rows};

/// Parts the pictures are split into, as published.
pub const SPLITS: usize = 10;

/// The Inception score, and how it differs between parts of the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InceptionScore {
    /// Mean over the splits.
    pub mean: f64,
    /// Standard deviation over the splits, divided by their number, as published.
    pub deviation: f64,
}

/// `exp(mean KL(p(y|x) || p(y)))` over each of [`SPLITS`] consecutive parts (arXiv 1606.03498), from a classifier's logits. It depends
/// on the network and its classes: the published numbers are of the TensorFlow Inception of 2015 with 1,008 outputs.
///
/// # Errors
/// Fewer pictures than splits.
pub fn inception_score<T: Copy + Into<f64>>(
    logits: Rows<'_, T>,
) -> Result<InceptionScore, EvalError> {
    let count = logits.len();
    if count < SPLITS {
        return Err(EvalError::TooFew {
            what: "Inception score".into(),
            found: count,
            needed: SPLITS,
            why: ", one per split".into(),
        });
    }
    let bound = |split: usize| split * count / SPLITS;
    let scores: Vec<f64> = (0..SPLITS)
        .map(|split| score(logits.range(bound(split)..bound(split + 1))))
        .collect();
    let mean = scores.iter().sum::<f64>() / SPLITS as f64;
    let square = scores
        .iter()
        .map(|score| (score - mean).powi(2))
        .sum::<f64>()
        / SPLITS as f64;
    Ok(InceptionScore {
        mean,
        deviation: square.sqrt(),
    })
}

/// Of one split: the entropy of the mean prediction, less the mean entropy of the predictions.
fn score<T: Copy + Into<f64>>(logits: Rows<'_, T>) -> f64 {
    let mut marginal = vec![0.0; logits.dim()];
    let mut entropy = 0.0;
    for row in 0..logits.len() {
        let row: Vec<f64> = logits.row(row).iter().map(|&logit| logit.into()).collect();
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|logit| (logit - largest).exp()).sum();
        for (marginal, logit) in marginal.iter_mut().zip(row) {
            let log = logit - largest - sum.ln();
            *marginal += log.exp();
            entropy -= log.exp() * log;
        }
    }
    let count = logits.len() as f64;
    let of_mean: f64 = marginal
        .iter()
        .map(|sum| sum / count)
        .filter(|&p| p > 0.0)
        .map(|p| -p * p.ln())
        .sum();
    (of_mean - entropy / count).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sure_and_varied_is_the_number_of_classes_and_unsure_is_one() {
        let classes = 4;
        // Every split of eight pictures has each class twice.
        let sure: Vec<f64> = (0..80 * classes)
            .map(|i| {
                if i % classes == i / classes % classes {
                    1000.0
                } else {
                    -1000.0
                }
            })
            .collect();
        let found = inception_score(Rows::new(&sure, classes).unwrap()).unwrap();
        assert!(
            (found.mean - 4.0).abs() < 1e-12 && found.deviation < 1e-12,
            "{found:?}"
        );
        let unsure = vec![0.25; 80 * classes];
        let found = inception_score(Rows::new(&unsure, classes).unwrap()).unwrap();
        assert!((found.mean - 1.0).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn between_them_it_is_the_formula() {
        // Predictions (3/4, 1/4) and (1/4, 3/4) in turn: KL = ln 2 - H(1/4).
        let logits: Vec<f64> = (0..40)
            .map(|i| {
                if (i % 2 == 0) == (i / 2 % 2 == 0) {
                    3f64.ln()
                } else {
                    0.0
                }
            })
            .collect();
        let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        let found = inception_score(Rows::new(&logits, 2).unwrap()).unwrap();
        assert!(
            (found.mean - 2.0 * (-entropy).exp()).abs() < 1e-12,
            "{found:?}"
        );
        assert!(inception_score(Rows::new(&logits[..18], 2).unwrap()).is_err());
    }
}
