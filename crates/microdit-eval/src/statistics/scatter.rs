//! What the scatter of a few values says about their mean.

use super::{SIGNIFICANCE, student};
use serde::{Deserialize, Serialize};

/// A standard deviation below this share of the values is what rounding leaves of none.
const ROUNDING: f64 = 1e-12;

/// What follows from the scatter of at least two values, by Student's t.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scatter {
    /// Standard deviation of a value, in its unit; above 0.
    pub deviation: f64,
    /// Standard deviation over the square root of the number of values.
    pub standard_error: f64,
    /// Degrees of freedom of t: one less than the number of values.
    pub freedom: f64,
    /// Half the width of the 95 % interval around the mean.
    pub half_width: f64,
}

impl Scatter {
    /// The mean of some values and their scatter: none of a single value, nor of values that are the same but for rounding, from
    /// which a t-test would conclude that their mean is certain. Values that were computed from others are rounded like these:
    /// `size` is the largest of them without its sign.
    ///
    /// ```
    /// use microdit_eval::statistics::Scatter;
    /// let (mean, scatter) = Scatter::around_mean(&[4.0, 5.0, 6.0], 6.0);
    /// assert_eq!((mean, scatter.unwrap().deviation), (5.0, 1.0));
    /// assert_eq!(Scatter::around_mean(&[0.25, 0.25], 0.25), (0.25, None));
    /// ```
    pub fn around_mean(values: &[f64], size: f64) -> (f64, Option<Self>) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        if values.len() < 2 {
            return (mean, None);
        }
        let freedom = count - 1.0;
        let squares = values.iter().map(|value| (value - mean).powi(2));
        let deviation = (squares.sum::<f64>() / freedom).sqrt();
        if deviation <= ROUNDING * size {
            return (mean, None);
        }
        let standard_error = deviation / count.sqrt();
        let scatter = Self {
            deviation,
            standard_error,
            freedom,
            half_width: student::quantile(1.0 - SIGNIFICANCE / 2.0, freedom) * standard_error,
        };
        (mean, Some(scatter))
    }

    /// Two-sided p-value of the question whether `mean` differs from 0, before any correction for several questions.
    pub fn p(&self, mean: f64) -> f64 {
        student::two_sided(mean / self.standard_error, self.freedom)
    }
}

/// The largest of some values without its sign.
pub fn size<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values
        .into_iter()
        .map(|value| value.abs())
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        // 4.302653 is the quantile of two degrees of freedom in published tables.
        let (mean, scatter) = Scatter::around_mean(&[4.0, 5.0, 6.0], 6.0);
        let scatter = scatter.unwrap();
        assert_eq!((mean, scatter.freedom), (5.0, 2.0));
        assert!((scatter.half_width - 4.302_653 / 3f64.sqrt()).abs() < 1e-6);
        assert!((scatter.p(scatter.half_width) - SIGNIFICANCE).abs() < 1e-9);
    }

    #[test]
    fn what_rounding_leaves_is_no_scatter() {
        // Both differences are 0.1, and 0.3 - 0.2 is not 0.1 in binary.
        let gains = [0.3 - 0.2, 0.2 - 0.1];
        assert_ne!(gains[0], gains[1]);
        assert_eq!(Scatter::around_mean(&gains, size(&[0.3, 0.2, 0.1])).1, None);
        assert_eq!(Scatter::around_mean(&[0.0, 0.0], 0.0).1, None);
        assert_eq!(Scatter::around_mean(&[3.0], 3.0).1, None);
        assert!(Scatter::around_mean(&[1e-9, 2e-9], 2e-9).1.is_some());
    }
}
