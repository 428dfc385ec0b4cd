//! Intervals of shares.

use super::{SIGNIFICANCE, quantile};
use statrs::distribution::{ContinuousCDF as _, Normal};

/// Wilson's 95 % interval of a share of which `hits` of `trials` were found (Wilson 1927). Unlike the interval around the share
/// itself it stays within `[0, 1]` and has a width even where all or none were found. Without any trial it is `[0, 1]`.
///
/// # Panics
/// If there are more hits than trials.
///
/// ```
/// let [low, high] = microdit_eval::statistics::wilson(8, 10);
/// assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4);
/// ```
pub fn wilson(hits: u64, trials: u64) -> [f64; 2] {
    assert!(hits <= trials, "{hits} hits in {trials} trials");
    match trials {
        0 => [0.0, 1.0],
        _ => wilson_of(hits as f64 / trials as f64, trials as f64, None),
    }
}

/// The same of a share in 0..=1 that is worth as much as `count` independent trials, which need not be a whole number above 0.
/// By Student's t, where `count` is an estimate, with its degrees of freedom, which are not 0.
pub fn wilson_of(share: f64, count: f64, freedom: Option<u64>) -> [f64; 2] {
    let probability = 1.0 - SIGNIFICANCE / 2.0;
    let z = match freedom {
        Some(freedom) => quantile(probability, freedom as f64),
        None => Normal::standard().inverse_cdf(probability),
    };
    let shrink = 1.0 + z * z / count;
    let centre = (share + z * z / (2.0 * count)) / shrink;
    let half = z / shrink * (share * (1.0 - share) / count + (z / (2.0 * count)).powi(2)).sqrt();
    // Exact where rounding would leave a number of seventeen digits.
    let low = if share == 0.0 { 0.0 } else { centre - half };
    let high = if share == 1.0 { 1.0 } else { centre + half };
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_ends_solve_the_equation_that_defines_them() {
        // (share - p)^2 = z^2 p (1 - p) / n
        let z = 1.959_963_984_540_054f64;
        for (hits, trials) in [(0, 5), (1, 7), (50, 100), (9, 9), (123, 4567)] {
            let share = hits as f64 / trials as f64;
            for p in wilson(hits, trials) {
                let difference = (share - p).powi(2) - z * z * p * (1.0 - p) / trials as f64;
                assert!(difference.abs() < 1e-12, "{hits} of {trials}: {p}");
            }
        }
        assert_eq!(wilson(0, 5)[0], 0.0);
        assert!(wilson(9, 9)[0] < 0.8 && wilson(9, 9)[1] == 1.0);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }
}
