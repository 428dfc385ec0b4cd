//! How well pictures fit their captions.

use crate::{error::EvalError, features::Rows};

/// CLIP's opinion of pictures and their captions.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipScore {
    /// The cosine between each picture and its caption.
    pub cosines: Vec<f64>,
    /// Mean of `max(100 cos, 0)`.
    pub score: f64,
    /// Standard deviation of `max(100 cos, 0)` over the square root of the number of pictures; none for a single one.
    pub standard_error: Option<f64>,
}

impl ClipScore {
    /// What a cosine is multiplied by: torchmetrics' 100, where the paper has 2.5.
    pub const SCALE: f64 = 100.0;
}

/// The CLIP score (arXiv 2104.08718, with the factor 100 of torchmetrics in place of 2.5). Row `i` of `texts` belongs to row `i` of
/// `pictures`; neither need have unit length. Negative cosines count as zero, picture by picture.
///
/// # Errors
/// Numbers of rows or sizes that differ, no rows, or a row of zeros.
pub fn clip_score<T: Copy + Into<f64>>(
    pictures: Rows<'_, T>,
    texts: Rows<'_, T>,
) -> Result<ClipScore, EvalError> {
    texts.check_dim("a text", pictures.dim())?;
    if pictures.is_empty() || texts.len() != pictures.len() {
        return Err(EvalError::TooFew {
            what: format!("{} captions", texts.len()),
            found: pictures.len(),
            needed: texts.len().max(1),
            why: ", one per caption".into(),
        });
    }
    let lengths = [pictures.squares(), texts.squares()];
    let mut cosines = Vec::with_capacity(pictures.len());
    for row in 0..pictures.len() {
        for (what, lengths) in ["picture", "text"].into_iter().zip(&lengths) {
            if lengths[row] == 0.0 {
                return Err(EvalError::NoDirection { what, row });
            }
        }
        let pairs = pictures.row(row).iter().zip(texts.row(row));
        let product: f64 = pairs.map(|(&a, &b)| a.into() * b.into()).sum();
        cosines.push(product / (lengths[0][row].sqrt() * lengths[1][row].sqrt()));
    }
    let scores = || {
        cosines
            .iter()
            .map(|cosine| (ClipScore::SCALE * cosine).max(0.0))
    };
    let count = cosines.len() as f64;
    let score = scores().sum::<f64>() / count;
    let variance = scores().map(|value| (value - score).powi(2)).sum::<f64>() / (count - 1.0);
    let standard_error = (cosines.len() > 1).then(|| (variance / count).sqrt());
    Ok(ClipScore {
        cosines,
        score,
        standard_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_of_hand_made_vectors() {
        let pictures = [1.0, 0.0, 0.0, 3.0, 1.0, 1.0];
        let texts = [2.0, 0.0, 0.0, -1.0, 5.0, 0.0];
        let found = clip_score(
            Rows::new(&pictures, 2).unwrap(),
            Rows::new(&texts, 2).unwrap(),
        )
        .unwrap();
        let half = 0.5f64.sqrt();
        assert_eq!((found.cosines[0], found.cosines[1]), (1.0, -1.0));
        assert!((found.cosines[2] - half).abs() < 1e-15);
        // The opposite caption counts as zero, not as minus one hundred.
        assert!((found.score - 100.0 * (1.0 + half) / 3.0).abs() < 1e-12);
        let values = [100.0, 0.0, 100.0 * half];
        let square: f64 = values
            .iter()
            .map(|value| (value - found.score).powi(2))
            .sum();
        assert!((found.standard_error.unwrap() - (square / 6.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn what_has_no_answer_is_an_error() {
        let zero = [1.0, 0.0, 0.0, 0.0];
        let rows = Rows::new(&zero, 2).unwrap();
        let text = clip_score(rows, rows).unwrap_err().to_string();
        assert!(
            text.starts_with("picture 1: all its features are zero"),
            "{text}"
        );
        assert!(
            clip_score(rows.range(0..1), rows).is_err()
                && clip_score(rows.range(0..0), rows.range(0..0)).is_err()
        );
        assert_eq!(
            clip_score(rows.range(0..1), rows.range(0..1))
                .unwrap()
                .standard_error,
            None
        );
    }
}
