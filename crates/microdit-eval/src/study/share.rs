//! Shares of votes, with intervals that know that votes on one pair are not independent.

use crate::statistics::wilson_of;
use std::{collections::BTreeMap, fmt};

/// Some of all votes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub all: u64,
    /// How many independent votes say as much: at most `all`, and fewer where votes on the same pair agree more than those on
    /// different ones.
    pub effective: f64,
    /// Degrees of freedom of the scatter between pairs that `effective` was estimated from; none where it was not.
    pub freedom: Option<u64>,
}

impl Share {
    /// Counts votes, each with the pair it is on and whether it is a hit.
    pub fn of(votes: impl IntoIterator<Item = (usize, bool)>) -> Self {
        let mut pairs = BTreeMap::<usize, [u64; 2]>::new();
        for (pair, hit) in votes {
            let [hits, all] = pairs.entry(pair).or_default();
            *hits += u64::from(hit);
            *all += 1;
        }
        let count = pairs.values().map(|[hits, _]| hits).sum();
        let all = pairs.values().map(|[_, all]| all).sum();
        let (effective, freedom) = effective(count, all, &pairs);
        Self {
            count,
            all,
            effective,
            freedom,
        }
    }

    /// Its 95 % interval: Wilson's, of as many votes as are independent, and by Student's t where that was estimated from pairs.
    pub fn interval(&self) -> [f64; 2] {
        match self.all {
            0 => [0.0, 1.0],
            all => wilson_of(self.count as f64 / all as f64, self.effective, self.freedom),
        }
    }
}

/// Votes over the design effect (Kish): what the variance of the share is by sums over pairs, over what it would be for independent
/// votes. Where all votes are the same, every pair is one vote. With the degrees of freedom of an estimate.
fn effective(count: u64, all: u64, pairs: &BTreeMap<usize, [u64; 2]>) -> (f64, Option<u64>) {
    let (votes, units) = (all as f64, pairs.len() as f64);
    if all == 0 || all == pairs.len() as u64 {
        return (votes, None);
    }
    if count == 0 || count == all || pairs.len() < 2 {
        return (units, None);
    }
    let share = count as f64 / votes;
    let squares = pairs.values().map(|&[hits, own]| {
        let off = hits as f64 - share * own as f64;
        off * off
    });
    let by_pair = squares.sum::<f64>() * units / (units - 1.0);
    let independent = votes * share * (1.0 - share) * votes / (votes - 1.0);
    let effective = (votes * independent / by_pair).clamp(1.0, votes);
    (effective, Some(pairs.len() as u64 - 1))
}

impl fmt::Display for Share {
    /// The share with its 95 % interval, in percent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all == 0 {
            return f.pad("-");
        }
        let [low, high] = self.interval().map(|end| 100.0 * end);
        let share = 100.0 * self.count as f64 / self.all as f64;
        f.pad(&format!("{share:.1} % [{low:.1}, {high:.1}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::wilson;
    use microdit::rng::{Purpose, Stream};

    #[test]
    fn votes_on_pairs_of_their_own_are_wilsons() {
        let share = Share::of((0..10).map(|pair| (pair, pair < 8)));
        assert_eq!((share.count, share.all, share.effective), (8, 10, 10.0));
        assert_eq!(share.interval(), wilson(8, 10));
        assert_eq!(Share::of([]).interval(), [0.0, 1.0]);
        assert_eq!(Share::of([]), Share::default());
    }

    #[test]
    fn voters_who_all_agree_are_nearly_one() {
        let votes = (0..40usize).flat_map(|pair| [(pair, pair % 4 > 0); 5]);
        let share = Share::of(votes);
        assert_eq!((share.count, share.all), (150, 200));
        assert!((share.effective - 40.0).abs() < 1.5, "{}", share.effective);
        // They all say the same of every pair.
        let share = Share::of((0..4).flat_map(|pair| [(pair, true); 5]));
        assert_eq!((share.effective, share.interval()), (4.0, wilson(4, 4)));
    }

    #[test]
    fn intervals_hold_the_share_as_often_as_they_say() {
        // Each pair is liked by nine voters in ten or by one in ten, as often; five vote on each.
        let trials = 2000;
        for pairs in [5, 40] {
            let mut held = [0; 2];
            for trial in 0..trials {
                let mut stream = Stream::new(0, Purpose::Noise, 7, trial);
                let mut votes = Vec::new();
                for pair in 0..pairs {
                    let likes = if stream.below(2) == 0 { 9 } else { 1 };
                    votes.extend((0..5).map(|_| (pair, stream.below(10) < likes)));
                }
                let share = Share::of(votes);
                for (held, [low, high]) in held
                    .iter_mut()
                    .zip([share.interval(), wilson(share.count, share.all)])
                {
                    *held += u32::from((low..=high).contains(&0.5));
                }
            }
            let [own, independent] = held.map(|held| f64::from(held) / trials as f64);
            assert!((own - 0.95).abs() < 0.03, "{pairs} pairs: {own}");
            assert!(independent < 0.8, "{pairs} pairs: {independent}");
        }
    }

    #[test]
    fn few_pairs_say_little_of_their_own_scatter() {
        let share = Share::of((0..5).flat_map(|pair| (0..4).map(move |vote| (pair, vote < pair))));
        assert_eq!(share.freedom, Some(4));
        let width = |[low, high]: [f64; 2]| high - low;
        let normal = wilson_of(0.5, share.effective, None);
        assert!(width(share.interval()) > width(normal));
        // Pairs of one vote are counted, not estimated.
        assert_eq!(Share::of((0..5).map(|pair| (pair, pair < 2))).freedom, None);
    }
}
