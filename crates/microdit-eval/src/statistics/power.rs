//! The power of a t-test, and the smallest difference it can be expected to find.

use super::student;
use statrs::distribution::{ChiSquared, Continuous as _, ContinuousCDF as _, Normal};

/// How often a difference of the smallest detectable size is found.
pub const POWER: f64 = 0.8;

/// Intervals of the integral over the normal density, and how far it reaches.
const INTERVALS: usize = 512;
const REACH: f64 = 8.0;

/// The probability that a two-sided t-test at `level`, a share of false alarms between 0 and 1, with `freedom` degrees of freedom
/// finds a difference of `effect` standard errors (of the true standard error, which the test estimates): the tails of the
/// noncentral t distribution beyond the critical value.
///
/// # Panics
/// If `freedom` is not positive.
pub fn power(effect: f64, freedom: f64, level: f64) -> f64 {
    let critical = student::quantile(1.0 - level / 2.0, freedom);
    let normal = Normal::standard();
    let squares = ChiSquared::new(freedom).expect("degrees of freedom are positive");
    // |T| > c is S < |effect + Z| / c, where Z is standard normal and freedom S^2 chi-squared: the mean over Z, by Simpson's rule.
    let step = 2.0 * REACH / INTERVALS as f64;
    let value = |i: usize| {
        let z = step * i as f64 - REACH;
        let found = squares.cdf(freedom * ((effect + z) / critical).powi(2));
        normal.pdf(z) * found
    };
    let weight = |i: usize| match i {
        0 | INTERVALS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=INTERVALS).map(|i| weight(i) * value(i)).sum::<f64>() * step / 3.0
}

/// The difference that a two-sided t-test at `level` finds with probability [`POWER`], in the unit of the standard error of the
/// mean difference. With few seeds it is large: at a level of 5 %, 5.7 standard errors with three, and with ten pairs to compare,
/// at 0.5 %, 18.
///
/// # Panics
/// If `freedom` is not positive.
pub fn smallest_detectable(standard_error: f64, freedom: f64, level: f64) -> f64 {
    // Power grows with the effect; at twice the sum of the quantiles it is beyond 80 % for any degrees of freedom.
    let quantile = |p| student::quantile(p, freedom);
    let mut low = 0.0;
    let mut high = 2.0 * (quantile(1.0 - level / 2.0) + quantile(POWER));
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        match power(middle, freedom, level) < POWER {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high) * standard_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::SIGNIFICANCE;
    use microdit::rng::{Purpose, Stream};

    #[test]
    fn without_a_difference_the_power_is_the_level() {
        for freedom in [1.0, 2.0, 4.0, 29.0, 500.0] {
            for level in [SIGNIFICANCE, SIGNIFICANCE / 21.0] {
                let found = power(0.0, freedom, level);
                assert!((found - level).abs() < 1e-6, "{freedom}: {found}");
            }
        }
    }

    #[test]
    fn many_seeds_leave_the_normal_approximation() {
        // 1.959964 + 0.841621; the steps of the integral are as wide as what it jumps over here.
        let found = smallest_detectable(1.0, 1e5, SIGNIFICANCE);
        assert!((found - 2.801585).abs() < 2e-3, "{found}");
    }

    #[test]
    fn a_simulated_test_finds_it_as_often_as_promised() {
        for (count, pairs) in [(2usize, 1.0), (3, 1.0), (5, 1.0), (3, 6.0), (5, 21.0)] {
            let freedom = (count - 1) as f64;
            let level = SIGNIFICANCE / pairs;
            let standard_error = 1.0 / (count as f64).sqrt();
            let effect = smallest_detectable(standard_error, freedom, level);
            let critical = student::quantile(1.0 - level / 2.0, freedom);
            let trials = 20_000;
            let found = (0..trials).filter(|&trial| {
                let noise = Stream::new(0, Purpose::Noise, count as u64, trial).normal(count);
                let values: Vec<f64> = noise.iter().map(|&z| effect + f64::from(z)).collect();
                let mean = values.iter().sum::<f64>() / count as f64;
                let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / freedom;
                (mean / (variance / count as f64).sqrt()).abs() > critical
            });
            let share = found.count() as f64 / trials as f64;
            // Four standard errors of a share of 0.8.
            assert!((share - POWER).abs() < 0.0113, "{count}: {share}");
        }
    }
}
