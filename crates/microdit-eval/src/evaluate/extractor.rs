//! Networks that see pictures: published ones, and whatever a user brings.

use crate::features::{Family, FeatureNetwork};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::DitBackend;
use microdit_encoders::{features::FeatureNetwork as Published, text::TextEncoder};

/// A frozen network whose features pictures are compared by.
pub trait Extractor: Send {
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

    /// Whether it sees texts as well as pictures.
    fn reads_texts(&self) -> bool {
        false
    }

    /// Features of texts, at least one, that are compared with those of pictures, `[texts, dim]`, row by row; none if it
    /// [reads](Self::reads_texts) none.
    fn text_features(&self, _texts: &[&str]) -> Option<Vec<f32>> {
        None
    }

    /// Share of held-out pictures whose class it sees, where that is known: it bounds what a class accuracy can mean.
    fn own_accuracy(&self) -> Option<f64> {
        None
    }
}

/// Texts that go through a text tower together.
const TEXTS: usize = 64;

/// A published network on a device.
pub struct PublishedExtractor<B: DitBackend> {
    inner: Published<B>,
    /// Of a CLIP, what its pictures can be compared with.
    texts: Option<TextEncoder<B>>,
    network: FeatureNetwork,
    device: B::Device,
}

impl<B: DitBackend> PublishedExtractor<B> {
    /// Wraps a network that was opened on `device`.
    pub fn new(inner: Published<B>, device: B::Device) -> Self {
        let family = match inner {
            Published::Inception(..) => Family::Inception,
            Published::Clip(..) => Family::Clip,
            Published::CleanClip(..) => Family::CleanClip,
            Published::DinoV2(..) => Family::DinoV2,
        };
        let network = FeatureNetwork {
            family,
            name: inner.name().to_owned(),
            sha256: inner.sha256().to_owned(),
            resize: inner.resizing(),
            source: inner.source().map(str::to_owned),
        };
        Self {
            inner,
            texts: None,
            network,
            device,
        }
    }

    /// The same with the text tower that was trained together with it, if that gives features of the same size.
    #[must_use]
    pub fn with_texts(self, tower: TextEncoder<B>) -> Self {
        let fits = tower.dim() == Some(self.inner.dim());
        Self {
            texts: Some(tower).filter(|_| fits),
            ..self
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

    fn reads_texts(&self) -> bool {
        self.texts.is_some()
    }

    fn text_features(&self, texts: &[&str]) -> Option<Vec<f32>> {
        let tower = self.texts.as_ref()?;
        let mut rows = Vec::with_capacity(texts.len() * self.dim());
        for batch in texts.chunks(TEXTS) {
            let features = tower.features(batch, &self.device)?;
            rows.extend(features.into_data().iter::<f32>());
        }
        Some(rows)
    }
}
