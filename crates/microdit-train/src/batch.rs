//! Between data and task: a batch of the loader as latents and conditioning, as the recipe says.

use crate::recipe::{CodecConfig, Stage};
use burn::tensor::{Tensor, TensorData};
use microdit::{
    DitBackend,
    net::Conditioning,
    task::{Samples, picked},
};
use microdit_data::{Batch, Captions};
use microdit_encoders::{HashedWords, PixelCodec};

/// A batch of a stage on a device.
pub(crate) struct StageBatch<'a, B: DitBackend> {
    stage: &'a Stage,
    batch: &'a Batch,
    device: &'a B::Device,
}

impl<'a, B: DitBackend> StageBatch<'a, B> {
    pub(crate) fn new(stage: &'a Stage, batch: &'a Batch, device: &'a B::Device) -> Self {
        Self {
            stage,
            batch,
            device,
        }
    }
}

impl<B: DitBackend> Samples<B> for StageBatch<'_, B> {
    fn count(&self) -> usize {
        self.batch.keys.len()
    }

    fn latents(&self, samples: &[usize]) -> Tensor<B, 4> {
        let [channels, height, width] = self.batch.shape;
        let shape = [samples.len(), channels, height, width];
        let images = picked(&self.batch.images, channels * height * width, samples);
        let values = match self.stage.data.codec() {
            Some(CodecConfig::Pixels { scale }) => PixelCodec { scale }.encode(&images),
            None => images,
        };
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    fn conditioning(&self, samples: &[usize]) -> Conditioning<B> {
        let (words, channels) = (
            self.stage.data.tokens(),
            self.stage.model.caption_channels(),
        );
        let captions = match &self.batch.captions {
            Captions::Texts(texts) => {
                let texts: Vec<&str> = samples.iter().map(|&i| texts[i].as_str()).collect();
                let encoder = hashed_words(self.stage);
                encoder.on(&texts, self.device)
            }
            Captions::Vectors(values) => {
                let values = picked(values, words * channels, samples);
                let shape = [samples.len(), words, channels];
                Tensor::from_data(TensorData::new(values, shape), self.device)
            }
        };
        Conditioning { captions }
    }
}

/// The stand-in for a text encoder, with the sizes of `stage`.
pub(crate) fn hashed_words(stage: &Stage) -> HashedWords {
    HashedWords {
        tokens: stage.data.tokens(),
        channels: stage.model.caption_channels(),
    }
}
