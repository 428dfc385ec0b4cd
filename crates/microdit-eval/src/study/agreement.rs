//! How far people agree.

use std::{collections::BTreeMap, hash::Hash};

/// Krippendorff's alpha for nominal values: 1 where all agree, 0 where they agree as often as by chance, below where less often.
/// Each unit has the values that different people gave it; those with fewer than two say nothing. None if there are no others, or
/// all values are the same, so that there is nothing to agree on.
///
/// Alpha rather than Fleiss' kappa, since not everybody votes on every pair: kappa asks for equally many votes on each.
/// (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", University of Pennsylvania.)
///
/// ```
/// use microdit_eval::study::krippendorff;
/// assert_eq!(krippendorff(&[vec!["a", "a"], vec!["b", "b", "b"], vec!["a"]]), Some(1.0));
/// assert_eq!(krippendorff(&[vec!["a", "a"]]), None);
/// ```
pub fn krippendorff<T: Copy + Ord + Hash>(units: &[Vec<T>]) -> Option<f64> {
    let mut counts = BTreeMap::<T, f64>::new();
    let (mut all, mut disagreement) = (0.0, 0.0);
    for unit in units.iter().filter(|unit| unit.len() > 1) {
        let mut here = BTreeMap::<T, f64>::new();
        for &value in unit {
            *here.entry(value).or_default() += 1.0;
        }
        let size = unit.len() as f64;
        // Ordered pairs of values in the unit that differ.
        let same: f64 = here.values().map(|count| count * count).sum();
        disagreement += (size * size - same) / (size - 1.0);
        all += size;
        for (value, count) in here {
            *counts.entry(value).or_default() += count;
        }
    }
    let same: f64 = counts.values().map(|count| count * count).sum();
    let expected = (all * all - same) / (all - 1.0);
    (expected > 0.0).then(|| 1.0 - disagreement / expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units of a table with a row for each observer, digits as values and dots where there is none.
    fn units(rows: &[&str]) -> Vec<Vec<char>> {
        let columns = rows[0].chars().count();
        let column = |i: usize| {
            let values = rows.iter().filter_map(move |row| row.chars().nth(i));
            values.filter(|value| *value != '.').collect()
        };
        (0..columns).map(column).collect()
    }

    /// Krippendorff 2011, sections A (two observers, two values), B (two observers, five values) and C (four observers, values
    /// missing).
    #[test]
    fn the_published_examples() {
        for (rows, expected) in [
            (&["0100000010", "1110010000"][..], 0.095),
            (&["aabbdcccedda", "babbbccceddd"], 0.692),
            (
                &[
                    "123321412...",
                    "1233224125.3",
                    ".3332342251.",
                    "12332441251.",
                ],
                0.743,
            ),
        ] {
            let found = krippendorff(&units(rows)).unwrap();
            assert!((found - expected).abs() < 5e-4, "{rows:?}: {found}");
        }
    }

    #[test]
    fn chance_is_zero_and_contradiction_less() {
        let units: Vec<Vec<u8>> = (0..100).map(|_| vec![0, 1]).collect();
        assert!(krippendorff(&units).unwrap() < -0.9);
        let independent: Vec<Vec<u32>> = (0..4000).map(|i| vec![i % 2, i / 2 % 2]).collect();
        assert!(krippendorff(&independent).unwrap().abs() < 1e-3);
        assert_eq!(krippendorff::<u8>(&[]), None);
        assert_eq!(krippendorff(&[vec![1], vec![2]]), None);
    }
}
