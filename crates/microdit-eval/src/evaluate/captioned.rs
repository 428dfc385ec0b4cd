//! What pictures are worth by the captions they were drawn from: the class these ask for, and the CLIP score.

use super::{
    distances::score_of_texts, error::EvaluateError, extractor::Extractor, pictures::PictureSet,
    wanted::CLASS_ACCURACY,
};
use crate::{
    classifier::{Accuracy, largest},
    features::{Features, Rows},
    measured::Measured,
    metrics::clip_score,
};
use std::collections::BTreeMap;

/// Pictures a network has seen, and what each was drawn from.
pub(super) struct Captioned<'a> {
    network: &'a dyn Extractor,
    pictures: &'a Features,
    /// One for each picture seen.
    captions: Vec<Option<String>>,
}

impl<'a> Captioned<'a> {
    /// The pictures of `set` at `places`, those that could be read.
    ///
    /// # Errors
    /// Pictures that cannot be read.
    pub(super) fn new(
        set: &PictureSet,
        network: &'a dyn Extractor,
        pictures: &'a Features,
        places: &[u64],
    ) -> Result<Self, EvaluateError> {
        let mut all = Vec::new();
        set.for_each(|picture| {
            all.push(picture.caption.filter(|caption| !caption.is_empty()));
            Ok(true)
        })?;
        let caption = |&place: &u64| all.get_mut(place as usize).and_then(Option::take);
        Ok(Self {
            network,
            pictures,
            captions: places.iter().map(caption).collect(),
        })
    }

    /// The share of pictures whose caption asks for a class that the network sees in them; none if no caption asks for one, which
    /// is an error where the share is `named`.
    pub(super) fn class_accuracy(&self, named: bool) -> Result<Option<Measured>, EvaluateError> {
        let Some(accuracy) = class_accuracy(self.network, self.pictures.values(), |i| {
            self.captions[i].as_deref()
        }) else {
            return match named {
                true => Err(EvaluateError::NoClass {
                    pictures: self.captions.len(),
                }),
                false => Ok(None),
            };
        };
        let share = accuracy.share();
        let own = self.network.own_accuracy().into_iter();
        Ok(Some(Measured {
            metric: CLASS_ACCURACY.to_owned(),
            value: share,
            standard_error: Some((share * (1.0 - share) / accuracy.of as f64).sqrt()),
            interval: Some(accuracy.interval()),
            samples: accuracy.of,
            reference: None,
            network: Some(self.network.network().clone()),
            constants: own.map(|own| ("own-accuracy".to_owned(), own)).collect(),
            labels: BTreeMap::new(),
        }))
    }

    /// How well the pictures fit their captions, by a network that sees both; none if it sees no texts, or one of the pictures has no
    /// caption, which is an error where the score is `named`.
    pub(super) fn clip_score(&self, named: bool) -> Result<Option<Measured>, EvaluateError> {
        let texts: Option<Vec<&str>> = self.captions.iter().map(Option::as_deref).collect();
        let Some(texts) = texts else {
            let without = self.captions.iter().filter(|caption| caption.is_none());
            return match named {
                true => Err(EvaluateError::Uncaptioned {
                    pictures: self.captions.len(),
                    without: without.count(),
                }),
                false => Ok(None),
            };
        };
        let Some(features) = self.network.text_features(&texts) else {
            return Ok(None);
        };
        let rows = Rows::new(&features, self.network.dim())?;
        let score = clip_score(self.pictures.rows(), rows)?;
        Ok(score_of_texts(self.pictures, &score))
    }
}

/// The share of pictures whose caption, by their index, asks for a class that the network sees in their features; none if no caption
/// asks for one.
pub(crate) fn class_accuracy<'a>(
    network: &dyn Extractor,
    features: &[f32],
    caption: impl Fn(usize) -> Option<&'a str>,
) -> Option<Accuracy> {
    let (classes, logits) = network.logits(features)?;
    let mut accuracy = Accuracy::default();
    for (i, row) in logits.chunks_exact(classes).enumerate() {
        if let Some(class) = caption(i).and_then(|prompt| network.class_of(prompt)) {
            accuracy.count(largest(row) == class);
        }
    }
    (accuracy.of > 0).then_some(accuracy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Family, FeatureNetwork};
    use image::RgbImage;

    /// Sees in a picture, and reads in a text, one of two directions.
    struct Compass(FeatureNetwork);

    impl Compass {
        fn new() -> Self {
            Self(FeatureNetwork {
                family: Family::Clip,
                name: "compass".into(),
                sha256: "00".into(),
                resize: "none".into(),
                source: None,
            })
        }
    }

    impl Extractor for Compass {
        fn network(&self) -> &FeatureNetwork {
            &self.0
        }

        fn dim(&self) -> usize {
            2
        }

        fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
            let bright = |picture: &RgbImage| f32::from(u8::from(picture.as_raw()[0] > 127));
            let direction = |picture: &RgbImage| [3.0 * bright(picture), 1.0 - bright(picture)];
            pictures.iter().flat_map(direction).collect()
        }

        fn reads_texts(&self) -> bool {
            true
        }

        fn text_features(&self, texts: &[&str]) -> Option<Vec<f32>> {
            let direction = |text: &&str| match *text {
                "bright" => [0.5, 0.0],
                "dark" => [0.0, 2.0],
                _ => [-1.0, -1.0],
            };
            Some(texts.iter().flat_map(direction).collect())
        }
    }

    #[test]
    fn pictures_are_scored_by_their_own_captions() {
        let folder = tempfile::tempdir().unwrap();
        let network = Compass::new();
        let paint = |i: usize, level: u8, caption: &str| {
            let picture = RgbImage::from_pixel(2, 2, image::Rgb([level; 3]));
            let path = folder.path().join(format!("{i}.png"));
            microdit_encoders::save_picture(&picture, &path, &[("prompt", caption.to_owned())])
                .unwrap();
        };
        // Right, right, wrong, and the opposite of what it shows, which counts as zero.
        for (i, (level, caption)) in [(255, "bright"), (0, "dark"), (0, "bright"), (255, "other")]
            .into_iter()
            .enumerate()
        {
            paint(i, level, caption);
        }
        let measure = || {
            let set = PictureSet::open(&folder.path().to_string_lossy(), 9).unwrap();
            let all = [255u8, 0, 0, 255];
            let all = all.map(|level| RgbImage::from_pixel(1, 1, image::Rgb([level; 3])));
            // The second picture was damaged, say.
            let places = [0, 2, 3];
            let seen = [0, 2, 3].map(|i: usize| all[i].clone());
            let features = Features::new(network.0.clone(), 2, network.features(&seen)).unwrap();
            let captioned = Captioned::new(&set, &network, &features, &places).unwrap();
            captioned.clip_score(true)
        };
        let row = measure().unwrap().unwrap();
        assert_eq!((row.metric.as_str(), row.samples), ("clip-score", 3));
        assert!((row.value - 100.0 / 3.0).abs() < 1e-9, "{row:?}");
        assert_eq!(row.constants["scale"], 100.0);
        paint(2, 0, "");
        let error = measure().unwrap_err().to_string();
        assert!(error.contains("1 of 3 pictures have no caption"), "{error}");
    }
}
