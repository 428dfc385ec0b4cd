//! What a comparison says, in one line.

use super::{
    Direction, Labelled, Paired, SIGNIFICANCE, StatisticsError, holm, rounded, smallest_detectable,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Two ways of training, compared over the seeds they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The first.
    pub a: String,
    /// The second.
    pub b: String,
    /// What was equal for both: "equal steps", "equal FLOPs", "equal hours".
    pub at: String,
    /// By how much the first is better.
    pub paired: Paired,
    /// The p-value corrected for all comparisons of the same table ([`holm()`]); none without scatter.
    pub corrected_p: Option<f64>,
    /// The difference, in the unit of the values, that as many seeds with such a scatter would find with 80 % power whatever the
    /// other comparisons of the table find: at 5 % over their number, the strictest level that Holm's correction asks of any.
    /// None without scatter.
    pub smallest_detectable: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first is better.
    First,
    /// The second is better.
    Second,
    /// The seeds do not tell them apart, which does not say that they are equal.
    NotDistinguishable,
    /// One seed has no scatter to compare a difference with.
    OneSeed,
    /// The difference is the same for every seed: nothing says how it would scatter.
    NoScatter,
}

/// Compares pairs of ways of training, all of one table: their p-values are corrected for their number.
///
/// Each pair is `(a, b)` with its label and its values by seed; `at` says what was equal for both.
///
/// # Errors
/// A pair without a common seed, or with a value that is NaN or infinite.
///
/// ```
/// use microdit_eval::statistics::{BySeed, Direction, verdicts};
///
/// let deferred = BySeed::from([(0, 20.1), (1, 19.9), (2, 20.6)]);
/// let naive = BySeed::from([(0, 24.2), (1, 24.1), (2, 24.6)]);
/// let pairs = [(("deferred 75 %", &deferred), ("naive 75 %", &naive))];
/// let found = verdicts(&pairs, Direction::Lower, "equal FLOPs")?;
/// assert_eq!(
///     found[0].to_string(),
///     "deferred 75 % beats naive 75 % by 4.1 ± 0.2 at equal FLOPs, 3 seeds (smallest detectable difference 0.3)"
/// );
/// # Ok::<(), microdit_eval::statistics::StatisticsError>(())
/// ```
pub fn verdicts(
    pairs: &[(Labelled<'_>, Labelled<'_>)],
    direction: Direction,
    at: &str,
) -> Result<Vec<Comparison>, StatisticsError> {
    let paired = pairs.iter().map(|&(a, b)| Paired::new(a, b, direction));
    let paired = paired.collect::<Result<Vec<_>, _>>()?;
    let p: Vec<f64> = paired
        .iter()
        .filter_map(|paired| Some(paired.scatter.as_ref()?.p(paired.mean)))
        .collect();
    let level = SIGNIFICANCE / p.len().max(1) as f64;
    let mut corrected = holm(&p).into_iter();
    let compared = pairs.iter().zip(paired).map(|(&((a, _), (b, _)), paired)| {
        let scatter = paired.scatter.as_ref();
        let corrected_p = scatter.and_then(|_| corrected.next());
        let smallest_detectable = scatter
            .map(|scatter| smallest_detectable(scatter.standard_error, scatter.freedom, level));
        let verdict = match corrected_p {
            None if paired.seeds.len() == 1 => Verdict::OneSeed,
            None => Verdict::NoScatter,
            Some(p) if p >= SIGNIFICANCE => Verdict::NotDistinguishable,
            Some(_) if paired.mean > 0.0 => Verdict::First,
            Some(_) => Verdict::Second,
        };
        Comparison {
            a: a.to_owned(),
            b: b.to_owned(),
            at: at.to_owned(),
            paired,
            corrected_p,
            smallest_detectable,
            verdict,
        }
    });
    Ok(compared.collect())
}

impl fmt::Display for Comparison {
    /// The difference with half the width of the 95 % interval of this pair alone, and the smallest detectable one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            a, b, at, paired, ..
        } = self;
        let seeds = paired.seeds.len();
        let (better, worse) = if paired.mean < 0.0 { (b, a) } else { (a, b) };
        let (Some(scatter), Some(smallest)) = (&paired.scatter, self.smallest_detectable) else {
            let (difference, _) = rounded(paired.mean.abs(), 0.0);
            write!(f, "{better} against {worse}: {difference} better at {at}; ")?;
            return match seeds {
                1 => f.write_str("one seed: no interval"),
                _ => write!(
                    f,
                    "the same difference for each of {seeds} seeds: no scatter, no verdict"
                ),
            };
        };
        let (difference, half) = rounded(paired.mean.abs(), scatter.half_width);
        let (_, smallest) = rounded(0.0, smallest);
        match self.verdict {
            Verdict::First | Verdict::Second => write!(
                f,
                "{better} beats {worse} by {difference} ± {half} at {at}, {seeds} seeds (smallest detectable difference {smallest})"
            ),
            Verdict::NotDistinguishable | Verdict::OneSeed | Verdict::NoScatter => write!(
                f,
                "{a} and {b} differ by {difference} ± {half} at {at}, {seeds} seeds: not distinguishable (smallest detectable difference {smallest})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::BySeed;
    use microdit::rng::{Purpose, Stream};

    fn runs(values: &[f64]) -> BySeed {
        (0..).zip(values.iter().copied()).collect()
    }

    /// The p-value of a pair by itself.
    fn p(found: &Comparison) -> Option<f64> {
        let scatter = found.paired.scatter.as_ref()?;
        Some(scatter.p(found.paired.mean))
    }

    #[test]
    fn every_verdict_reads_as_a_sentence() {
        let (low, high) = (runs(&[20.1, 19.9, 20.6]), runs(&[24.2, 24.1, 24.6]));
        let (noisy, one) = (runs(&[19.0, 27.0, 24.0]), runs(&[21.5]));
        let shifted = runs(&[20.35, 20.15, 20.85]);
        let pairs = [
            (("low", &low), ("high", &high)),
            (("high", &high), ("low", &low)),
            (("low", &low), ("noisy", &noisy)),
            (("low", &low), ("one", &one)),
            (("shifted", &shifted), ("low", &low)),
        ];
        let found = verdicts(&pairs, Direction::Lower, "equal steps").unwrap();
        let sentences: Vec<String> = found.iter().map(Comparison::to_string).collect();
        assert_eq!(
            sentences,
            [
                "low beats high by 4.1 ± 0.2 at equal steps, 3 seeds (smallest detectable difference 0.6)",
                "low beats high by 4.1 ± 0.2 at equal steps, 3 seeds (smallest detectable difference 0.6)",
                "low and noisy differ by 3 ± 10 at equal steps, 3 seeds: not distinguishable (smallest detectable difference 20)",
                "low against one: 1.400 better at equal steps; one seed: no interval",
                "low against shifted: 0.2500 better at equal steps; the same difference for each of 3 seeds: no scatter, no verdict",
            ]
        );
        // The same numbers, read the other way.
        let found = verdicts(&pairs[..1], Direction::Higher, "equal steps").unwrap();
        assert_eq!(
            found[0].to_string(),
            "high beats low by 4.1 ± 0.2 at equal steps, 3 seeds (smallest detectable difference 0.3)"
        );
    }

    #[test]
    fn a_difference_found_alone_can_be_lost_among_many() {
        let (a, b) = (runs(&[1.0, 2.0, 3.0]), runs(&[2.0, 3.3, 3.9]));
        let pair = (("a", &a), ("b", &b));
        let alone = verdicts(&[pair], Direction::Lower, "equal steps").unwrap();
        assert_eq!(alone[0].verdict, Verdict::First);
        assert_eq!(alone[0].corrected_p, p(&alone[0]));
        let many = verdicts(&[pair; 12], Direction::Lower, "equal steps").unwrap();
        assert!(
            many.iter()
                .all(|found| found.verdict == Verdict::NotDistinguishable)
        );
    }

    #[test]
    fn what_is_not_distinguishable_is_smaller_than_what_could_be_detected() {
        // Tables of 21 pairs over 7 settings of 3 seeds that differ by anything from nothing to much.
        let mut counts = [0; 2];
        for table in 0..40 {
            let settings: Vec<BySeed> = (0..7)
                .map(|setting| {
                    let noise = Stream::new(0, Purpose::Noise, table, setting).normal(4);
                    let mean = 30.0 * f64::from(noise[3]);
                    let values: Vec<f64> =
                        noise[..3].iter().map(|z| mean + f64::from(*z)).collect();
                    runs(&values)
                })
                .collect();
            let pairs: Vec<_> = (0..7)
                .flat_map(|b| (0..b).map(move |a| (a, b)))
                .map(|(a, b)| (("a", &settings[a]), ("b", &settings[b])))
                .collect();
            let found = verdicts(&pairs, Direction::Lower, "equal steps").unwrap();
            for found in found {
                let smallest = found.smallest_detectable.unwrap();
                let is_lost = found.verdict == Verdict::NotDistinguishable;
                counts[usize::from(is_lost)] += 1;
                assert!(!is_lost || found.paired.mean.abs() < smallest, "{found}");
                // 26 standard errors: the level is that of one pair in 21.
                let ratio = smallest / found.paired.scatter.unwrap().standard_error;
                assert!((ratio - 25.9955).abs() < 1e-3, "{ratio}");
            }
        }
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    }

    #[test]
    fn single_seeds_take_no_part_in_the_correction() {
        let (a, b, one) = (runs(&[1.0, 2.0, 3.0]), runs(&[2.0, 3.3, 3.9]), runs(&[9.0]));
        let pairs = [(("a", &a), ("one", &one)), (("a", &a), ("b", &b))];
        let found = verdicts(&pairs, Direction::Lower, "equal steps").unwrap();
        assert_eq!(found[0].corrected_p, None);
        assert_eq!(found[1].corrected_p, p(&found[1]));
    }

    #[test]
    fn a_table_is_written_and_read_back() {
        let (a, b) = (runs(&[1.0, 2.0, 3.0]), runs(&[2.0, 3.3, 3.9]));
        let found = verdicts(&[(("a", &a), ("b", &b))], Direction::Lower, "equal hours").unwrap();
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<Comparison>>(&json).unwrap(),
            found
        );
    }
}
