//! What a network needs to draw: its conditioning, its codec, and what it was trained with.

use crate::{
    encoders::Encoders,
    error::TrainError,
    recipe::{EncoderConfig, Stage},
};
use microdit::{
    DitBackend,
    diffusion::DiffusionConfig,
    net::NetworkConfig,
    weights::{CaptionSource, LatentSource},
};
use microdit_encoders::{Codec, Conditioner, HashedWords, PixelCodec, Trimmed};
use std::sync::Arc;

/// A part of a pipeline, and what the pictures' labels call it.
pub type Named<P> = (String, Arc<P>);

/// What a network needs to draw, besides its weights.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Sizes of the latents and the conditioning, among others.
    pub model: NetworkConfig,
    /// The diffusion it was trained with.
    pub diffusion: DiffusionConfig,
    /// How its latents become pictures.
    pub latents: LatentSource,
    /// How prompts become its conditioning.
    pub captions: CaptionSource,
    /// Of a student that draws in one step, the noise level at which it does, by the time of its diffusion.
    pub one_step: Option<f64>,
}

impl Surroundings {
    /// Those of a network that was trained in `stage`.
    pub fn of_stage(stage: &Stage) -> Self {
        let encoders = EncoderConfig::default();
        Self {
            model: stage.model.clone(),
            diffusion: stage.diffusion,
            latents: stage.latent_source(&encoders),
            captions: stage.caption_source(&encoders),
            one_step: stage.one_step(),
        }
    }

    /// What turns prompts into the conditioning, and what it is called.
    pub(crate) fn conditioner<B: DitBackend>(
        &self,
        encoders: &Encoders<B>,
    ) -> Result<Named<dyn Conditioner<B>>, TrainError> {
        Ok(match self.captions {
            CaptionSource::HashedWords { tokens } => {
                let words = HashedWords {
                    tokens,
                    channels: self.model.caption_channels(),
                };
                (format!("hashed words, {tokens}"), Arc::new(words))
            }
            CaptionSource::Encoded {
                tokens, trimmed, ..
            } => {
                let text = encoders.text()?.reading(tokens)?;
                let name = encoders.text_content()?;
                match trimmed {
                    true => (name, Arc::new(Trimmed(text))),
                    false => (name, text),
                }
            }
        })
    }

    /// What turns latents into pictures, and what it is called.
    pub(super) fn codec<B: DitBackend>(
        &self,
        encoders: &Encoders<B>,
    ) -> Result<Named<dyn Codec<B>>, TrainError> {
        Ok(match self.latents {
            LatentSource::Pixels { scale } => (
                format!("pixels, scale {scale}"),
                Arc::new(PixelCodec { scale }),
            ),
            LatentSource::Encoded { .. } => {
                let vae = encoders.vae()?;
                (encoders.vae_content()?, vae)
            }
        })
    }
}
