//! A small classifier, trained on the labelled data at hand: a feature network and a judge that need no download.
//!
//! Its features stand in for those of large networks where distances between sets of pictures are compared on one dataset, and the
//! **class accuracy** of generated pictures is the share whose class it sees as their prompt asks for. Its own accuracy on
//! held-out pictures bounds what that share can mean, and is printed beside it.
//!
//! Like every network here it is trained by counters alone: the same shards, configuration and seed give the same weights, bit
//! for bit, on one backend.

mod accuracy;
mod config;
mod dataset;
mod error;
mod fit;
mod network;
mod record;

pub use accuracy::Accuracy;
pub use config::ClassifierConfig;
pub use dataset::{Dataset, Labels, is_generated};
pub use error::ClassifierError;
pub use fit::Progress;
pub use record::Data;

use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::DitBackend;
use microdit_data::image::{pixels, square};
use network::ConvNet;
use std::collections::BTreeMap;

/// Pictures that go through the network together where nothing is trained.
const BATCH: usize = 250;

/// A trained network, its classes, and the captions that ask for them.
#[derive(Clone, Debug)]
pub struct Classifier<B: DitBackend> {
    network: ConvNet<B>,
    config: ClassifierConfig,
    classes: Vec<String>,
    /// Places in `classes`; none of a caption that pictures of several classes have.
    captions: BTreeMap<String, Option<usize>>,
    device: B::Device,
}

impl<B: DitBackend> Classifier<B> {
    /// How it was built and trained.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// The classes, sorted.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The class a prompt asks for: that of the training pictures with this caption, if it is one.
    pub fn class_of(&self, prompt: &str) -> Option<&str> {
        let place = (*self.captions.get(prompt.trim())?)?;
        Some(&self.classes[place])
    }

    /// Features `[pictures, channels of the last stage]`, row by row: its output, averaged over the picture. Pictures of another size
    /// are resized by their shorter side and cut to the square in the middle.
    pub fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
        self.run(pictures, |network, x| network.features(x))
    }

    /// Unnormalized log-probabilities of the classes from features, `[pictures, classes]`, row by row.
    pub fn logits(&self, features: &[f32]) -> Vec<f32> {
        let dim = self.dim();
        let features = TensorData::new(features.to_vec(), [features.len() / dim, dim]);
        let logits = self
            .network
            .classes(Tensor::from_data(features, &self.device));
        logits.into_data().iter::<f32>().collect()
    }

    /// Numbers in a picture's features.
    pub fn dim(&self) -> usize {
        self.config.widths[2]
    }

    /// Rows of what the network gives for these pictures, batch by batch.
    fn run(
        &self,
        pictures: &[RgbImage],
        forward: impl Fn(&ConvNet<B>, Tensor<B, 4>) -> Tensor<B, 2>,
    ) -> Vec<f32> {
        let side = self.config.side;
        let square = |picture: &RgbImage| pixels(&square(picture, side as u32));
        let mut rows = Vec::new();
        for batch in pictures.chunks(BATCH) {
            let values: Vec<f32> = batch.iter().flat_map(square).collect();
            let data = TensorData::new(values, [batch.len(), 3, side, side]);
            let output = forward(&self.network, Tensor::from_data(data, &self.device));
            rows.extend(output.into_data().iter::<f32>());
        }
        rows
    }
}

/// The place of the largest number.
pub(crate) fn largest(row: &[f32]) -> usize {
    let places = row.iter().enumerate();
    let largest = places.max_by(|(_, a), (_, b)| a.total_cmp(b));
    largest.map_or(0, |(place, _)| place)
}
