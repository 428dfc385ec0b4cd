//! Denoising: the task of every diffusion model.

use super::{Adaptable, Adapted, Draws, Dropout, Losses, Reconstruction, Samples, Task};
use crate::{
    diffusion::{Diffusion as _, DiffusionConfig, Family, Row},
    net::{Conditioning, Denoiser, Inputs, Masking, Output, Selection, TokenMask},
    nn::{
        lora::Lora,
        params::{Role, Roles},
    },
    ops::DitBackend,
    range::{OutOfRange, require, within},
    rng::Purpose,
};
use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use std::{marker::PhantomData, ops::Range};

/// What is drawn for a sample, and the diffusion that noises it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenoiseConfig {
    /// The diffusion family.
    pub diffusion: DiffusionConfig,
    /// Which tokens are dropped in training.
    pub masking: Masking,
    /// Fraction of the captions that are dropped in training, 0 to 1, for classifier-free guidance.
    pub caption_drop: f64,
    /// What the patches that are dropped add to the loss; nothing if absent. It needs a network that predicts them.
    pub reconstruction: Option<Reconstruction>,
}

impl DenoiseConfig {
    /// The task of `denoiser`.
    ///
    /// # Errors
    /// The first field outside of its range, and a reconstruction the network is not able to.
    pub fn init<B: DitBackend, D: Denoiser<B>>(
        &self,
        denoiser: D,
    ) -> Result<Denoise<B, D>, OutOfRange> {
        within("caption_drop", self.caption_drop, 0.0..=1.0)?;
        let masking = self.masking.validate_ranges();
        masking.map_err(|error| error.inside("masking"))?;
        if let Some(reconstruction) = &self.reconstruction {
            let inside = |error: OutOfRange| error.inside("reconstruction");
            reconstruction.validate().map_err(inside)?;
            // A network from outside the library says nothing about itself.
            let config = denoiser.config();
            let able = config.is_none_or(|config| config.predicts_dropped());
            require(able, "reconstruction", || {
                "the network predicts the kept patches alone: it needs a decoder".into()
            })?;
        }
        let family = self.diffusion.init();
        Ok(Denoise {
            denoiser,
            lora: None,
            frozen: false,
            family: family.map_err(|error| error.inside("diffusion"))?,
            masking: self.masking,
            caption_drop: self.caption_drop,
            reconstruction: self.reconstruction,
            backend: PhantomData,
        })
    }
}

/// A network that learns to denoise (EDM, arXiv 2206.00364, equation 2; MicroDiT, arXiv 2407.15811, section 3): the loss is
/// taken on the tokens that are kept. With a [`Reconstruction`], those that are dropped add one of their own.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::{DitConfig, Masking, net::Denoiser, task::{DenoiseConfig, Draws, HostBatch, Task}};
///
/// let config = DitConfig::tiny_2().with_input_size(8).with_dim(32).with_depth(2).with_head_dim(16)
///     .with_multiple_of(16).with_caption_channels(12).with_mixer(None).with_moe(None);
/// let device = Default::default();
/// let task = DenoiseConfig { masking: Masking::Deferred { ratio: 0.75 }, ..Default::default() }
///     .init(config.init::<Flex>(0, &device)?)?;
/// let batch = HostBatch {
///     latents: vec![0.5; 2 * 4 * 8 * 8],
///     shape: [4, 8, 8],
///     captions: vec![1.0; 2 * 5 * 12],
///     caption: [5, 12],
/// };
/// let noised = task.prepare(&batch.on::<Flex>(&device), 0..2, &Draws::of_step(0, 0));
/// let output = task.denoiser().predict(task.inputs(&noised));
/// assert_eq!(output.patches.dims(), [2, 4, 16]); // a quarter of 16 tokens
/// assert_eq!(task.losses(&noised, &output).total().dims(), [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct Denoise<B: DitBackend, D: Module<B>> {
    /// The network.
    pub denoiser: D,
    /// Its adapters, where some are trained.
    pub lora: Option<Lora<B>>,
    /// Whether these are trained alone.
    frozen: bool,
    #[module(skip)]
    family: Family,
    #[module(skip)]
    masking: Masking,
    caption_drop: f64,
    #[module(skip)]
    reconstruction: Option<Reconstruction>,
    backend: PhantomData<B>,
}

/// Samples with their noise.
#[derive(Clone, Debug)]
pub struct Noised<B: DitBackend> {
    /// Clean latents `[batch, channels, height, width]`.
    pub clean: Tensor<B, 4>,
    /// Standard normal noise of the same shape.
    pub noise: Tensor<B, 4>,
    /// Noise levels.
    pub rows: Vec<Row>,
    /// What they are conditioned on; null where the caption was dropped.
    pub conditioning: Conditioning<B>,
    /// Which tokens are kept.
    pub keep: Option<TokenMask<B>>,
    /// What adapters drop; nothing where a loss is measured.
    pub dropout: Option<Dropout>,
}

impl<B: DitBackend, D: Denoiser<B>> Denoise<B, D> {
    /// The diffusion family.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Samples of the batch, in any order, with what is drawn for each.
    pub fn noise(&self, batch: &impl Samples<B>, places: &[usize], draws: &Draws) -> Noised<B> {
        let clean = batch.latents(places);
        let ([_, channels, height, width], device) = (clean.dims(), clean.device());
        let masking = match draws.held_out {
            true => Masking::None,
            false => self.masking,
        };
        let patch = self.denoiser.patch_size();
        let times: Vec<f64> = places.iter().map(|&i| self.time(i, draws)).collect();
        let kept = draws.kept_captions(places.iter().copied(), self.caption_drop);
        Noised {
            noise: draws.normal(Purpose::Noise, places, [channels, height, width], &device),
            clean,
            rows: self.family.rows(&times),
            conditioning: match batch.dropped(places) {
                Some(dropped) => batch.conditioning(places).keep_or(&kept, dropped),
                None => batch.conditioning(places).keep(&kept),
            },
            keep: TokenMask::draw(
                masking,
                [height / patch, width / patch],
                draws.seed,
                draws.step,
                places.iter().map(|&place| place as u64),
                &device,
            ),
            dropout: Dropout::of(draws),
        }
    }

    /// The network's ideal output for these samples, `[batch, channels, height, width]`.
    pub fn target(&self, noised: &Noised<B>) -> Tensor<B, 4> {
        let (clean, noise) = (noised.clean.clone(), noised.noise.clone());
        self.family.target(clean, noise, &noised.rows)
    }

    fn time(&self, sample: usize, draws: &Draws) -> f64 {
        match draws.fixed_sigma(sample) {
            Some(sigma) => self.family.at_sigma(sigma).time,
            None => {
                let random = &mut draws.stream(Purpose::Sigma, sample);
                self.family.draw_time(random)
            }
        }
    }

    /// Fraction of the captions that are dropped.
    pub fn caption_drop(&self) -> f64 {
        self.caption_drop
    }
}

impl<B: DitBackend, D: Denoiser<B>> Roles for Denoise<B, D> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["denoiser", rest @ ..] => self.denoiser.role(rest, rank),
            ["lora", rest @ ..] => self.lora.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}

impl<B: DitBackend, D: Denoiser<B>> Adaptable<B> for Denoise<B, D> {
    fn adaptable(&mut self) -> (&mut D, &mut Option<Lora<B>>, &mut bool) {
        (&mut self.denoiser, &mut self.lora, &mut self.frozen)
    }
}

impl<B: DitBackend, D: Denoiser<B>> Task<B> for Denoise<B, D> {
    type Denoiser = D;
    type Prepared = Noised<B>;

    fn denoiser(&self) -> &D {
        &self.denoiser
    }

    fn adapters(&self) -> Option<&Lora<B>> {
        self.lora.as_ref()
    }

    fn predictor(&self, noised: &Noised<B>) -> D {
        match (&self.lora, noised.dropout) {
            (Some(lora), Some(dropout)) => {
                dropout.applied(Adapted::Network, lora, self.denoiser.clone())
            }
            _ => self.network(),
        }
    }

    fn updates(&self, path: &[&str], _step: u64) -> bool {
        !self.is_frozen(path)
    }

    fn is_frozen(&self, path: &[&str]) -> bool {
        self.frozen && path.first() == Some(&"denoiser")
    }

    fn prepare(&self, batch: &impl Samples<B>, samples: Range<usize>, draws: &Draws) -> Noised<B> {
        self.noise(batch, &samples.collect::<Vec<_>>(), draws)
    }

    fn inputs(&self, noised: &Noised<B>) -> Inputs<B> {
        let (clean, noise) = (noised.clean.clone(), noised.noise.clone());
        let (x, time) = self.family.input(clean, noise, &noised.rows);
        Inputs {
            x,
            time,
            conditioning: noised.conditioning.clone(),
            selection: Selection {
                keep: noised.keep.clone(),
                taps: Vec::new(),
            },
        }
    }

    fn losses(&self, noised: &Noised<B>, output: &Output<B>) -> Losses<B> {
        let (clean, noise) = (noised.clean.clone(), noised.noise.clone());
        let (family, rows) = (&self.family, &noised.rows);
        let patch = self.denoiser.patch_size();
        let kept = output.only(noised.keep.as_ref());
        let losses = Losses::one("denoise", family.loss(&kept, clean, noise, rows, patch));
        match (&self.reconstruction, &noised.keep) {
            (Some(reconstruction), Some(mask)) if reconstruction.mae_loss_coef > 0.0 => {
                let loss = reconstruction.loss(family, output, noised, mask, patch);
                losses.and("reconstruct", reconstruction.mae_loss_coef, loss)
            }
            _ => losses,
        }
    }

    fn times(&self, samples: Range<usize>, draws: &Draws) -> Vec<f64> {
        samples.map(|i| self.time(i, draws)).collect()
    }
}
