//! Two ways of training, compared seed by seed.

use super::{Direction, Scatter, StatisticsError, scatter::size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A number of each run, by the run's seed.
pub type BySeed = BTreeMap<u64, f64>;

/// A way of training: what it is called, and its runs.
pub type Labelled<'a> = (&'a str, &'a BySeed);

/// A paired t-test: how much better `a` is than `b`, from the differences between runs of the same seed.
///
/// Runs of one seed share their data order, noise and the initial weights they have in common, so that much of what varies
/// from seed to seed cancels in the difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paired {
    /// The seeds both have.
    pub seeds: Vec<u64>,
    /// Mean over the seeds of what `a` is better by; negative where it is worse.
    pub mean: f64,
    /// What several seeds say about that mean; one seed says nothing, nor do seeds whose differences are all the same.
    pub scatter: Option<Scatter>,
}

impl Paired {
    /// Compares the runs of `a` and `b` that share a seed.
    ///
    /// # Errors
    /// Without a common seed, or if one of the values compared is NaN or infinite; the labels name the two.
    pub fn new(
        (a_label, a): Labelled<'_>,
        (b_label, b): Labelled<'_>,
        direction: Direction,
    ) -> Result<Self, StatisticsError> {
        let seeds: Vec<u64> = a
            .keys()
            .filter(|seed| b.contains_key(seed))
            .copied()
            .collect();
        if seeds.is_empty() {
            return Err(StatisticsError::NoCommonSeed {
                a: a_label.to_owned(),
                a_seeds: a.keys().copied().collect(),
                b: b_label.to_owned(),
                b_seeds: b.keys().copied().collect(),
            });
        }
        let mut gains = Vec::with_capacity(seeds.len());
        let mut largest = 0.0f64;
        for &seed in &seeds {
            for (label, value) in [(a_label, a[&seed]), (b_label, b[&seed])] {
                if !value.is_finite() {
                    let label = label.to_owned();
                    return Err(StatisticsError::NotFinite { label, seed, value });
                }
            }
            largest = largest.max(size(&[a[&seed], b[&seed]]));
            gains.push(direction.gain(a[&seed], b[&seed]));
        }
        let (mean, scatter) = Scatter::around_mean(&gains, largest);
        Ok(Self {
            seeds,
            mean,
            scatter,
        })
    }

    /// The 95 % interval of what `a` is better by.
    pub fn interval(&self) -> Option<[f64; 2]> {
        let half = self.scatter.as_ref()?.half_width;
        Some([self.mean - half, self.mean + half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64]) -> BySeed {
        (0..).zip(values.iter().copied()).collect()
    }

    #[test]
    fn a_textbook_example() {
        // Student's data of 1908: hours of sleep gained by ten patients with two drugs; t = -4.0621, 9 degrees of freedom,
        // p = 0.002833, interval -2.4598858 .. -0.7001142.
        let a = runs(&[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]);
        let b = runs(&[1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]);
        let paired = Paired::new(("a", &a), ("b", &b), Direction::Higher).unwrap();
        let scatter = paired.scatter.clone().unwrap();
        assert_eq!(scatter.freedom, 9.0);
        assert!((paired.mean + 1.58).abs() < 1e-12);
        assert!((paired.mean / scatter.standard_error + 4.0621).abs() < 5e-5);
        let p = scatter.p(paired.mean);
        assert!((p - 0.002833).abs() < 5e-7, "{p}");
        let [low, high] = paired.interval().unwrap();
        assert!((low + 2.4598858).abs() < 5e-8 && (high + 0.7001142).abs() < 5e-8);
        // The other direction mirrors the answer.
        let mirrored = Paired::new(("a", &a), ("b", &b), Direction::Lower).unwrap();
        assert_eq!(mirrored.mean, -paired.mean);
        assert_eq!(mirrored.scatter, Some(scatter));
    }

    #[test]
    fn only_common_seeds_count_and_the_order_of_seeds_does_not() {
        let a = BySeed::from([(3, 1.0), (1, 2.0), (9, 100.0)]);
        let b = BySeed::from([(1, 5.0), (2, -100.0), (3, 6.0)]);
        let paired = Paired::new(("a", &a), ("b", &b), Direction::Lower).unwrap();
        assert_eq!(
            (paired.seeds.as_slice(), paired.mean),
            ([1, 3].as_slice(), 4.0)
        );
    }

    #[test]
    fn neither_one_seed_nor_equal_differences_have_an_interval() {
        for (a, b, mean) in [
            (&[1.0][..], &[2.0][..], 1.0),
            (&[1.0, 2.0], &[1.0, 2.0], 0.0),
            (&[1.0, 2.0], &[2.0, 3.0], 1.0),
            // 0.1 twice, but for rounding.
            (&[0.1, 0.2], &[0.2, 0.3], 0.1),
        ] {
            let paired = Paired::new(("a", &runs(a)), ("b", &runs(b)), Direction::Lower).unwrap();
            assert!((paired.mean - mean).abs() < 1e-12);
            assert_eq!((paired.interval(), paired.scatter), (None, None));
        }
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let new = |a: &BySeed, b: &BySeed| Paired::new(("left", a), ("right", b), Direction::Lower);
        let text = new(&BySeed::from([(0, 1.0)]), &BySeed::from([(7, 1.0)]))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("left has the seeds [0], right has [7]"),
            "{text}"
        );
        let diverged = BySeed::from([(7, f64::NAN)]);
        let text = new(&BySeed::from([(7, 1.0)]), &diverged)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("right, seed 7: the value is NaN"),
            "{text}"
        );
    }
}
