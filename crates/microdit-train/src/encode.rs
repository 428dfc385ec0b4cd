//! Between data and network: captions to vectors, pixels to latents and back, as the recipe says.

use crate::recipe::{CaptionConfig, CodecConfig, Stage};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use image::RgbImage;
use microdit_encoders::{HashedWords, PixelCodec};

/// The recipe's caption encoder.
pub struct CaptionEncoder(HashedWords);

impl CaptionEncoder {
    /// The encoder `stage` names, for its network's caption channels.
    pub fn new(stage: &Stage) -> Self {
        let CaptionConfig::HashedWords { tokens, .. } = stage.captions;
        Self(HashedWords {
            tokens,
            channels: stage.model.caption_channels,
        })
    }

    /// Captions to `[batch, tokens, channels]`.
    pub fn encode<B: Backend>(
        &self,
        captions: &[impl AsRef<str>],
        device: &B::Device,
    ) -> Tensor<B, 3> {
        let shape = [captions.len(), self.0.tokens, self.0.channels];
        Tensor::from_data(TensorData::new(self.0.encode(captions), shape), device)
    }
}

/// The recipe's image codec.
pub struct Codec(PixelCodec);

impl Codec {
    /// The codec `stage` names.
    pub fn new(stage: &Stage) -> Self {
        let CodecConfig::Pixels { scale } = stage.codec;
        Self(PixelCodec { scale })
    }

    /// Pixels in -1..1, `batch` squares of three channels, to latents `[batch, channels, height, width]`.
    pub fn encode<B: Backend>(
        &self,
        pixels: &[f32],
        batch: usize,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let side = (pixels.len() / batch / 3).isqrt();
        let data = TensorData::new(self.0.encode(pixels), [batch, 3, side, side]);
        Tensor::from_data(data, device)
    }

    /// Latents `[batch, channels, height, width]` to pictures.
    pub fn decode<B: Backend>(&self, latents: Tensor<B, 4>) -> Vec<RgbImage> {
        let [_, _, height, width] = latents.dims();
        let values: Vec<f32> = latents.into_data().iter::<f32>().collect();
        self.0.decode(&values, width as u32, height as u32)
    }
}
