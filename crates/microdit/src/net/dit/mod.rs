//! The network: embed -> mixer -> mask -> backbone -> decoder -> final layer. Mixer and decoder are optional.

pub mod block;
mod config;
pub mod decoder;
pub mod embed;
mod flops;
mod memory;
pub mod mixer;
mod positions;
mod segments;
mod sizes;
mod validate;
mod width;

pub use config::{DecoderConfig, DitConfig, MixerConfig};
pub use segments::DitCarry;
pub use width::WidthScale;

use crate::{
    net::{
        ConfigError,
        config::computes_in,
        dit::{
            block::{CaptionBlock, DitBlock},
            decoder::Decoder,
            embed::{Mlp, PatchEmbed, TimestepEmbed},
            mixer::PatchMixer,
            positions::Positions,
        },
    },
    nn::{
        Linear,
        init::Init,
        norm::{LayerNorm, Modulation},
        params::{Role, Roles},
    },
    ops::{DitBackend, split_last},
};
use burn::{module::Module, tensor::Tensor};

/// What the blocks are conditioned on.
#[derive(Clone, Debug)]
pub struct Condition<B: DitBackend> {
    /// Refined caption tokens, the context of every cross-attention: `[batch, caption tokens, dim]`.
    pub captions: Tensor<B, 3>,
    /// Time plus pooled caption, drives every modulation: `[batch, dim]`.
    pub vector: Tensor<B, 2>,
    /// The time alone, for routers that see it: `[batch, dim]`, or `[1, dim]` for all alike.
    pub time: Tensor<B, 2>,
}

impl<B: DitBackend> Condition<B> {
    /// The same with the captions `[batch, caption tokens, width]` of blocks of another width.
    #[must_use]
    pub fn with_captions(&self, captions: Tensor<B, 3>) -> Self {
        Self {
            captions,
            ..self.clone()
        }
    }
}

/// Modulated norm and projection: to patches at the end of the network, to another width at the entry of a [`Decoder`].
#[derive(Module, Debug)]
pub struct FinalLayer<B: DitBackend> {
    /// `[output, dim]`; to patches, `output` is `patch x patch x channels`.
    pub linear: Linear<B>,
    /// Condition to shift and scale `[2 dim, condition_dim]`.
    pub modulation: Linear<B>,
    /// Norm over `dim`.
    pub norm: LayerNorm<B>,
}

impl<B: DitBackend> FinalLayer<B> {
    /// A layer of zeros, of these widths.
    fn new([condition_dim, dim, output]: [usize; 3], norm_eps: f64, init: &Init<'_, B>) -> Self {
        Self {
            linear: init.zero_linear(dim, output, true),
            modulation: init.zero_linear(condition_dim, 2 * dim, true).in_f32(),
            norm: LayerNorm::new(dim, norm_eps, init),
        }
    }

    /// `[batch, tokens, dim]` and condition `[batch, condition_dim]` to `[batch, tokens, output]`.
    pub fn forward(&self, x: Tensor<B, 3>, condition: Tensor<B, 2>) -> Tensor<B, 3> {
        let [shift, scale] = split_last(self.modulation.forward(B::tanh_gelu(condition)));
        self.linear
            .forward(self.norm.modulated(x, Modulation { shift, scale }))
    }
}

/// A diffusion transformer with patch-mixer, deferred masking, expert-choice MoE and layer-wise scaling
/// (MicroDiT, arXiv 2407.15811).
#[derive(Module, Debug)]
pub struct Dit<B: DitBackend> {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed<B>,
    /// Noise level to vector.
    pub noise_embed: TimestepEmbed<B>,
    /// Caption channels to `dim`.
    pub caption_projection: Mlp<B>,
    /// Refines the caption tokens.
    pub caption_block: CaptionBlock<B>,
    /// Mean caption token to vector.
    pub pooled_caption: Mlp<B>,
    /// Sees all tokens.
    pub mixer: Option<PatchMixer<B>>,
    /// The backbone; sees the kept tokens.
    pub blocks: Vec<DitBlock<B>>,
    /// Sees all tokens again, and stands in for the dropped ones.
    pub decoder: Option<Decoder<B>>,
    /// Tokens to patches.
    pub final_layer: FinalLayer<B>,
    /// Of the backbone's width.
    positions: Positions<B>,
    #[module(skip)]
    pub(crate) config: DitConfig,
}

impl DitConfig {
    /// A network of these sizes with initial weights drawn from `seed`.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit::{DitConfig, net::{Conditioning, Denoiser}};
    /// let config = DitConfig::tiny_2().with_input_size(8).with_dim(32).with_depth(2).with_head_dim(16)
    ///     .with_multiple_of(16).with_caption_channels(12).with_mixer(None);
    /// let device = Default::default();
    /// let dit = config.init::<Flex>(0, &device)?;
    /// let x = Tensor::ones([1, 4, 8, 8], &device);
    /// let captions = Tensor::ones([1, 5, 12], &device);
    /// let y = dit.image(x, Tensor::zeros([1], &device), Conditioning { captions });
    /// assert_eq!(y.dims(), [1, 4, 8, 8]);
    /// # Ok::<(), microdit::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If [`validate`](Self::validate) rejects the sizes, or the device does not compute in this precision.
    pub fn init<B: DitBackend>(
        &self,
        seed: u64,
        device: &B::Device,
    ) -> Result<Dit<B>, ConfigError> {
        self.init_by(Init::new(seed, device), device)
    }

    /// A network of these sizes whose weights are loaded next: none is drawn, and each takes memory only once it is there.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn to_load<B: DitBackend>(&self, device: &B::Device) -> Result<Dit<B>, ConfigError> {
        self.init_by(Init::new(0, device).deferred(), device)
    }

    fn init_by<B: DitBackend>(
        &self,
        init: Init<'_, B>,
        device: &B::Device,
    ) -> Result<Dit<B>, ConfigError> {
        self.validate()?;
        computes_in::<B>(self.precision, device)?;
        let init = init.with_precision(self.precision);
        Ok(self.init_with(&init, device))
    }

    /// A network of these sizes, which are valid, by a scheme.
    pub(crate) fn init_with<B: DitBackend>(
        &self,
        init: &Init<'_, B>,
        device: &B::Device,
    ) -> Dit<B> {
        let (dim, eps) = (self.dim, self.norm_eps);
        let blocks = init.at("blocks");
        Dit {
            patch_embed: PatchEmbed::new(self, &init.at("patch_embed")),
            noise_embed: TimestepEmbed::new(dim, &init.at("noise_embed")),
            caption_projection: Mlp::new(
                self.caption_channels,
                dim,
                eps,
                &init.at("caption_projection"),
            ),
            caption_block: CaptionBlock::new(&self.caption_block(), &init.at("caption_block")),
            pooled_caption: Mlp::new(dim, dim, eps, &init.at("pooled_caption")),
            mixer: PatchMixer::new(self, &init.at("mixer")),
            blocks: self
                .blocks()
                .iter()
                .enumerate()
                .map(|(i, block)| DitBlock::new(block, &blocks.at(i)))
                .collect(),
            decoder: Decoder::new(self, &init.at("decoder"), device),
            final_layer: FinalLayer::new(
                [dim, self.last_dim(), self.patch_dim()],
                eps,
                &init.at("final_layer"),
            ),
            positions: Positions::new(dim, self.grid(), self.pos_interp_scale, device),
            config: self.clone(),
        }
    }
}

impl<B: DitBackend> Dit<B> {
    /// Positions of a grid of `rows` by `columns` patches, `[1, rows x columns, dim]`: computed from the configuration, never
    /// loaded. A grid of any size lies in the plane of the configured one, from the same corner.
    pub fn positions(&self, grid: [usize; 2]) -> Tensor<B, 3> {
        self.positions.of_grid(grid)
    }

    /// Rows and columns of the configured grid.
    pub fn grid(&self) -> [usize; 2] {
        [self.positions.side(); 2]
    }

    /// Latents `[batch, channels, height, width]` to positioned tokens `[batch, tokens, dim]`.
    pub fn embed(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let [_, _, height, width] = x.dims();
        let grid = [height, width].map(|side| side / self.config.patch_size);
        self.positions.add_to(self.patch_embed.forward(x), grid)
    }

    /// Noise level `t` (`c_noise`, `[batch]` or `[1]`) and captions `[batch, caption tokens, channels]` to the condition.
    pub fn condition(&self, t: Tensor<B, 1>, captions: Tensor<B, 3>) -> Condition<B> {
        let captions = self
            .caption_block
            .forward(self.caption_projection.forward(captions));
        let [_, _, dim] = captions.dims();
        let mean = captions.clone().mean_dim(1).reshape([-1, dim as i64]);
        let time = self.noise_embed.forward(t);
        // A single time is added to every row.
        let vector = self.pooled_caption.forward(mean) + time.clone();
        Condition {
            captions,
            vector,
            time,
        }
    }
}

impl<B: DitBackend> Roles for Dit<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            [
                "patch_embed" | "noise_embed" | "caption_projection" | "pooled_caption",
                ..,
            ]
            | ["final_layer", "linear", ..] => Role::plain(path, rank).in_embedding(),
            ["mixer", rest @ ..] => self.mixer.role(rest, rank),
            ["blocks", rest @ ..] => self.blocks.role(rest, rank),
            ["decoder", rest @ ..] => self.decoder.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        MixerConfig, MoeConfig,
        net::{Conditioning, Denoiser as _, Inputs, MaskStage, Selection, TokenMask},
        weights::StateDict,
    };
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    /// A small network with every kind of part.
    pub(crate) fn config() -> DitConfig {
        DitConfig::tiny_2()
            .with_input_size(8)
            .with_dim(32)
            .with_depth(4)
            .with_head_dim(16)
            .with_multiple_of(16)
            .with_caption_channels(12)
            .with_mixer(Some(MixerConfig {
                dim: 16,
                depth: 2,
                qkv_ratio: 1.0,
                mlp_ratio: 2.0,
            }))
            .with_moe(Some(MoeConfig {
                experts: 2,
                capacity: 1.0,
                every: 2,
            }))
    }

    /// A network in which nothing is zero, so that every path carries a signal.
    pub(crate) fn shaken<B: DitBackend>(config: &DitConfig) -> Dit<B> {
        let device = Default::default();
        let dit = config.init::<B>(0, &device).unwrap();
        let state = StateDict::from_module(&dit);
        let noisy = state.iter().enumerate().map(|(i, (name, data))| {
            let mut noise = crate::rng::Stream::new(1, crate::rng::Purpose::Init, 0, i as u64);
            let values = noise.normal(data.num_elements());
            let values = values.into_iter().map(|x| 0.2 * x).collect();
            (name.clone(), TensorData::new(values, data.shape.clone()))
        });
        StateDict::from_tensors(noisy)
            .load_into(dit, &device)
            .unwrap()
    }

    /// How far the kept tokens' output moves when a dropped patch of the image changes.
    fn influence_of_a_dropped_patch(config: &DitConfig, stage: MaskStage) -> f32 {
        let device = Default::default();
        let dit = shaken::<Flex>(config);
        // Token 0, the top left patch, has the largest noise and is dropped.
        let noise: Vec<f32> = (0..16)
            .map(|i| if i == 0 { 1.0 } else { i as f32 / 100.0 })
            .collect();
        let mask = TokenMask::from_noise(&noise, 16, 8, stage, &device);
        let run = |corner: f32| {
            let mut pixels = vec![0.1f32; 4 * 64];
            pixels[0] = corner;
            let x = Tensor::from_data(TensorData::new(pixels, [1, 4, 8, 8]), &device);
            let t = Tensor::from_data([0.3f32], &device);
            let captions = Tensor::ones([1, 3, 12], &device);
            let inputs = Inputs {
                selection: Selection {
                    keep: Some(mask.clone()),
                    ..Selection::all()
                },
                ..Inputs::new(x, t, Conditioning { captions })
            };
            let out = dit.predict(inputs).patches;
            assert_eq!(out.dims(), [1, 8, 16], "only kept tokens come out");
            out
        };
        (run(0.0) - run(5.0)).abs().max().into_scalar()
    }

    #[test]
    fn dropped_patches_speak_through_the_mixer_only() {
        let with_mixer = config();
        let without = config().with_mixer(None);
        assert!(influence_of_a_dropped_patch(&with_mixer, MaskStage::AfterMixer) > 1e-4);
        for (config, stage) in [
            (&with_mixer, MaskStage::BeforeMixer),
            (&without, MaskStage::BeforeMixer),
            (&without, MaskStage::AfterMixer),
        ] {
            assert_eq!(influence_of_a_dropped_patch(config, stage), 0.0);
        }
    }

    #[test]
    fn initial_weights_follow_the_scheme() {
        let config = DitConfig::tiny_2().with_depth(4);
        let dit = config.init::<Flex>(0, &Default::default()).unwrap();
        let state = StateDict::from_module(&dit);
        let std = |name: &str| {
            let values: Vec<f64> = state.get(name).unwrap().iter::<f64>().collect();
            (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
        };
        for name in [
            "blocks.0.modulation.weight",
            "mixer.blocks.1.modulation.weight",
            "caption_block.attn.proj.weight",
            "caption_block.mlp.w3.weight",
            "final_layer.linear.weight",
            "final_layer.modulation.weight",
            "blocks.0.modulation.bias",
        ] {
            assert_eq!(std(name), 0.0, "{name}");
        }
        let root = |layers: f64| 0.02 / (2.0 * layers).sqrt();
        // Over 65,536 draws and more, the standard error of a standard deviation is below 0.3 %.
        for (name, expected) in [
            ("blocks.0.attn.qkv.weight", 0.02),
            ("blocks.0.attn.proj.weight", root(1.0)),
            ("blocks.3.attn.proj.weight", root(4.0)),
            ("blocks.1.mlp.w1", 0.02),
            ("blocks.1.mlp.w2", root(2.0)),
            ("blocks.2.mlp.w3.weight", root(3.0)),
            // The mixer scales by the backbone's depth, in every block.
            ("mixer.blocks.0.attn.proj.weight", root(4.0)),
            ("noise_embed.fc1.weight", 0.02),
            ("caption_projection.fc1.weight", 0.02),
        ] {
            let found = std(name);
            assert!(
                (found / expected - 1.0).abs() < 0.02,
                "{name}: {found}, expected {expected}"
            );
        }
        assert_eq!(std("blocks.0.norm1.weight"), 1.0);
    }
}
