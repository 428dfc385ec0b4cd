//! What a run's weights say about themselves, taken from its recipe.

use crate::recipe::{CaptionConfig, CodecConfig, EncoderConfig, Recipe, Stage};
use microdit::{
    net::NetworkConfig,
    task::OneStep,
    weights::{CaptionSource, Description, LatentSource},
};
use std::path::Path;

impl Recipe {
    /// The description of weights of `network` after `step` finished steps, the last of them in stage number `stage`.
    pub(crate) fn description(
        &self,
        stage: usize,
        network: Option<NetworkConfig>,
        step: u64,
    ) -> Description {
        let stage = &self.stages[stage];
        Description {
            network,
            diffusion: stage.diffusion,
            latents: stage.latent_source(&self.run.encoders),
            captions: stage.caption_source(&self.run.encoders),
            step,
            recipe: self.weights_hash(),
            one_step: stage.one_step(),
        }
    }
}

impl Stage {
    /// Where its network draws in one step, if it does.
    pub(crate) fn one_step(&self) -> Option<f64> {
        self.distill.as_ref()?;
        let family = self.diffusion.init().ok()?;
        Some(OneStep::of(&family).point.time)
    }

    /// How its latents are made of images; a network that makes them is named as in `encoders`.
    pub(crate) fn latent_source(&self, encoders: &EncoderConfig) -> LatentSource {
        match self.data.codec() {
            Some(CodecConfig::Pixels { scale }) => LatentSource::Pixels { scale },
            None => LatentSource::Encoded {
                vae: encoders.vae.as_deref().map(named),
            },
        }
    }

    /// How its conditioning is made of captions; a network that makes it is named as in `encoders`.
    pub(crate) fn caption_source(&self, encoders: &EncoderConfig) -> CaptionSource {
        let tokens = self.data.tokens();
        match self.data.captions() {
            Some(CaptionConfig::HashedWords { .. }) => CaptionSource::HashedWords { tokens },
            None => CaptionSource::Encoded {
                tokens,
                text_encoder: encoders.text.as_deref().map(named),
                trimmed: self.data.trimmed(),
            },
        }
    }
}

fn named(path: &Path) -> String {
    path.display().to_string()
}
