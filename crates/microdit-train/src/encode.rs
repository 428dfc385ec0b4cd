//! Between data and network: captions to vectors, images to latents and back, as the recipe says.

use crate::{
    error::TrainError,
    recipe::{CodecConfig, Stage},
};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use image::RgbImage;
use microdit_data::Captions;
use microdit_encoders::{HashedWords, PixelCodec};
use std::ops::Range;

/// The recipe's caption encoder.
pub struct CaptionEncoder {
    words: usize,
    channels: usize,
}

impl CaptionEncoder {
    /// The encoder `stage` names, for its network's caption channels.
    pub fn new(stage: &Stage) -> Self {
        Self {
            words: stage.captions.tokens(),
            channels: stage.model.caption_channels,
        }
    }

    /// Texts to `[batch, words, channels]`.
    pub fn encode<B: Backend>(
        &self,
        captions: &[impl AsRef<str>],
        device: &B::Device,
    ) -> Tensor<B, 3> {
        let encoder = HashedWords {
            tokens: self.words,
            channels: self.channels,
        };
        let shape = [captions.len(), self.words, self.channels];
        Tensor::from_data(TensorData::new(encoder.encode(captions), shape), device)
    }

    /// The captions of `samples` of a batch, `[batch, words, channels]`, encoded unless they already are.
    pub(crate) fn batch<B: Backend>(
        &self,
        captions: &Captions,
        samples: Range<usize>,
        device: &B::Device,
    ) -> Tensor<B, 3> {
        match captions {
            Captions::Texts(texts) => self.encode(&texts[samples], device),
            Captions::Vectors(values) => {
                let shape = [samples.len(), self.words, self.channels];
                let size = self.words * self.channels;
                let values = values[samples.start * size..samples.end * size].to_vec();
                Tensor::from_data(TensorData::new(values, shape), device)
            }
        }
    }
}

/// The recipe's image codec.
pub enum Codec {
    /// The pixels, scaled.
    Pixels(PixelCodec),
    /// Latents come as they are.
    Latents,
}

impl Codec {
    /// The codec `stage` names.
    pub fn new(stage: &Stage) -> Self {
        match stage.codec {
            CodecConfig::Pixels { scale } => Self::Pixels(PixelCodec { scale }),
            CodecConfig::Latents => Self::Latents,
        }
    }

    /// Images of the loader to latents `shape` = `[batch, channels, height, width]`.
    pub fn encode<B: Backend>(
        &self,
        images: &[f32],
        shape: [usize; 4],
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let values = match self {
            Self::Pixels(codec) => codec.encode(images),
            Self::Latents => images.to_vec(),
        };
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Latents `[batch, channels, height, width]` to pictures.
    ///
    /// # Errors
    /// If the recipe has no way from latents to pictures.
    pub fn decode<B: Backend>(&self, latents: Tensor<B, 4>) -> Result<Vec<RgbImage>, TrainError> {
        let Self::Pixels(codec) = self else {
            return Err(TrainError::NoDecoder);
        };
        let [_, _, height, width] = latents.dims();
        let values: Vec<f32> = latents.into_data().iter::<f32>().collect();
        Ok(codec.decode(&values, width as u32, height as u32))
    }

    /// Whether latents can become pictures.
    pub fn decodes(&self) -> bool {
        matches!(self, Self::Pixels(_))
    }
}
