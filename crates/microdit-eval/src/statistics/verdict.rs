//! What a comparison says, in one line.

use super::{Direction, Labelled, Paired, SIGNIFICANCE, StatisticsError, holm, rounded};
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
    /// The p-value corrected for all comparisons of the same table ([`holm()`]); one seed has none.
    pub corrected_p: Option<f64>,
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
///     "deferred 75 % beats naive 75 % by 4.1 ± 0.2 at equal FLOPs, 3 seeds"
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
        .filter_map(|paired| Some(paired.spread.as_ref()?.p))
        .collect();
    let mut corrected = holm(&p).into_iter();
    let compared = pairs.iter().zip(paired).map(|(&((a, _), (b, _)), paired)| {
        let corrected_p = paired.spread.as_ref().and_then(|_| corrected.next());
        let verdict = match corrected_p {
            None => Verdict::OneSeed,
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
            verdict,
        }
    });
    Ok(compared.collect())
}

impl fmt::Display for Comparison {
    /// The difference with half the width of its 95 % interval.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            a, b, at, paired, ..
        } = self;
        let seeds = paired.seeds.len();
        let Some(spread) = &paired.spread else {
            let (difference, _) = rounded(paired.mean.abs(), 0.0);
            let (better, worse) = if paired.mean < 0.0 { (b, a) } else { (a, b) };
            return write!(
                f,
                "{better} against {worse}: {difference} better at {at}; one seed: no interval"
            );
        };
        let (difference, half) = rounded(paired.mean.abs(), spread.half_width);
        match self.verdict {
            Verdict::First => write!(
                f,
                "{a} beats {b} by {difference} ± {half} at {at}, {seeds} seeds"
            ),
            Verdict::Second => write!(
                f,
                "{b} beats {a} by {difference} ± {half} at {at}, {seeds} seeds"
            ),
            Verdict::NotDistinguishable | Verdict::OneSeed => {
                let (_, smallest) = rounded(0.0, spread.smallest_detectable);
                write!(
                    f,
                    "{a} and {b} differ by {difference} ± {half} at {at}, {seeds} seeds: not distinguishable (smallest detectable difference {smallest})"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::BySeed;

    fn runs(values: &[f64]) -> BySeed {
        (0..).zip(values.iter().copied()).collect()
    }

    #[test]
    fn every_verdict_reads_as_a_sentence() {
        let (low, high) = (runs(&[20.1, 19.9, 20.6]), runs(&[24.2, 24.1, 24.6]));
        let (noisy, one) = (runs(&[19.0, 27.0, 24.0]), runs(&[21.5]));
        let pairs = [
            (("low", &low), ("high", &high)),
            (("high", &high), ("low", &low)),
            (("low", &low), ("noisy", &noisy)),
            (("low", &low), ("one", &one)),
        ];
        let found = verdicts(&pairs, Direction::Lower, "equal steps").unwrap();
        let sentences: Vec<String> = found.iter().map(Comparison::to_string).collect();
        assert_eq!(
            sentences,
            [
                "low beats high by 4.1 ± 0.2 at equal steps, 3 seeds",
                "low beats high by 4.1 ± 0.2 at equal steps, 3 seeds",
                "low and noisy differ by 3 ± 10 at equal steps, 3 seeds: not distinguishable (smallest detectable difference 13)",
                "low against one: 1.400 better at equal steps; one seed: no interval",
            ]
        );
        // The same numbers, read the other way.
        let found = verdicts(&pairs[..1], Direction::Higher, "equal steps").unwrap();
        assert_eq!(
            found[0].to_string(),
            "high beats low by 4.1 ± 0.2 at equal steps, 3 seeds"
        );
    }

    #[test]
    fn a_difference_found_alone_can_be_lost_among_many() {
        let (a, b) = (runs(&[1.0, 2.0, 3.0]), runs(&[2.0, 3.3, 3.9]));
        let pair = (("a", &a), ("b", &b));
        let alone = verdicts(&[pair], Direction::Lower, "equal steps").unwrap();
        assert_eq!(alone[0].verdict, Verdict::First);
        assert_eq!(
            alone[0].corrected_p,
            alone[0].paired.spread.as_ref().map(|spread| spread.p)
        );
        let many = verdicts(&[pair; 12], Direction::Lower, "equal steps").unwrap();
        assert!(
            many.iter()
                .all(|found| found.verdict == Verdict::NotDistinguishable)
        );
    }

    #[test]
    fn single_seeds_take_no_part_in_the_correction() {
        let (a, b, one) = (runs(&[1.0, 2.0, 3.0]), runs(&[2.0, 3.3, 3.9]), runs(&[9.0]));
        let pairs = [(("a", &a), ("one", &one)), (("a", &a), ("b", &b))];
        let found = verdicts(&pairs, Direction::Lower, "equal steps").unwrap();
        assert_eq!(found[0].corrected_p, None);
        assert_eq!(
            found[1].corrected_p,
            found[1].paired.spread.as_ref().map(|spread| spread.p)
        );
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
