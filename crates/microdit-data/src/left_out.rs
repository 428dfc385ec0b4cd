//! Samples that were left out: how many, why, and which came first.

use crate::error::DataError;
use std::collections::BTreeMap;

/// Samples named per reason.
const NAMED: usize = 3;

/// Distinct reasons that are counted.
const REASONS: usize = 100;

/// Samples needed before a share of them means anything.
const ENOUGH: u64 = 1000;

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many, by reason.
    pub counts: BTreeMap<String, u64>,
    /// The first for each reason, by shard and key, with the details of each.
    pub named: BTreeMap<String, Vec<String>>,
}

impl LeftOut {
    /// Counts the sample `key` of `origin`. The part of the reason after a colon is specific to this sample.
    pub fn note(&mut self, origin: &str, key: &str, reason: &str) {
        let kind = reason.split(": ").next().unwrap_or(reason);
        let kind = match self.counts.len() < REASONS || self.counts.contains_key(kind) {
            true => kind,
            false => "another reason",
        };
        *self.counts.entry(kind.to_owned()).or_default() += 1;
        let named = self.named.entry(kind.to_owned()).or_default();
        if named.len() < NAMED {
            named.push(format!("{origin}: {key}: {reason}"));
        }
    }

    /// The counts of an earlier call.
    pub fn of(counts: BTreeMap<String, u64>) -> Self {
        Self {
            counts,
            named: BTreeMap::new(),
        }
    }

    /// Samples in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (reason, count) in &other.counts {
            *self.counts.entry(reason.clone()).or_default() += count;
        }
        for (reason, more) in &other.named {
            let named = self.named.entry(reason.clone()).or_default();
            let free = NAMED.saturating_sub(named.len());
            named.extend(more.iter().take(free).cloned());
        }
    }

    /// Checks that at most that share of `seen` samples was left out; with `so_far`, more samples follow and the share may still fall.
    ///
    /// # Errors
    /// If it is more, with the reasons.
    pub fn within(&self, share: f64, seen: u64, so_far: bool) -> Result<(), DataError> {
        let damaged = self.total();
        if (so_far && seen < ENOUGH) || damaged as f64 <= share * seen as f64 {
            return Ok(());
        }
        Err(DataError::TooMuchDamage {
            damaged,
            seen,
            share,
            reasons: reasons(&self.counts),
        })
    }
}

/// The five most frequent reasons with their counts.
pub fn reasons<N: Copy + Ord + std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = counts.iter().take(5);
    let shown: Vec<String> = shown
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    shown.join(", ") + if counts.len() > 5 { ", ..." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_reason_and_the_first_are_named() {
        let mut left_out = LeftOut::default();
        for key in 0..5 {
            left_out.note(
                "0.tar",
                &key.to_string(),
                &format!("a bad image: byte {key}"),
            );
        }
        left_out.note("1.tar", "x", "no caption");
        assert_eq!(left_out.total(), 6);
        assert_eq!(reasons(&left_out.counts), "5 a bad image, 1 no caption");
        let named = &left_out.named["a bad image"];
        assert_eq!(named.len(), 3);
        assert_eq!(named[1], "0.tar: 1: a bad image: byte 1");
        let mut all = left_out.clone();
        all.add(&left_out);
        assert_eq!((all.total(), all.named["a bad image"].len()), (12, 3));
        assert_eq!(all.named["no caption"].len(), 2);
        assert!(left_out.within(0.5, 12, false).is_ok());
        assert!(left_out.within(0.5, 11, true).is_ok());
        let error = left_out.within(0.5, 11, false).unwrap_err().to_string();
        assert!(
            error.contains("6 of 11") && error.contains("5 a bad image"),
            "{error}"
        );
        for i in 0..2 * REASONS {
            left_out.note("2.tar", "y", &i.to_string());
        }
        assert_eq!(left_out.counts.len(), REASONS + 1);
    }
}
