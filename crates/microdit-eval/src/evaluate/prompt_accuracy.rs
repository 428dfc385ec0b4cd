//! How much of what a prompt of the generated dataset asks for is in its picture: exact, since the generator knows.

use super::share::{interval_of_share, of_scatter};
use crate::{
    measured::Measured,
    statistics::{SIGNIFICANCE, quantile},
};
use image::RgbImage;
use microdit_data::shapes::{Accuracy, Scene, detect};
use std::collections::BTreeMap;

/// The aspects of a prompt, by the names of their metrics.
pub(crate) const ASPECTS: [&str; 7] = [
    "prompt-accuracy",
    "prompt-accuracy-count",
    "prompt-accuracy-shape",
    "prompt-accuracy-color",
    "prompt-accuracy-size",
    "prompt-accuracy-background",
    "prompt-accuracy-relation",
];

/// Collects judgements of pictures.
#[derive(Clone, Debug, Default)]
pub struct PromptAccuracy {
    /// Shares that are right, for each aspect.
    shares: [Vec<f64>; ASPECTS.len()],
}

impl PromptAccuracy {
    /// Whether a prompt is one of the generated dataset's.
    pub fn reads(prompt: &str) -> bool {
        Scene::read(prompt).is_some()
    }

    /// Judges a picture by its prompt, unless that is none of the generated dataset's.
    pub fn judge(&mut self, prompt: &str, picture: &RgbImage) {
        let Some(asked) = Scene::read(prompt) else {
            return;
        };
        let Accuracy {
            all,
            count,
            kind,
            color,
            size,
            background,
            relation,
        } = Accuracy::of(&detect(picture), &asked);
        let share = |right: bool| Some(f64::from(u8::from(right)));
        let found = [
            share(all),
            share(count),
            Some(kind),
            Some(color),
            Some(size),
            share(background),
            relation.and_then(share),
        ];
        for (shares, found) in self.shares.iter_mut().zip(found) {
            shares.extend(found);
        }
    }

    /// The mean of each aspect over the pictures that have it, with its standard error and interval; the first is the share of
    /// pictures in which everything is right.
    pub fn measured(&self) -> Vec<Measured> {
        let aspects = ASPECTS.iter().zip(&self.shares);
        let judged = aspects.filter(|(_, shares)| !shares.is_empty());
        judged.map(|(name, shares)| mean(name, shares)).collect()
    }
}

/// The mean of the shares in `values`, one for each picture; with Wilson's interval where each is 0 or 1, or all are equal.
pub(super) fn mean(metric: &str, values: &[f64]) -> Measured {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let freedom = count - 1.0;
    let error = (values.len() > 1).then(|| (square / freedom / count).sqrt());
    let right = values.iter().filter(|&&value| value == 1.0).count() as u64;
    let wrong = values.iter().filter(|&&value| value == 0.0).count() as u64;
    let interval = match of_scatter(mean, error) {
        Some(error) if right + wrong < values.len() as u64 => {
            let half = quantile(1.0 - SIGNIFICANCE / 2.0, freedom) * error;
            [(mean - half).max(0.0), (mean + half).min(1.0)]
        }
        _ => interval_of_share(mean, values.len() as u64),
    };
    Measured {
        metric: metric.to_owned(),
        value: mean,
        standard_error: error,
        interval: Some(interval),
        samples: values.len() as u64,
        reference: None,
        network: None,
        constants: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit_data::{Image, Shapes};

    #[test]
    fn what_the_generator_painted_is_all_right_and_another_prompt_is_not() {
        let samples: Vec<_> = (0..100).map(|i| Shapes { size: 32 }.sample(1, i)).collect();
        let judge = |shift: usize| {
            let mut accuracy = PromptAccuracy::default();
            for (i, sample) in samples.iter().enumerate() {
                let Image::Decoded(image) = &sample.image else {
                    panic!("shapes are pixels");
                };
                accuracy.judge(&samples[(i + shift) % samples.len()].caption, image);
            }
            accuracy.measured()
        };
        let right = judge(0);
        assert_eq!(right.len(), ASPECTS.len());
        assert!(
            right
                .iter()
                .all(|row| row.value == 1.0 && row.standard_error == Some(0.0))
        );
        assert_eq!(right[0].samples, 100);
        // One in four shows a pair.
        assert!((10..50).contains(&right[6].samples), "{:?}", right[6]);
        // Chance: one background in three, and hardly ever everything.
        let wrong = judge(1);
        assert!(wrong[0].value < 0.1 && wrong[5].value < 0.6, "{wrong:?}");
        let [low, high] = wrong[5].interval.unwrap();
        assert!(low < 1.0 / 3.0 && 1.0 / 3.0 < high, "{wrong:?}");
    }

    #[test]
    fn equal_shares_have_an_interval_with_a_width() {
        for values in [&[0.5; 8][..], &[0.1; 10], &[0.5], &[1.0; 8], &[0.0]] {
            let row = mean("kind", values);
            let [low, high] = row.interval.unwrap();
            let inside = 0.0 <= low && low <= row.value && row.value <= high && high <= 1.0;
            assert!(inside && high - low > 0.2, "{row:?}");
        }
    }

    #[test]
    fn other_prompts_are_not_judged() {
        let mut accuracy = PromptAccuracy::default();
        accuracy.judge("a photo of a cat", &RgbImage::new(32, 32));
        assert!(accuracy.measured().is_empty());
        assert!(!PromptAccuracy::reads("a photo of a cat"));
    }
}
