//! The convolutional network of latent diffusion (arXiv 2112.10752): down through levels of falling height and width, and up
//! again with skip connections between, every level with residual blocks and transformers.
//!
//! Fields are named as in diffusers' `UNet2DConditionModel`, so that parameters have its names.

mod config;
mod cost;
mod diffusers;
mod names;
pub mod resnet;
mod segments;
mod sizes;
mod steps;
pub mod transformer;
mod validate;

pub use config::{LevelConfig, MidConfig, UNetConfig};
pub use segments::UNetCarry;

use crate::{
    net::{ConfigError, config::computes_in},
    nn::{
        Conv2d, Linear,
        group_norm::GroupNorm,
        init::Init,
        params::{Role, Roles},
    },
    ops::DitBackend,
};
use burn::{
    module::Module,
    tensor::{Tensor, TensorData, activation::silu},
};
use resnet::{Resample, ResnetBlock};
use steps::{Layer, Place, Step};
use transformer::Transformer;

/// The layers of a block; which follows which is in the network's configuration.
#[derive(Module, Debug)]
pub struct Block<B: DitBackend> {
    /// Residual blocks.
    pub resnets: Vec<ResnetBlock<B>>,
    /// Transformers.
    pub attentions: Vec<Transformer<B>>,
    /// One, or none.
    pub downsamplers: Vec<Resample<B>>,
    /// One, or none.
    pub upsamplers: Vec<Resample<B>>,
}

impl<B: DitBackend> Block<B> {
    /// The layers of the steps at `place`.
    fn new(place: Place, steps: &[Step], init: &Init<'_, B>) -> Self {
        let mut block = Self {
            resnets: Vec::new(),
            attentions: Vec::new(),
            downsamplers: Vec::new(),
            upsamplers: Vec::new(),
        };
        let first_turns = steps
            .iter()
            .filter(|step| step.place == place && !step.again);
        for step in first_turns {
            let at = |list| init.at(list).at(step.index);
            match &step.layer {
                Layer::Resnet(config) => {
                    let resnet = ResnetBlock::new(config, &at("resnets"));
                    block.resnets.push(resnet);
                }
                Layer::Attention(config) => {
                    let transformer = Transformer::new(config, &at("attentions"));
                    block.attentions.push(transformer);
                }
                Layer::Downsample(channels) => {
                    let resample = Resample::down(*channels, &at("downsamplers"));
                    block.downsamplers.push(resample);
                }
                Layer::Upsample(channels) => {
                    let resample = Resample::up(*channels, &at("upsamplers"));
                    block.upsamplers.push(resample);
                }
            }
        }
        block
    }
}

/// Embeds the time: sinusoids through a two-layer MLP with a SiLU between.
#[derive(Module, Debug)]
pub struct TimeEmbedding<B: DitBackend> {
    /// `[time channels, time channels / 4]`.
    pub linear_1: Linear<B>,
    /// `[time channels, time channels]`.
    pub linear_2: Linear<B>,
}

/// The network of Stable Diffusion and, with lists of its own, of DeciDiffusion.
///
/// Every latent pixel is a token; it sees all of them.
#[derive(Module, Debug)]
pub struct UNet<B: DitBackend> {
    /// Latent to the finest level.
    pub conv_in: Conv2d<B>,
    /// Time to vector.
    pub time_embedding: TimeEmbedding<B>,
    /// Finest level first.
    pub down_blocks: Vec<Block<B>>,
    /// Between.
    pub mid_block: Option<Block<B>>,
    /// Deepest level first.
    pub up_blocks: Vec<Block<B>>,
    /// Before the last convolution.
    pub conv_norm_out: GroupNorm<B>,
    /// Finest level to the prediction; it starts at zero.
    pub conv_out: Conv2d<B>,
    #[module(skip)]
    pub(crate) config: UNetConfig,
    #[module(skip)]
    steps: Vec<Step>,
}

impl UNetConfig {
    /// A network of these sizes with initial weights drawn from `seed`: uniform ones as PyTorch has them, and zeros in the last
    /// layer of everything beside a residual path, as latent diffusion's were.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit::{LevelConfig, UNetConfig, net::{Conditioning, Denoiser}};
    /// let level = |channels, resnets, transformers| LevelConfig {
    ///     channels, resnets, attentions: vec![1; transformers], heads: 2,
    /// };
    /// let config = UNetConfig {
    ///     input_size: 8,
    ///     caption_channels: 12,
    ///     down: vec![level(8, 1, 0), level(16, 1, 1)],
    ///     up: vec![level(16, 2, 2), level(8, 2, 0)],
    ///     norm_groups: 4,
    ///     ..UNetConfig::sd_1()
    /// };
    /// let device = Default::default();
    /// let unet = config.init::<Flex>(0, &device)?;
    /// let x = Tensor::ones([1, 4, 7, 9], &device);
    /// let captions = Tensor::ones([1, 5, 12], &device);
    /// let y = unet.image(x, Tensor::zeros([1], &device), Conditioning { captions });
    /// assert_eq!(y.dims(), [1, 4, 7, 9]);
    /// # Ok::<(), microdit::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If [`validate`](crate::net::DenoiserConfig::validate) rejects the sizes, or the device does not compute in this
    /// precision.
    pub fn init<B: DitBackend>(
        &self,
        seed: u64,
        device: &B::Device,
    ) -> Result<UNet<B>, ConfigError> {
        self.init_by(Init::new(seed, device), device)
    }

    /// A network of these sizes whose weights are loaded next: none is drawn, and each takes memory only once it is there.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn to_load<B: DitBackend>(&self, device: &B::Device) -> Result<UNet<B>, ConfigError> {
        self.init_by(Init::new(0, device).deferred(), device)
    }

    fn init_by<B: DitBackend>(
        &self,
        init: Init<'_, B>,
        device: &B::Device,
    ) -> Result<UNet<B>, ConfigError> {
        self.check()?;
        computes_in::<B>(self.precision, device)?;
        let init = init.with_precision(self.precision);
        Ok(self.init_with(&init))
    }

    /// A network of these sizes, which are valid, by a scheme.
    pub(crate) fn init_with<B: DitBackend>(&self, init: &Init<'_, B>) -> UNet<B> {
        let steps = self.steps();
        let (first, time) = (self.first_channels(), self.time_channels());
        let last = self.up.last().map_or(first, |level| level.channels);
        let embedding = init.at("time_embedding");
        let linear = |name, input| {
            let linear = embedding.at(name).fan_in_linear(input, time, true);
            linear.in_f32()
        };
        let (down, up) = (init.at("down_blocks"), init.at("up_blocks"));
        UNet {
            conv_in: init.at("conv_in").conv(self.in_channels, first, 3, 1),
            time_embedding: TimeEmbedding {
                linear_1: linear("linear_1", first),
                linear_2: linear("linear_2", time),
            },
            down_blocks: (0..self.down.len())
                .map(|i| Block::new(Place::Down(i), &steps, &down.at(i)))
                .collect(),
            mid_block: self
                .mid
                .as_ref()
                .map(|_| Block::new(Place::Mid, &steps, &init.at("mid_block"))),
            up_blocks: (0..self.up.len())
                .map(|i| Block::new(Place::Up(i), &steps, &up.at(i)))
                .collect(),
            conv_norm_out: GroupNorm::new(last, self.norm_groups, self.norm_eps, init),
            conv_out: init.at("conv_out").zero_conv(last, self.out_channels, 3),
            config: self.clone(),
            steps,
        }
    }
}

impl<B: DitBackend> UNet<B> {
    /// Embedding of the times `[batch]`, or `[1]` for all alike: `[batch, time channels]`.
    pub fn embed_time(&self, time: Tensor<B, 1>) -> Tensor<B, 2> {
        let half = self.config.first_channels() / 2;
        let count = half as f64 - self.config.frequency_shift;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (-(10_000f64.ln()) * i as f64 / count).exp() as f32)
            .collect();
        let frequencies = TensorData::new(frequencies, [1, half]);
        let frequencies = Tensor::<B, 2>::from_data(frequencies, &time.device());
        let angles = time.unsqueeze_dim::<2>(1) * frequencies;
        let (cosines, sines) = (angles.clone().cos(), angles.sin());
        let sinusoids = match self.config.cosines_first {
            true => vec![cosines, sines],
            false => vec![sines, cosines],
        };
        let hidden = self
            .time_embedding
            .linear_1
            .forward(Tensor::cat(sinusoids, 1));
        self.time_embedding.linear_2.forward(silu(hidden))
    }
}

impl<B: DitBackend> Roles for UNet<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        let role = Role::plain(path, rank);
        match path {
            ["conv_in" | "conv_out" | "time_embedding", ..] => role.in_embedding(),
            _ => role,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        net::{Conditioning, Denoiser as _, DenoiserConfig as _},
        nn::params,
        weights::StateDict,
    };
    use burn_flex::Flex;

    /// A small network with every kind of layer: DeciDiffusion's peculiarities, and a transformer of two blocks.
    pub(crate) fn config() -> UNetConfig {
        let level = |channels, resnets, attentions: &[usize]| LevelConfig {
            channels,
            resnets,
            attentions: attentions.to_vec(),
            heads: 2,
        };
        UNetConfig {
            input_size: 10,
            caption_channels: 12,
            down: vec![level(8, 2, &[]), level(16, 1, &[1, 2])],
            mid: Some(MidConfig {
                resnets: 2,
                attentions: vec![1],
                heads: 4,
                halved: true,
                first_twice: true,
            }),
            up: vec![level(16, 2, &[1]), level(8, 3, &[1, 1])],
            norm_groups: 4,
            skip_before_attention: true,
            ..UNetConfig::sd_1()
        }
    }

    /// A network in which nothing is zero, so that every path carries a signal.
    pub(crate) fn shaken<B: DitBackend>(config: &UNetConfig) -> UNet<B> {
        let device = Default::default();
        let unet = config.init::<B>(0, &device).unwrap();
        let state = StateDict::from_module(&unet);
        let noisy = state.iter().enumerate().map(|(i, (name, data))| {
            let mut noise = crate::rng::Stream::new(1, crate::rng::Purpose::Init, 0, i as u64);
            let values = noise.normal(data.num_elements());
            let values = values.into_iter().map(|x| 0.3 * x).collect();
            (name.clone(), TensorData::new(values, data.shape.clone()))
        });
        StateDict::from_tensors(noisy)
            .load_into(unet, &device)
            .unwrap()
    }

    fn draw<const D: usize>(key: u64, shape: [usize; D]) -> Tensor<Flex, D> {
        let mut stream = crate::rng::Stream::new(5, crate::rng::Purpose::Noise, 0, key);
        let values = stream.normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    fn image(unet: &UNet<Flex>, x: Tensor<Flex, 4>, times: &[f32]) -> Tensor<Flex, 4> {
        let rows = x.dims()[0];
        let captions = draw(1, [1, 5, 12]).repeat_dim(0, rows);
        let time = Tensor::from_data(times, &Default::default());
        unet.image(x, time, Conditioning { captions })
    }

    fn difference<const D: usize>(a: Tensor<Flex, D>, b: Tensor<Flex, D>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn it_starts_by_predicting_nothing_and_runs_on_any_size() {
        let unet = config().init::<Flex>(0, &Default::default()).unwrap();
        for [height, width] in [[10, 10], [1, 1], [7, 12], [16, 3]] {
            let x = draw(0, [2, 4, height, width]);
            let y = image(&unet, x.clone(), &[3.0]);
            assert_eq!(y.dims(), x.dims());
            assert_eq!(y.abs().max().into_scalar(), 0.0);
        }
    }

    #[test]
    fn one_time_for_all_is_every_image_s_own() {
        let unet = shaken::<Flex>(&config());
        let x = draw(0, [2, 4, 6, 6]);
        let [alike, own, other] =
            [&[9.0][..], &[9.0, 9.0], &[9.0, 900.0]].map(|times| image(&unet, x.clone(), times));
        assert!(difference(alike.clone(), own) < 1e-5);
        assert!(difference(alike, other) > 1e-3);
    }

    /// A residual block that is applied twice does something else than one that is applied once.
    #[test]
    fn the_first_block_between_is_applied_twice() {
        let unet = shaken::<Flex>(&config());
        let mut once = unet.clone();
        once.steps.retain(|step| !step.again);
        assert_eq!(once.steps.len() + 1, unet.steps.len());
        let x = draw(0, [1, 4, 6, 6]);
        let [a, b] = [&unet, &once].map(|unet| image(unet, x.clone(), &[9.0]));
        assert!(difference(a, b) > 1e-3);
    }

    #[test]
    fn masking_is_refused() {
        let config = config();
        assert!(config.validate_tokens(7, 7).is_ok(), "another size");
        let error = config.validate_tokens(25, 100).unwrap_err();
        assert_eq!(
            error.to_string(),
            "model.down: the convolutions of a UNet see all 100 pixels of a latent: set masking to None"
        );
    }

    #[test]
    fn a_network_says_what_its_parameters_are_for() {
        let unet: UNet<Flex> = config().init(0, &Default::default()).unwrap();
        let roles = params::roles(&unet);
        for (name, role) in [
            ("conv_in.weight", Role::Embedding),
            ("conv_in.bias", Role::Bias),
            ("time_embedding.linear_2.weight", Role::Embedding),
            ("down_blocks.0.resnets.1.conv1.weight", Role::Matrix),
            ("down_blocks.0.resnets.1.norm2.weight", Role::Norm),
            (
                "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_out.0.bias",
                Role::Bias,
            ),
            (
                "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight",
                Role::Matrix,
            ),
            ("mid_block.upsamplers.0.conv.weight", Role::Matrix),
            ("up_blocks.1.resnets.2.conv_shortcut.weight", Role::Matrix),
            ("conv_norm_out.bias", Role::Bias),
            ("conv_out.weight", Role::Embedding),
        ] {
            assert_eq!(roles.get(name), Some(&role), "{name} of {roles:#?}");
        }
    }
}
