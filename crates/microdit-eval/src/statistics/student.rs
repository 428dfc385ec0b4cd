//! Student's t distribution.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, StudentsT};

/// The t distribution with `freedom` degrees of freedom.
fn student(freedom: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom).expect("degrees of freedom are positive")
}

/// The value below which a t variable with `freedom` degrees of freedom lies with the given probability.
///
/// # Panics
/// If `freedom` is not positive, or `probability` not within `[0, 1]`.
///
/// ```
/// // Published tables give 4.303 for two degrees of freedom.
/// let t = microdit_eval::statistics::quantile(0.975, 2.0);
/// assert!((t - 4.302_652_729_7).abs() < 1e-8);
/// ```
pub fn quantile(probability: f64, freedom: f64) -> f64 {
    let student = student(freedom);
    let mut t = student.inverse_cdf(probability);
    // The inverse loses digits where the distribution is almost normal; its function does not.
    for _ in 0..4 {
        let step = (student.cdf(t) - probability) / student.pdf(t);
        if step.is_finite() {
            t -= step;
        }
    }
    t
}

/// The probability that a t variable with `freedom` degrees of freedom is at most `t`.
///
/// # Panics
/// If `freedom` is not positive.
pub fn cdf(t: f64, freedom: f64) -> f64 {
    student(freedom).cdf(t)
}

/// The probability that a t variable with `freedom` degrees of freedom is at least as far from zero as `t`: the p-value of
/// a two-sided test.
///
/// # Panics
/// If `freedom` is not positive.
pub fn two_sided(t: f64, freedom: f64) -> f64 {
    // The lower tail, which does not lose its digits to a difference with 1.
    2.0 * student(freedom).cdf(-t.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn one_and_two_degrees_of_freedom_have_closed_forms() {
        for p in [0.001, 0.2, 0.5, 0.9, 0.975, 0.9995] {
            let cauchy = (PI * (p - 0.5)).tan();
            let alpha: f64 = 4.0 * p * (1.0 - p);
            let two = 2.0 * (p - 0.5) * (2.0 / alpha).sqrt();
            for (freedom, expected) in [(1.0, cauchy), (2.0, two)] {
                let found = quantile(p, freedom);
                let error = (found - expected).abs() / expected.abs().max(1.0);
                assert!(error < 1e-9, "{freedom} {p}: {found} {expected}");
                assert!((cdf(expected, freedom) - p).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn tables_agree() {
        // Quantiles of 0.975 in published tables.
        for (freedom, expected) in [
            (3.0, 3.182),
            (4.0, 2.776),
            (9.0, 2.262),
            (30.0, 2.042),
            (1e7, 1.960),
        ] {
            let found = quantile(0.975, freedom);
            assert!((found - expected).abs() < 6e-4, "{freedom}: {found}");
            assert!((two_sided(found, freedom) - 0.05).abs() < 1e-9);
        }
    }

    #[test]
    fn tiny_probabilities_keep_their_digits() {
        // With two degrees of freedom, P(T < -t) = (1 - t / sqrt(2 + t^2)) / 2, about 1 / (2 t^2).
        let t = 1e9;
        let found = two_sided(t, 2.0);
        assert!((found * t * t - 1.0).abs() < 1e-6, "{found}");
    }
}
