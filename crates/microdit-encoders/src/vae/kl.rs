//! The autoencoder with a Gaussian posterior: Stable Diffusion's and SDXL's with 4 channels, others with 16.

use super::{
    blocks::{Head, Level, Middle},
    kl_config::AutoencoderKlConfig,
    tiled,
};
use crate::{
    layers::Conv2d,
    weights::{At, MAX_HALVINGS, MAX_LAYERS, MAX_WIDTH},
};
use burn::tensor::Tensor;
use microdit::{DitBackend, nn::Precision, weights::WeightsError};

impl AutoencoderKlConfig {
    /// The autoencoder with the weights at `at`.
    ///
    /// # Errors
    /// Missing, misshapen and surplus tensors.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit_encoders::{Weights, vae::AutoencoderKlConfig};
    ///
    /// let config = AutoencoderKlConfig {
    ///     block_out_channels: vec![8, 8], layers_per_block: 1, norm_num_groups: 4, ..AutoencoderKlConfig::sdxl()
    /// };
    /// let device = Default::default();
    /// let vae = config.load::<Flex>(&Weights::random(0).at(""), &device)?;
    /// let posterior = vae.encode(Tensor::zeros([1, 3, 16, 16], &device));
    /// assert_eq!(posterior.mean.dims(), [1, 4, 8, 8]);
    /// assert_eq!(vae.decode(posterior.mean).dims(), [1, 3, 16, 16]);
    /// # Ok::<(), microdit::weights::WeightsError>(())
    /// ```
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<AutoencoderKl<B>, WeightsError> {
        for (key, value, range) in [
            ("in_channels", self.in_channels, 3..=3),
            ("out_channels", self.out_channels, 3..=3),
            (
                "the number of block_out_channels",
                self.block_out_channels.len(),
                1..=MAX_HALVINGS,
            ),
            ("layers_per_block", self.layers_per_block, 1..=MAX_LAYERS),
            ("latent_channels", self.latent_channels, 1..=MAX_WIDTH),
        ] {
            at.within(key, value, range)?;
        }
        for &width in &self.block_out_channels {
            at.within("a width of block_out_channels", width, 1..=MAX_WIDTH)?;
        }
        if self.scaling_factor == 0.0 {
            return Err(at.unusable("scaling_factor is 0, which latents are divided by"));
        }
        let groups = self.norm_num_groups;
        let divides = |width: &usize| groups > 0 && width.is_multiple_of(groups);
        if !self.block_out_channels.iter().all(divides) {
            return Err(at.unusable(&format!(
                "norm_num_groups {groups} must divide each of block_out_channels {:?}",
                self.block_out_channels
            )));
        }
        let pointwise = |name: &str, channels: usize| {
            Conv2d::load(&at.at(name), [channels, channels, 1], true, device)
        };
        let vae = AutoencoderKl {
            encoder: Encoder::load(self, &at.at("encoder"), device)?,
            quant: self
                .use_quant_conv
                .then(|| pointwise("quant_conv", 2 * self.latent_channels))
                .transpose()?,
            post_quant: self
                .use_post_quant_conv
                .then(|| pointwise("post_quant_conv", self.latent_channels))
                .transpose()?,
            decoder: Decoder::load(self, &at.at("decoder"), device)?,
            precision: Precision::F32,
            config: self.clone(),
        };
        at.all_read()?;
        Ok(vae)
    }
}

/// An image autoencoder whose latents are normally distributed around what it computes.
#[derive(Clone, Debug)]
pub struct AutoencoderKl<B: DitBackend> {
    /// Images to moments.
    pub encoder: Encoder<B>,
    quant: Option<Conv2d<B>>,
    post_quant: Option<Conv2d<B>>,
    /// Latents to images.
    pub decoder: Decoder<B>,
    precision: Precision,
    config: AutoencoderKlConfig,
}

/// The posterior of a latent, `[batch, channels, height, width]` each.
#[derive(Clone, Debug)]
pub struct Posterior<B: DitBackend> {
    /// Its mean.
    pub mean: Tensor<B, 4>,
    /// The logarithm of its variance, in -30..20.
    pub logvar: Tensor<B, 4>,
}

impl<B: DitBackend> Posterior<B> {
    /// Of the encoder's output `[batch, 2 x channels, height, width]`.
    fn new(moments: Tensor<B, 4>) -> Self {
        let channels = moments.dims()[1] / 2;
        let [mean, logvar] = [0, channels].map(|begin| moments.clone().narrow(1, begin, channels));
        Self {
            mean,
            logvar: logvar.clamp(-30.0, 20.0),
        }
    }

    /// A latent, given standard normal `noise`.
    pub fn sample(self, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        self.mean + (self.logvar * 0.5).exp() * noise
    }
}

/// Side of the tiles, in latent pixels, in which larger latents are decoded, and how far two overlap.
const TILE: usize = 96;
const OVERLAP: usize = 16;

impl<B: DitBackend> AutoencoderKl<B> {
    /// The same that computes in `precision`: in bf16, what its layers hand on is bf16 and weights are rounded like it for each
    /// product, as under PyTorch's autocast, but where at most four channels come out; norms, scores of attention and sums of
    /// products are f32.
    #[must_use]
    pub fn computing_in(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Images `[batch, 3, height, width]` in -1..1 to their latents' distribution.
    pub fn encode(&self, images: Tensor<B, 4>) -> Posterior<B> {
        Posterior::new(self.moments(images))
    }

    /// Mean and log-variance before it is limited, `[batch, 2 x channels, height, width]`.
    pub fn moments(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.encoder.forward(self.precision.enter(images));
        self.precision.leave(match &self.quant {
            Some(quant) => quant.forward(x),
            None => x,
        })
    }

    /// Latents as [`encode`](Self::encode) gives them to images, about -1..1.
    pub fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        let latents = self.before_decoder(self.precision.enter(latents));
        self.precision.leave(self.decoder.forward(latents))
    }

    /// Latents as the decoder takes them: past the 1x1 convolution, if there is one.
    pub fn before_decoder(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        match &self.post_quant {
            Some(post_quant) => post_quant.forward(latents),
            None => latents,
        }
    }

    /// The same, in tiles where the latents are larger than 96 x 96, so that memory does not grow with the picture; tiles
    /// overlap and are blended. Each is normalized by itself, so tiled images differ slightly.
    pub fn decode_tiled(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        tiled::decode(latents, TILE, OVERLAP, self.config.shrinks_by(), |tile| {
            self.decode(tile)
        })
    }

    /// `(latents - shift) x scaling factor`: what a denoiser is trained on.
    pub fn scaled(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        (latents - self.config.shift_factor.unwrap_or(0.0)) * self.config.scaling_factor
    }

    /// The inverse of [`scaled`](Self::scaled).
    pub fn unscaled(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        latents / self.config.scaling_factor + self.config.shift_factor.unwrap_or(0.0)
    }

    /// Its sizes.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }
}

/// Images to moments.
#[derive(Clone, Debug)]
pub struct Encoder<B: DitBackend> {
    conv_in: Conv2d<B>,
    down: Vec<Level<B>>,
    middle: Middle<B>,
    head: Head<B>,
}

impl<B: DitBackend> Encoder<B> {
    fn load(
        config: &AutoencoderKlConfig,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let groups = config.norm_num_groups;
        let level = |(i, &width): (usize, &usize)| {
            let at = at.at("down_blocks").at(i);
            // Padded at the right and at the bottom only.
            let halve = || {
                let at = at.at("downsamplers.0.conv");
                Conv2d::strided(&at, [width, width, 3], true, 2, [0, 1], device)
            };
            let resample = (i + 1 < widths.len()).then(halve).transpose()?;
            let input = widths[i.saturating_sub(1)];
            Level::load(
                &at,
                [input, width],
                config.layers_per_block,
                groups,
                resample,
                device,
            )
        };
        let moments = 2 * config.latent_channels;
        Ok(Self {
            conv_in: Conv2d::load(
                &at.at("conv_in"),
                [config.in_channels, first, 3],
                true,
                device,
            )?,
            down: widths
                .iter()
                .enumerate()
                .map(level)
                .collect::<Result<_, _>>()?,
            middle: Middle::load(config, &at.at("mid_block"), last, device)?,
            head: Head::load(at, [last, moments], groups, device)?,
        })
    }

    /// `[batch, 3, height, width]` to `[batch, 2 x channels, height / 8, width / 8]`.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        self.traced(images, |_, _| ())
    }

    /// The same; `stage` sees `down.0`, `down.1`, .. and `mid`.
    pub fn traced(
        &self,
        images: Tensor<B, 4>,
        mut stage: impl FnMut(&str, &Tensor<B, 4>),
    ) -> Tensor<B, 4> {
        let mut x = self.conv_in.forward(images);
        for (i, level) in self.down.iter().enumerate() {
            x = level.down(x);
            stage(&format!("down.{i}"), &x);
        }
        x = self.middle.forward(x);
        stage("mid", &x);
        self.head.forward(x)
    }
}

/// Latents to images.
#[derive(Clone, Debug)]
pub struct Decoder<B: DitBackend> {
    conv_in: Conv2d<B>,
    middle: Middle<B>,
    up: Vec<Level<B>>,
    head: Head<B>,
}

impl<B: DitBackend> Decoder<B> {
    fn load(
        config: &AutoencoderKlConfig,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let groups = config.norm_num_groups;
        let level = |(i, &width): (usize, &usize)| {
            let at = at.at("up_blocks").at(i);
            let grow = || {
                let at = at.at("upsamplers.0.conv");
                Conv2d::load(&at, [width, width, 3], true, device)
            };
            let resample = (i + 1 < widths.len()).then(grow).transpose()?;
            let input = widths[i.saturating_sub(1)];
            let count = config.layers_per_block + 1;
            Level::load(&at, [input, width], count, groups, resample, device)
        };
        let latent = config.latent_channels;
        Ok(Self {
            conv_in: Conv2d::load(&at.at("conv_in"), [latent, first, 3], true, device)?,
            middle: Middle::load(config, &at.at("mid_block"), first, device)?,
            up: widths
                .iter()
                .enumerate()
                .map(level)
                .collect::<Result<_, _>>()?,
            head: Head::load(at, [last, config.out_channels], groups, device)?,
        })
    }

    /// `[batch, channels, height, width]` to `[batch, 3, 8 x height, 8 x width]`.
    pub fn forward(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        self.traced(latents, |_, _| ())
    }

    /// The same; `stage` sees `conv_in`, `mid`, `up.0`, `up.1`, ...
    pub fn traced(
        &self,
        latents: Tensor<B, 4>,
        mut stage: impl FnMut(&str, &Tensor<B, 4>),
    ) -> Tensor<B, 4> {
        let mut x = self.conv_in.forward(latents);
        stage("conv_in", &x);
        x = self.middle.forward(x);
        stage("mid", &x);
        for (i, level) in self.up.iter().enumerate() {
            x = level.up(x);
            stage(&format!("up.{i}"), &x);
        }
        self.head.forward(x)
    }
}
