//! Intervals of shares that do not scatter.

use crate::statistics::wilson;

/// A standard error below this part of its value is what rounding leaves of none.
const ROUNDING: f64 = 1e-12;

/// A standard error, unless nothing scatters: then values that happen to be the same say nothing of others.
pub(super) fn of_scatter(value: f64, standard_error: Option<f64>) -> Option<f64> {
    standard_error.filter(|&error| error > ROUNDING * value.abs())
}

/// Wilson's interval of a share of `trials`, by the number of hits nearest to it; the share itself is always in it.
pub(super) fn interval_of_share(share: f64, trials: u64) -> [f64; 2] {
    let hits = (share * trials as f64).round() as u64;
    let [low, high] = wilson(hits.min(trials), trials);
    [low.min(share), high.max(share)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_hits_are_wilsons_and_others_are_held() {
        for (hits, trials) in [(0, 7), (3, 7), (7, 7)] {
            let share = hits as f64 / trials as f64;
            assert_eq!(interval_of_share(share, trials), wilson(hits, trials));
        }
        // A quarter of one is none of one, whose interval holds it; so is three quarters one of one.
        let [low, high] = interval_of_share(0.25, 1);
        assert!((low, high) == (0.0, wilson(0, 1)[1]) && high > 0.25);
        assert_eq!(interval_of_share(0.75, 1)[1], 1.0);
    }

    #[test]
    fn rounding_is_no_scatter() {
        // Ten tenths do not add up to one.
        assert_eq!(of_scatter(0.1, Some(1.4e-17)), None);
        assert_eq!(of_scatter(0.0, Some(0.0)), None);
        assert_eq!(of_scatter(0.1, Some(1e-4)), Some(1e-4));
    }
}
