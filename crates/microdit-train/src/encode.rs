//! Between data and network: captions to vectors and images to latents, as the recipe says.

use crate::recipe::{CodecConfig, Stage};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit_data::Captions;
use microdit_encoders::{HashedWords, PixelCodec};
use std::ops::Range;

/// The recipe's caption encoder.
pub(crate) struct CaptionEncoder {
    words: usize,
    channels: usize,
}

impl CaptionEncoder {
    /// The encoder `stage` names, for its network's caption channels.
    pub(crate) fn new(stage: &Stage) -> Self {
        Self {
            words: stage.captions.tokens(),
            channels: stage.model.caption_channels,
        }
    }

    /// The captions of `samples` of a batch, `[batch, words, channels]`, encoded unless they already are.
    pub(crate) fn batch<B: Backend>(
        &self,
        captions: &Captions,
        samples: Range<usize>,
        device: &B::Device,
    ) -> Tensor<B, 3> {
        match captions {
            Captions::Texts(texts) => {
                let encoder = HashedWords {
                    tokens: self.words,
                    channels: self.channels,
                };
                let shape = [samples.len(), self.words, self.channels];
                let values = encoder.encode(&texts[samples]);
                Tensor::from_data(TensorData::new(values, shape), device)
            }
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
pub(crate) enum Codec {
    /// The pixels, scaled.
    Pixels(PixelCodec),
    /// Latents come as they are.
    Latents,
}

impl Codec {
    /// The codec `stage` names.
    pub(crate) fn new(stage: &Stage) -> Self {
        match stage.codec {
            CodecConfig::Pixels { scale } => Self::Pixels(PixelCodec { scale }),
            CodecConfig::Latents => Self::Latents,
        }
    }

    /// Images of the loader to latents `shape` = `[batch, channels, height, width]`.
    pub(crate) fn encode<B: Backend>(
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
}
