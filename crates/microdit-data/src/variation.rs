//! What is drawn of a sample anew in every pass over the data.

use crate::sample::Sample;
use microdit::rng::{Purpose, Stream};

/// What training varies of a sample from pass to pass; evaluation varies nothing.
///
/// Draws depend on the seed, the pass over the data and the place of the sample in its list of shards alone: neither on the batch
/// size, nor on threads, ranks or interruptions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variation {
    /// How often each of the captions that [`Members`](crate::Members) names is taken, compared with the others; the first that a sample
    /// has if empty. Of a sample without some of them, the others share its draws.
    pub captions: Vec<f64>,
}

impl Variation {
    /// Varies the sample at `place` of shard `shard` for pass number `epoch`.
    pub(crate) fn apply(
        &self,
        sample: &mut Sample,
        seed: u64,
        epoch: u64,
        [shard, place]: [u64; 2],
    ) {
        // A shard has fewer than 2^32 samples.
        let mut random = Stream::new(seed, Purpose::Variation, epoch, (shard << 32) | place);
        let caption = f64::from(random.uniform(1)[0]);
        sample.keep(self.caption(sample, caption));
    }

    /// The number of the caption at `point` in `[0, 1)` of the weights of those there.
    fn caption(&self, sample: &Sample, point: f64) -> usize {
        let weight = |(named, _): (usize, &str)| self.captions.get(named).copied().unwrap_or(0.0);
        let total: f64 = sample.captions().map(weight).sum();
        let mut below = 0.0;
        let chosen = sample.captions().map(weight).position(|weight| {
            below += weight;
            point * total < below
        });
        chosen.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Caption, Image};

    /// A sample with those of three captions.
    fn sample(named: &[usize]) -> Sample {
        let mut sample = Sample::new("key", &named[0].to_string(), Image::Encoded(Vec::new()));
        sample.named = named[0];
        let other = |&named: &usize| Caption {
            named,
            text: named.to_string(),
            states: None,
        };
        sample.others = named[1..].iter().map(other).collect();
        sample
    }

    /// Which caption each of many samples bears in a pass.
    fn drawn(variation: &Variation, named: &[usize], seed: u64, epoch: u64) -> Vec<usize> {
        let draw = |place| {
            let mut sample = sample(named);
            variation.apply(&mut sample, seed, epoch, [3, place]);
            assert!(sample.others.is_empty());
            assert_eq!(sample.caption, sample.named.to_string());
            sample.named
        };
        (0..20_000).map(draw).collect()
    }

    #[test]
    fn captions_are_drawn_as_often_as_their_weights_say() {
        let variation = Variation {
            captions: vec![5.0, 3.0, 2.0],
        };
        for (named, shares) in [
            (&[0, 1, 2][..], [0.5, 0.3, 0.2]),
            (&[0, 2], [5.0 / 7.0, 0.0, 2.0 / 7.0]),
            (&[1, 2], [0.0, 0.6, 0.4]),
            (&[2], [0.0, 0.0, 1.0]),
        ] {
            let drawn = drawn(&variation, named, 7, 0);
            for (which, share) in shares.into_iter().enumerate() {
                let count = drawn.iter().filter(|&&named| named == which).count() as f64;
                let (count, all) = (count / drawn.len() as f64, drawn.len() as f64);
                // Four standard errors.
                let room = 4.0 * (share * (1.0 - share) / all).sqrt();
                assert!(
                    (count - share).abs() <= room,
                    "{named:?} {which}: {count} of {share}"
                );
            }
        }
    }

    #[test]
    fn draws_depend_on_seed_pass_and_place() {
        let variation = Variation {
            captions: vec![1.0, 1.0],
        };
        let draw = |seed, epoch| drawn(&variation, &[0, 1], seed, epoch);
        assert_eq!(draw(7, 0), draw(7, 0));
        for other in [draw(8, 0), draw(7, 1)] {
            let same = other
                .iter()
                .zip(draw(7, 0))
                .filter(|(a, b)| *a == b)
                .count();
            // Independent ones agree in half: five standard deviations of the 20,000.
            assert!((9_646..=10_354).contains(&same), "{same}");
        }
    }

    #[test]
    fn without_weights_the_first_caption_stays() {
        for named in [&[0, 1][..], &[1, 2], &[2]] {
            assert!(
                drawn(&Variation::default(), named, 7, 0)
                    .iter()
                    .all(|&drawn| drawn == named[0])
            );
        }
    }
}
