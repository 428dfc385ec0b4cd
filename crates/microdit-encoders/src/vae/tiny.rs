//! The tiny autoencoder (TAESD): deterministic, a few million parameters, for previews and students.

use super::Kind as Described;
use crate::{
    layers::{Conv2d, double},
    pipeline_files::NetworkFiles,
    weights::{At, MAX_HALVINGS, MAX_LAYERS, MAX_WIDTH, Weights},
};
use burn::{
    module::Module,
    tensor::{Tensor, activation::relu},
};
use microdit::{DitBackend, weights::WeightsError};
use serde::Deserialize;
use std::path::Path;

/// Sizes of an [`AutoencoderTiny`], under the names of diffusers' `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderTinyConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Widths of the encoder; between two, height and width are halved.
    pub encoder_block_out_channels: Vec<usize>,
    /// Widths of the decoder, from the latents outwards.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks per width of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks per width of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// Channels of a latent.
    pub latent_channels: usize,
}

impl Default for AutoencoderTinyConfig {
    /// Diffusers' defaults for what a configuration leaves out.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_channels: 4,
        }
    }
}

impl AutoencoderTinyConfig {
    /// Of an autoencoder's files.
    ///
    /// # Errors
    /// A damaged configuration, and that of an autoencoder of another kind.
    pub fn of(files: &NetworkFiles) -> Result<Self, WeightsError> {
        match files.parse::<Described>()?.class.as_deref() {
            Some("AutoencoderTiny") => files.parse(),
            other => Err(files.unusable(&format!(
                "it describes a {}; expected an AutoencoderTiny, such as taesd",
                other.unwrap_or("network without a _class_name")
            ))),
        }
    }

    /// Pixels of an image's side per pixel of the latents' side.
    pub fn shrinks_by(&self) -> usize {
        1 << (self.num_encoder_blocks.len().max(1) - 1)
    }

    /// The autoencoder with the weights at `at`.
    ///
    /// # Errors
    /// Missing, misshapen and surplus tensors.
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<AutoencoderTiny<B>, WeightsError> {
        at.within("in_channels", self.in_channels, 3..=3)?;
        at.within("out_channels", self.out_channels, 3..=3)?;
        at.within("latent_channels", self.latent_channels, 1..=MAX_WIDTH)?;
        for (side, widths, blocks) in [
            (
                "encoder",
                &self.encoder_block_out_channels,
                &self.num_encoder_blocks,
            ),
            (
                "decoder",
                &self.decoder_block_out_channels,
                &self.num_decoder_blocks,
            ),
        ] {
            let levels = widths.len();
            at.within(
                &format!("the number of {side}_block_out_channels"),
                levels,
                1..=MAX_HALVINGS,
            )?;
            at.within(
                &format!("the number of num_{side}_blocks"),
                blocks.len(),
                levels..=levels,
            )?;
            for &width in widths {
                at.within(
                    &format!("a width of {side}_block_out_channels"),
                    width,
                    1..=MAX_WIDTH,
                )?;
            }
            for &count in blocks {
                at.within(
                    &format!("a number of num_{side}_blocks"),
                    count,
                    0..=MAX_LAYERS,
                )?;
            }
        }
        let vae = AutoencoderTiny {
            encoder: self.encoder(&at.at("encoder.layers"), device)?,
            decoder: self.decoder(&at.at("decoder.layers"), device)?,
            config: self.clone(),
        };
        at.all_read()?;
        Ok(vae)
    }

    fn encoder<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Vec<Layer<B>>, WeightsError> {
        let mut stack = Stack::new(at, device);
        let mut channels = self.in_channels;
        let levels = self
            .encoder_block_out_channels
            .iter()
            .zip(&self.num_encoder_blocks);
        for (i, (&width, &blocks)) in levels.enumerate() {
            match i {
                0 => stack.conv([channels, width], true)?,
                _ => stack.halving([channels, width])?,
            }
            stack.blocks(width, blocks)?;
            channels = width;
        }
        stack.conv([channels, self.latent_channels], true)?;
        Ok(stack.layers)
    }

    fn decoder<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Vec<Layer<B>>, WeightsError> {
        let mut stack = Stack::new(at, device);
        let widths = &self.decoder_block_out_channels;
        stack.conv([self.latent_channels, widths[0]], true)?;
        stack.push(Kind::Relu, Vec::new());
        for (i, (&width, &blocks)) in widths.iter().zip(&self.num_decoder_blocks).enumerate() {
            stack.blocks(width, blocks)?;
            if i + 1 < widths.len() {
                stack.push(Kind::Double, Vec::new());
                stack.conv([width, width], false)?;
            } else {
                stack.conv([width, self.out_channels], true)?;
            }
        }
        Ok(stack.layers)
    }
}

/// A small image autoencoder, whose latents are scaled for a denoiser as they are.
#[derive(Module, Debug)]
pub struct AutoencoderTiny<B: DitBackend> {
    encoder: Vec<Layer<B>>,
    decoder: Vec<Layer<B>>,
    #[module(skip)]
    config: AutoencoderTinyConfig,
}

impl<B: DitBackend> AutoencoderTiny<B> {
    /// Opens what diffusers saved, as [`Vae::open`](super::Vae::open) takes it.
    ///
    /// # Errors
    /// Missing or damaged files, autoencoders of another kind, and weights that do not fit their configuration.
    pub fn open(path: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        let files = super::files(path)?;
        let config = AutoencoderTinyConfig::of(&files)?;
        config.load(&Weights::of(files.weights).at(""), device)
    }

    /// Images `[batch, 3, height, width]` in -1..1 to latents.
    pub fn encode(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        run(&self.encoder, (images + 1.0) / 2.0)
    }

    /// Latents, softly limited to -3..3, to images, about -1..1.
    pub fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        run(&self.decoder, (latents / 3.0).tanh() * 3.0) * 2.0 - 1.0
    }

    /// Its sizes.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.config
    }
}

fn run<B: DitBackend>(layers: &[Layer<B>], x: Tensor<B, 4>) -> Tensor<B, 4> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// One of a stack.
#[derive(Module, Debug)]
struct Layer<B: DitBackend> {
    #[module(skip)]
    kind: Kind,
    convs: Vec<Conv2d<B>>,
}

/// What a layer does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Its convolution.
    Conv,
    /// Negative values to zero.
    Relu,
    /// Every pixel four times.
    Double,
    /// Its convolutions, with a residual path around them.
    Block,
}

impl<B: DitBackend> Layer<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        match self.kind {
            Kind::Relu => relu(x),
            Kind::Double => double(x),
            Kind::Conv => self.convolved(x),
            Kind::Block => relu(self.convolved(x.clone()) + x),
        }
    }

    /// Its convolutions one after the other, with a nonlinearity between them.
    fn convolved(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let convs = self.convs.iter().enumerate();
        convs.fold(x, |x, (i, conv)| match i {
            0 => conv.forward(x),
            _ => conv.forward(relu(x)),
        })
    }
}

/// Layers, named by their place.
struct Stack<'a, B: DitBackend> {
    at: &'a At<'a>,
    device: &'a B::Device,
    layers: Vec<Layer<B>>,
}

impl<'a, B: DitBackend> Stack<'a, B> {
    fn new(at: &'a At<'a>, device: &'a B::Device) -> Self {
        let layers = Vec::new();
        Self { at, device, layers }
    }

    fn push(&mut self, kind: Kind, convs: Vec<Conv2d<B>>) {
        self.layers.push(Layer { kind, convs });
    }

    fn next(&self) -> At<'a> {
        self.at.at(self.layers.len())
    }

    fn conv(&mut self, [input, output]: [usize; 2], bias: bool) -> Result<(), WeightsError> {
        let conv = Conv2d::load(&self.next(), [input, output, 3], bias, self.device)?;
        self.push(Kind::Conv, vec![conv]);
        Ok(())
    }

    /// Half the height and width.
    fn halving(&mut self, [input, output]: [usize; 2]) -> Result<(), WeightsError> {
        let conv = Conv2d::strided(
            &self.next(),
            [input, output, 3],
            false,
            2,
            [1, 1],
            self.device,
        )?;
        self.push(Kind::Conv, vec![conv]);
        Ok(())
    }

    fn blocks(&mut self, width: usize, count: usize) -> Result<(), WeightsError> {
        for _ in 0..count {
            let at = self.next().at("conv");
            let conv = |i: usize| Conv2d::load(&at.at(i), [width, width, 3], true, self.device);
            self.push(Kind::Block, vec![conv(0)?, conv(2)?, conv(4)?]);
        }
        Ok(())
    }
}
