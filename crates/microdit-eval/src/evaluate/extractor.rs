//! Networks that see pictures: published ones, and whatever a user brings.

use crate::{
    classifier::{Accuracy, Classifier},
    features::{Family, FeatureNetwork},
};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::DitBackend;
use microdit_encoders::features::FeatureNetwork as Published;

/// A frozen network whose features pictures are compared by.
pub trait Extractor {
    /// Which network it is, and how it resizes.
    fn network(&self) -> &FeatureNetwork;

    /// Numbers per picture.
    fn dim(&self) -> usize;

    /// Features of pictures of any size, at least one, `[pictures, dim]`, row by row.
    fn features(&self, pictures: &[RgbImage]) -> Vec<f32>;

    /// How many classes it tells apart, and their unnormalized log-probabilities from its features, `[pictures, classes]`, row by
    /// row; none where it has no classes.
    fn logits(&self, _features: &[f32]) -> Option<(usize, Vec<f32>)> {
        None
    }

    /// Which of its classes a prompt asks for, by its place; none if it asks for none, or the network does not know.
    fn class_of(&self, _prompt: &str) -> Option<usize> {
        None
    }

    /// Share of held-out pictures whose class it sees, where that is known: it bounds what a class accuracy can mean.
    fn own_accuracy(&self) -> Option<f64> {
        None
    }
}

/// A classifier that was trained on the data at hand.
pub struct Judge<B: DitBackend> {
    inner: Classifier<B>,
    accuracy: Accuracy,
    network: FeatureNetwork,
}

impl<B: DitBackend> Judge<B> {
    /// Wraps a classifier with its accuracy on held-out pictures and the SHA-256 of its weights.
    pub fn new(inner: Classifier<B>, accuracy: Accuracy, sha256: String) -> Self {
        let network = FeatureNetwork {
            family: Family::Classifier,
            name: "classifier".into(),
            sha256,
            resize: format!("bicubic to {0}x{0}", inner.config().side),
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

/// A published network on a device.
pub struct PublishedExtractor<B: DitBackend> {
    inner: Published<B>,
    network: FeatureNetwork,
    device: B::Device,
}

impl<B: DitBackend> PublishedExtractor<B> {
    /// Wraps a network that was opened on `device`.
    pub fn new(inner: Published<B>, device: B::Device) -> Self {
        let family = match inner {
            Published::Inception(..) => Family::Inception,
            Published::Clip(..) => Family::Clip,
            Published::DinoV2(..) => Family::DinoV2,
        };
        let network = FeatureNetwork {
            family,
            name: inner.name().to_owned(),
            sha256: inner.sha256().to_owned(),
            resize: inner.resizing(),
        };
        Self {
            inner,
            network,
            device,
        }
    }
}

impl<B: DitBackend> Extractor for PublishedExtractor<B> {
    fn network(&self) -> &FeatureNetwork {
        &self.network
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
        let features = self.inner.features_of(pictures, &self.device);
        features.into_data().iter::<f32>().collect()
    }

    fn logits(&self, features: &[f32]) -> Option<(usize, Vec<f32>)> {
        let shape = [features.len() / self.dim(), self.dim()];
        let features = TensorData::new(features.to_vec(), shape);
        let logits = self
            .inner
            .logits(Tensor::from_data(features, &self.device))?;
        let [_, classes] = logits.dims();
        Some((classes, logits.into_data().iter::<f32>().collect()))
    }
}
