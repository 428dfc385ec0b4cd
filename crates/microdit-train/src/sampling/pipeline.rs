//! A network with all it takes to draw.

use super::{Named, Surroundings, init::Init, prompts};
use crate::{encoders::Encoders, error::TrainError, recipe::SamplingConfig};
use microdit::{
    DitBackend,
    diffusion::{DiffusionConfig, Family},
    net::{Denoiser, NetworkConfig},
    range::require,
    task::OneStep,
};
use microdit_encoders::{Codec, Conditioner};

/// A trained network and what turns prompts into its conditioning and latents into pictures.
pub struct Pipeline<B: DitBackend, D> {
    pub(super) model: NetworkConfig,
    pub(super) family: Family,
    pub(super) denoiser: D,
    pub(super) conditioner: Named<dyn Conditioner<B>>,
    pub(super) codec: Named<dyn Codec<B>>,
    pub(super) device: B::Device,
    pub(super) diffusion: DiffusionConfig,
    /// What its label says about the weights.
    pub(super) weights: String,
    /// Height and width of the latents.
    pub(super) latent: [usize; 2],
    pub(super) init: Option<Init<B>>,
    /// Guides in place of the network without a prompt.
    pub(super) guide: Option<(String, D)>,
    /// Where a student begins.
    pub(super) one_step: Option<OneStep>,
}

/// What a pipeline is made of.
pub struct Parts<B: DitBackend, D> {
    /// Sizes of the latents and the conditioning, among others.
    pub model: NetworkConfig,
    /// The diffusion the network was trained with.
    pub diffusion: DiffusionConfig,
    /// The network.
    pub denoiser: D,
    /// What labels say about its weights.
    pub weights: String,
    /// As in [`Surroundings`].
    pub one_step: Option<f64>,
    /// Prompts to conditioning.
    pub conditioner: Named<dyn Conditioner<B>>,
    /// Latents to pictures.
    pub codec: Named<dyn Codec<B>>,
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// A pipeline over `denoiser`; what was trained on pre-computed latents needs `encoders`. Labels of its pictures say
    /// about the weights what `weights` says.
    ///
    /// # Errors
    /// If there is no way from texts to caption embeddings or from latents to pictures, or one that does not fit the
    /// network; and a diffusion that is not valid.
    pub fn new(
        surroundings: Surroundings,
        denoiser: D,
        weights: String,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let parts = Parts {
            conditioner: surroundings.conditioner(encoders)?,
            codec: surroundings.codec(encoders)?,
            model: surroundings.model,
            diffusion: surroundings.diffusion,
            denoiser,
            weights,
            one_step: surroundings.one_step,
        };
        Self::of_parts(parts, device)
    }

    /// A pipeline over parts of your own.
    ///
    /// # Errors
    /// Parts of other sizes, and a diffusion that is not valid.
    pub fn of_parts(parts: Parts<B, D>, device: B::Device) -> Result<Self, TrainError> {
        let model = parts.model;
        fits::<B>(&model, &*parts.conditioner.1, &*parts.codec.1)?;
        let [channels, latent @ ..] = model.latent();
        let extra = model.extra_channels();
        require(
            [0, 1 + channels].contains(&extra),
            "model.in_channels",
            || {
                format!(
                    "{extra} more than the latent's {channels}; known are networks for inpainting, with {} more for mask and masked image",
                    1 + channels
                )
            },
        )?;
        let family = parts.diffusion.init()?;
        Ok(Self {
            one_step: parts.one_step.map(|time| OneStep::at(&family, time)),
            latent,
            model,
            family,
            denoiser: parts.denoiser,
            conditioner: parts.conditioner,
            codec: parts.codec,
            device,
            diffusion: parts.diffusion,
            weights: parts.weights,
            init: None,
            guide: None,
        })
    }

    /// How it draws unless told otherwise, where `settings` are those of any network.
    #[must_use]
    pub fn usual(&self, settings: SamplingConfig) -> SamplingConfig {
        match self.one_step {
            Some(_) => settings.one_step(),
            None => settings,
        }
    }

    /// Checks that it can draw so: a student takes one step, and no guidance.
    pub(super) fn check(&self, settings: &SamplingConfig) -> Result<(), TrainError> {
        if self.one_step.is_none() {
            return Ok(());
        }
        settings.validate_one_step()?;
        require(self.init.is_none(), "init", || {
            "a student makes a picture of noise alone; leave the image out".into()
        })?;
        Ok(require(self.guide.is_none(), "guide", || {
            "a student draws without guidance; leave it out".into()
        })?)
    }

    /// Width and height of its pictures in pixels.
    pub fn size(&self) -> [u32; 2] {
        let [height, width] = self.latent;
        [width, height].map(|side| (side * self.codec.1.shrinks_by()) as u32)
    }

    /// What labels say about its weights: the SHA-256 of their file.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// Warns about prompts that its text encoder does not read to their end.
    pub fn warn_of_cuts(&self, prompts: &[String]) {
        prompts::warn_of_cuts(prompts, |prompt| self.conditioner.1.cut(prompt));
    }
}

/// Checks that the encoders fit what the network was trained on.
pub(super) fn fits<B: DitBackend>(
    model: &NetworkConfig,
    conditioner: &dyn Conditioner<B>,
    codec: &dyn Codec<B>,
) -> Result<(), TrainError> {
    let misfit = |what, channels, expected| match channels == expected {
        true => Ok(()),
        false => Err(TrainError::Misfit {
            what,
            channels,
            expected,
        }),
    };
    misfit(
        "text encoder",
        conditioner.channels(),
        model.caption_channels(),
    )?;
    misfit("VAE", codec.channels(), model.latent()[0])
}
