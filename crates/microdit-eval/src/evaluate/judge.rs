//! A classifier that was trained on the data at hand, as a network that sees pictures.

use super::{error::EvaluateError, extractor::Extractor, pictures::SHAPES};
use crate::{
    classifier::{Accuracy, Classifier, ClassifierConfig, Data, Labels, Progress, is_generated},
    features::{Family, FeatureNetwork},
};
use burn::tensor::backend::AutodiffBackend;
use crc32c::crc32c;
use image::RgbImage;
use microdit::DitBackend;
use microdit_data::files::file_name;
use std::path::Path;

/// What the accuracy of a classifier that learns from `train` is measured on: the reference, or another part of what is
/// [generated](SHAPES).
///
/// # Errors
/// A reference that is none, or has no labels by what it is.
pub fn labelled<'a>(train: &str, reference: Option<&'a str>) -> Result<&'a str, EvaluateError> {
    if is_generated(train) {
        return Ok(SHAPES);
    }
    match reference {
        Some(shards) if shards != SHAPES && !shards.ends_with(".npz") => Ok(shards),
        other => Err(EvaluateError::Unlabelled {
            found: other.map_or_else(
                || "there is no reference".into(),
                |name| format!("the reference is {name}"),
            ),
        }),
    }
}

/// A classifier that was trained on the data at hand.
pub struct Judge<B: DitBackend> {
    inner: Classifier<B>,
    accuracy: Accuracy,
    network: FeatureNetwork,
}

impl<B: DitBackend> Judge<B> {
    /// The classifier for images of `size` pixels, trained on `train`, which is labelled shards or [`SHAPES`]. It is read from `cache` if it
    /// was trained before, and trained now otherwise. `held_out` are other labelled shards, on which its accuracy is measured.
    ///
    /// # Errors
    /// Shards that are not labelled, cannot be read or not be learnt from, a cache that cannot be written.
    pub fn trained<AB>(
        train: &str,
        held_out: Option<&str>,
        labels: Labels,
        size: u32,
        cache: &Path,
        device: &B::Device,
        progress: impl FnMut(Progress),
    ) -> Result<Self, EvaluateError>
    where
        AB: DitBackend + AutodiffBackend<InnerBackend = B, Device = B::Device>,
    {
        let data = Data {
            train: train.to_owned(),
            held_out: labelled(train, held_out)?.to_owned(),
            labels,
        };
        let config = ClassifierConfig {
            side: (size as usize).clamp(8, 256).next_multiple_of(8),
            ..ClassifierConfig::default()
        };
        // A folder for each, whatever it is told apart by inside.
        let name = format!("{train:?} {:?} {config:?}", data.labels);
        let folder = cache.join(format!("classifier-{:08x}", crc32c(name.as_bytes())));
        let (inner, accuracy, sha256) =
            Classifier::in_folder::<AB>(&folder, &data, &config, device, progress)?;
        let mut judge = Self::new(inner, accuracy, sha256);
        // The same files have other places on another machine.
        let train = file_name(Path::new(train));
        judge.network.source = Some(format!("trained on {train}"));
        Ok(judge)
    }

    /// Its accuracy on held-out pictures.
    pub fn accuracy(&self) -> Accuracy {
        self.accuracy
    }

    /// Wraps a classifier with its accuracy on held-out pictures and the SHA-256 of its weights.
    pub fn new(inner: Classifier<B>, accuracy: Accuracy, sha256: String) -> Self {
        let network = FeatureNetwork {
            family: Family::Classifier,
            name: "classifier".into(),
            sha256,
            resize: format!("bicubic to {0}x{0}", inner.config().side),
            source: None,
        };
        Self {
            inner,
            accuracy,
            network,
        }
    }
}

impl<B: DitBackend> Extractor for Judge<B> {
    fn network(&self) -> &FeatureNetwork {
        &self.network
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
        self.inner.features(pictures)
    }

    fn logits(&self, features: &[f32]) -> Option<(usize, Vec<f32>)> {
        Some((self.inner.classes().len(), self.inner.logits(features)))
    }

    fn class_of(&self, prompt: &str) -> Option<usize> {
        let class = self.inner.class_of(prompt)?;
        self.inner.classes().iter().position(|other| other == class)
    }

    fn own_accuracy(&self) -> Option<f64> {
        Some(self.accuracy.share())
    }
}
