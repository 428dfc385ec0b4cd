//! From images and texts to what a network computes on, and back.

use crate::{Cut, HashedWords, PixelCodec, text::TextEncoder, vae::Vae};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit::{DitBackend, net::Conditioning};
use std::sync::Arc;

/// Images to latents and back: frozen networks, or nothing but a scale. Object-safe: users of the library can bring their own.
pub trait Codec<B: DitBackend>: Send + Sync {
    /// Channels of the latents.
    fn channels(&self) -> usize;

    /// Pixels of an image's side per pixel of the latents' side.
    fn shrinks_by(&self) -> usize;

    /// Images `[batch, 3, height, width]` in -1..1 to latents. `noise`, of the latents' shape, draws from the posterior, if
    /// there is one.
    fn encode(&self, images: Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4>;

    /// Latents `[batch, channels, height, width]` to images `[batch, 3, height, width]` in -1..1.
    fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4>;
}

/// From texts to what a network is conditioned on. Object-safe: users of the library can bring their own.
pub trait Conditioner<B: DitBackend>: Send + Sync {
    /// Channels of a caption token.
    fn channels(&self) -> usize;

    /// The conditioning of these texts; that of none is [`Conditioning::null`].
    fn encode(&self, texts: &[&str], device: &B::Device) -> Conditioning<B>;

    /// The part of a text that is not read, if it is too long.
    fn cut(&self, text: &str) -> Option<Cut>;
}

impl<B: DitBackend> Codec<B> for PixelCodec {
    fn channels(&self) -> usize {
        3
    }

    fn shrinks_by(&self) -> usize {
        1
    }

    fn encode(&self, images: Tensor<B, 4>, _noise: Tensor<B, 4>) -> Tensor<B, 4> {
        images * self.scale
    }

    fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        latents / self.scale
    }
}

impl<B: DitBackend> Codec<B> for Vae<B> {
    fn channels(&self) -> usize {
        self.latent_channels()
    }

    fn shrinks_by(&self) -> usize {
        self.shrinks_by()
    }

    fn encode(&self, images: Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        self.encode(images, noise)
    }

    fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        self.decode(latents)
    }
}

impl HashedWords {
    /// The captions on `device`, `[batch, caption tokens, channels]`.
    pub fn on<B: Backend>(&self, captions: &[impl AsRef<str>], device: &B::Device) -> Tensor<B, 3> {
        let shape = [captions.len(), self.tokens, self.channels];
        Tensor::from_data(TensorData::new(self.encode(captions), shape), device)
    }
}

impl<B: DitBackend> Conditioner<B> for HashedWords {
    fn channels(&self) -> usize {
        self.channels
    }

    fn encode(&self, texts: &[&str], device: &B::Device) -> Conditioning<B> {
        let captions = self.on(texts, device);
        Conditioning { captions }
    }

    fn cut(&self, text: &str) -> Option<Cut> {
        self.cut(text)
    }
}

/// A text encoder whose padding is trimmed off: zeros stand in its place.
#[derive(Debug)]
pub struct Trimmed<B: DitBackend>(pub Arc<TextEncoder<B>>);

impl<B: DitBackend> Conditioner<B> for Trimmed<B> {
    fn channels(&self) -> usize {
        self.0.channels()
    }

    fn encode(&self, texts: &[&str], device: &B::Device) -> Conditioning<B> {
        let captions = self.0.encode_trimmed(texts, device);
        Conditioning { captions }
    }

    fn cut(&self, text: &str) -> Option<Cut> {
        self.0.cut(text)
    }
}

impl<B: DitBackend> Conditioner<B> for TextEncoder<B> {
    fn channels(&self) -> usize {
        self.channels()
    }

    fn encode(&self, texts: &[&str], device: &B::Device) -> Conditioning<B> {
        let captions = self.encode(texts, device);
        Conditioning { captions }
    }

    fn cut(&self, text: &str) -> Option<Cut> {
        self.cut(text)
    }
}
