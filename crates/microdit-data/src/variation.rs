//! What is drawn of a sample anew in every pass over the data.

use crate::{
    image::View,
    sample::{Image, Sample},
};
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
    /// Whether any part of a picture may be taken, not only the middle; precomputed latents stay what they are.
    pub random_crop: bool,
    /// Whether left and right are swapped in half of the passes; of precomputed latents both are read.
    pub flip: bool,
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
        let points = random.uniform(4);
        sample.keep(self.caption(sample, f64::from(points[0])));
        let flip = self.flip && points[1] < 0.5;
        let flipped = sample.flipped.take();
        if let (Image::Precomputed { latent, .. }, Some(flipped), true) =
            (&mut sample.image, flipped, flip)
        {
            *latent = flipped;
        }
        sample.view = View {
            crop: self.random_crop.then(|| [points[2], points[3]]),
            flip,
        };
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
    use crate::sample::{Caption, Stored};

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
            ..Variation::default()
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
            ..Variation::default()
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

    #[test]
    fn crops_and_flips_are_uniform_independent_and_off_by_default() {
        let draw = |variation: &Variation, place| {
            let mut sample = sample(&[0, 1]);
            variation.apply(&mut sample, 7, 2, [0, place]);
            (sample.view, sample.named)
        };
        assert_eq!(draw(&Variation::default(), 5).0, View::default());
        let all = Variation {
            captions: vec![1.0, 1.0],
            random_crop: true,
            flip: true,
        };
        let count = 20_000;
        let drawn: Vec<_> = (0..count).map(|place| draw(&all, place)).collect();
        // One option does not change what another draws.
        let flip = Variation {
            flip: true,
            ..Variation::default()
        };
        for (place, (view, _)) in (0..100).zip(&drawn) {
            assert_eq!(draw(&flip, place).0.flip, view.flip);
        }
        let share = |holds: &dyn Fn(&(View, usize)) -> bool| {
            drawn.iter().filter(|draw| holds(draw)).count() as f64 / count as f64
        };
        let at = |view: &View, axis: usize| view.crop.unwrap()[axis];
        // Five standard errors of a quarter of the draws.
        let near = |found: f64, expected: f64| (found - expected).abs() < 0.016;
        for (holds, expected) in [
            (
                &(|(view, _): &(View, usize)| view.flip) as &dyn Fn(&(View, usize)) -> bool,
                0.5,
            ),
            (&|(view, _)| at(view, 0) < 0.25, 0.25),
            (&|(view, _)| at(view, 1) < 0.25, 0.25),
            (&|(view, _)| at(view, 0) < 0.5 && at(view, 1) < 0.5, 0.25),
            (&|(view, _)| view.flip && at(view, 0) < 0.5, 0.25),
            (&|(view, named)| view.flip && *named == 0, 0.25),
        ] {
            let found = share(holds);
            assert!(near(found, expected), "{found}, expected {expected}");
        }
        assert!(
            drawn
                .iter()
                .all(|(view, _)| (0..2).all(|axis| (0.0..1.0).contains(&at(view, axis))))
        );
    }

    #[test]
    fn the_other_orientation_of_a_latent_takes_its_place() {
        let variation = Variation {
            flip: true,
            ..Variation::default()
        };
        let mut flipped = 0;
        for place in 0..1000 {
            let mut sample = sample(&[0]);
            let halves = |byte| Stored::Halves(vec![byte]);
            let (latent, caption) = (halves(1), halves(3));
            sample.image = Image::Precomputed { latent, caption };
            sample.flipped = Some(halves(2));
            variation.apply(&mut sample, 1, 0, [0, place]);
            let Image::Precomputed {
                latent: Stored::Halves(latent),
                ..
            } = &sample.image
            else {
                panic!("a latent")
            };
            assert_eq!(latent[0] == 2, sample.view.flip);
            assert!(sample.flipped.is_none());
            flipped += u32::from(sample.view.flip);
        }
        assert!((420..=580).contains(&flipped), "{flipped}");
    }
}
