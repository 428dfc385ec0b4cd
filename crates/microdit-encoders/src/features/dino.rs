//! DINOv2 (arXiv 2304.07193), under the names of transformers or of its authors.

use super::{
    patches::{Patches, prepend},
    preparation::{Corner, Fit, Preparation},
    resample::{Interpolation, antialiased, resample},
};
use crate::{
    layers::LayerNorm,
    transformer::{BlockConfig, Names, Stack, activation_named},
    weights::{At, MAX_LAYERS},
};
use burn::tensor::Tensor;
use image::RgbImage;
use microdit::{
    DitBackend,
    ops::Activation,
    picture::{Filter, Resample},
    weights::WeightsError,
};
use serde::Deserialize;
use serde_json::Value;

/// Most patches along a side and most register tokens.
const MAX_GRID: usize = 1 << 10;
const MAX_REGISTERS: usize = 1 << 10;

/// Channels of an attention head in every published model.
const HEAD: usize = 64;

/// Sizes of a [`DinoV2`].
#[derive(Clone, Debug, PartialEq)]
pub struct DinoV2Config {
    /// Channels of an image.
    pub channels: usize,
    /// Patches along each side of the images whose positions were learned.
    pub grid: usize,
    /// Height and width of a patch, in pixels.
    pub patch_size: usize,
    /// Width of a token's state.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub hidden: usize,
    /// Whether these are SwiGLU.
    pub gated: bool,
    /// Their nonlinearity, if they are not.
    pub activation: Activation,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Register tokens beside the class token (arXiv 2309.16588).
    pub registers: usize,
    /// Added to variances.
    pub eps: f64,
    /// How positions between the learned ones are found.
    pub positions: Positions,
    /// How the network wants its pictures.
    pub preparation: Preparation,
}

/// How positions of an image of another size are found between the learned ones: with cubic kernels, by libraries in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Without antialiasing: transformers.
    Plain,
    /// The same, of a grid that is larger by a tenth of a patch: the authors' models without registers.
    Offset,
    /// With antialiasing: models with registers.
    Antialiased,
}

impl Positions {
    /// Those of models with so many register tokens.
    fn of(names: Names, registers: usize) -> Self {
        match (names, registers) {
            (_, 1..) => Self::Antialiased,
            (Names::DinoV2, _) => Self::Offset,
            _ => Self::Plain,
        }
    }

    /// The matrix from `from` positions along a side to `to`.
    fn matrix(self, from: usize, to: usize) -> Vec<Vec<f64>> {
        let scale = |to: f64| from as f64 / to;
        match self {
            Self::Plain => Interpolation::Bicubic.matrix(from, to, scale(to as f64)),
            Self::Offset => Interpolation::Bicubic.matrix(from, to, scale(to as f64 + 0.1)),
            Self::Antialiased => {
                let resample = Resample::to([to; 2], Filter::Bicubic);
                antialiased(&resample.taps(0, from), from)
            }
        }
    }
}

/// `config.json`; what it leaves out is as in transformers' `Dinov2Config`.
#[derive(Deserialize)]
#[serde(default)]
struct Transformers {
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: f64,
    hidden_act: String,
    layer_norm_eps: f64,
    qkv_bias: bool,
    use_swiglu_ffn: bool,
    num_register_tokens: Option<usize>,
    model_type: Option<String>,
}

impl Default for Transformers {
    fn default() -> Self {
        Self {
            num_channels: 3,
            image_size: 224,
            patch_size: 14,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            use_swiglu_ffn: false,
            num_register_tokens: None,
            model_type: None,
        }
    }
}

/// Pictures as the Fréchet distance of DINOv2's features was published with (arXiv 2306.04675): squashed to 224 x 224 pixels.
fn preparation() -> Preparation {
    let [mean, std] = Preparation::IMAGENET;
    Preparation {
        fit: Fit::Squash([224; 2]),
        filter: Filter::Bicubic,
        size: [224; 2],
        corner: Corner::Even,
        factor: 1.0 / 255.0,
        mean,
        std,
    }
}

impl DinoV2Config {
    /// As transformers' `config.json` says it, with registers or without.
    ///
    /// # Errors
    /// Values of the wrong type, an unknown activation.
    pub fn from_transformers(json: &Value) -> Result<Self, String> {
        let config = Transformers::deserialize(json).map_err(|error| error.to_string())?;
        let with_registers = config.model_type.as_deref() == Some("dinov2_with_registers");
        let registers = config
            .num_register_tokens
            .unwrap_or(if with_registers { 4 } else { 0 });
        let hidden = (config.hidden_size as f64 * config.mlp_ratio) as usize;
        Ok(Self {
            channels: config.num_channels,
            grid: config
                .image_size
                .checked_div(config.patch_size)
                .unwrap_or(0),
            patch_size: config.patch_size,
            width: config.hidden_size,
            heads: config.num_attention_heads,
            layers: config.num_hidden_layers,
            hidden: match config.use_swiglu_ffn {
                // Two thirds, a multiple of eight.
                true => (hidden * 2 / 3).div_ceil(8) * 8,
                false => hidden,
            },
            gated: config.use_swiglu_ffn,
            activation: activation_named(&config.hidden_act)?,
            qkv_bias: config.qkv_bias,
            registers,
            eps: config.layer_norm_eps,
            positions: Positions::of(Names::Dinov2, registers),
            preparation: preparation(),
        })
    }

    /// What the tensors of a file of the authors' say: such files come without a configuration.
    ///
    /// # Errors
    /// Tensors that are not a DINOv2's.
    pub fn from_weights(at: &At<'_>) -> Result<Self, WeightsError> {
        let shape = |name: &str| {
            at.shape(name)
                .ok_or_else(|| at.unusable(&format!("it holds no {name}, which a DINOv2 has")))
        };
        let (patch, positions) = (shape("patch_embed.proj.weight")?, shape("pos_embed")?);
        let ([width, channels, patch_size, _], [_, tokens, _]) = (&patch[..], &positions[..])
        else {
            return Err(at.unusable(&format!(
                "patch_embed.proj.weight has shape {patch:?} and pos_embed {positions:?}; a DINOv2's have four and three dimensions"
            )));
        };
        let has = |i: usize, name: &str| at.at("blocks").at(i).has(name);
        let gated = has(0, "mlp.w12.weight");
        let inner = at.at("blocks.0.mlp").shape(match gated {
            true => "w12.bias",
            false => "fc1.bias",
        });
        let inner = inner.and_then(|shape| shape.first().copied()).unwrap_or(0);
        let registers = at.shape("register_tokens");
        let registers = registers
            .and_then(|shape| shape.get(1).copied())
            .unwrap_or(0);
        Ok(Self {
            channels: *channels,
            grid: tokens.saturating_sub(1).isqrt(),
            patch_size: *patch_size,
            width: *width,
            heads: width / HEAD,
            layers: (0..MAX_LAYERS)
                .take_while(|&i| has(i, "norm1.weight"))
                .count(),
            hidden: if gated { inner / 2 } else { inner },
            gated,
            activation: Activation::Gelu,
            qkv_bias: has(0, "attn.qkv.bias"),
            registers,
            eps: 1e-6,
            positions: Positions::of(Names::DinoV2, registers),
            preparation: preparation(),
        })
    }

    /// The network with the weights at `at`.
    ///
    /// # Errors
    /// Missing, misshapen and surplus tensors, sizes no network has.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit_encoders::{Weights, features::DinoV2Config};
    ///
    /// let json = serde_json::json!({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1});
    /// let device = Default::default();
    /// let config = DinoV2Config::from_transformers(&json)?;
    /// let network = config.load::<Flex>(&Weights::random(0).at(""), &device)?;
    /// // Images of any size, here of 2 x 3 patches.
    /// assert_eq!(network.features(Tensor::zeros([1, 3, 28, 42], &device)).dims(), [1, 8]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<DinoV2<B>, WeightsError> {
        let block = BlockConfig {
            width: self.width,
            heads: self.heads,
            hidden: self.hidden,
            eps: self.eps,
            activation: self.activation,
            qkv_bias: self.qkv_bias,
            layer_scale: true,
            gated: self.gated,
        };
        block.check(at, self.layers)?;
        at.within("the number of channels", self.channels, 1..=MAX_GRID)?;
        at.within("the patch size", self.patch_size, 1..=MAX_GRID)?;
        at.within(
            "the number of patches along a side",
            self.grid,
            1..=MAX_GRID,
        )?;
        at.within("the number of registers", self.registers, 0..=MAX_REGISTERS)?;
        // A model with a head for another task has its network under a prefix.
        let at = match at.has("dinov2.embeddings.cls_token") {
            true => at.at("dinov2"),
            false => at.clone(),
        };
        let width = self.width;
        let (names, embeddings, positions, patches, norm, blocks) =
            match at.has("embeddings.cls_token") {
                true => (
                    Names::Dinov2,
                    at.at("embeddings"),
                    "position_embeddings",
                    "patch_embeddings.projection",
                    "layernorm",
                    "encoder.layer",
                ),
                false => (
                    Names::DinoV2,
                    at.clone(),
                    "pos_embed",
                    "patch_embed.proj",
                    "norm",
                    "blocks",
                ),
            };
        let registers = || {
            let shape = [1, self.registers, width];
            embeddings.tensor("register_tokens", shape, device)
        };
        Ok(DinoV2 {
            patches: Patches::load(
                &embeddings.at(patches),
                embeddings.tensor("cls_token", [1, 1, width], device)?,
                [self.channels, width],
                [self.patch_size; 2],
                true,
                device,
            )?,
            registers: (self.registers > 0).then(registers).transpose()?,
            positions: embeddings.tensor(
                positions,
                [1, 1 + self.grid * self.grid, width],
                device,
            )?,
            blocks: Stack::load(&block, self.layers, names, &at.at(blocks), device)?,
            norm: LayerNorm::load(&at.at(norm), width, self.eps, device)?,
            config: self.clone(),
        })
    }
}

/// A vision transformer trained without labels. Frozen, but differentiable in the images.
#[derive(Clone, Debug)]
pub struct DinoV2<B: DitBackend> {
    patches: Patches<B>,
    registers: Option<Tensor<B, 3>>,
    positions: Tensor<B, 3>,
    blocks: Stack<B>,
    norm: LayerNorm<B>,
    config: DinoV2Config,
}

/// What the network makes of images.
#[derive(Clone, Debug)]
pub struct DinoStates<B: DitBackend> {
    /// Of the class token, `[batch, width]`.
    pub class: Tensor<B, 2>,
    /// Of the patches, `[batch, patches, width]`.
    pub patches: Tensor<B, 3>,
}

impl<B: DitBackend> DinoV2<B> {
    /// Pictures of any size to what the network takes, `[batch, 3, 224, 224]`.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn prepare_pictures(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 4> {
        self.config.preparation.pictures(images, device)
    }

    /// Prepared images `[batch, channels, height, width]`, of any size that holds a patch, to the states of their tokens.
    pub fn forward(&self, images: Tensor<B, 4>) -> DinoStates<B> {
        self.traced(images, |_, _| ())
    }

    /// The same; `state` sees the tokens before the first block as 0, and as `i` those after block `i`, counted from 1.
    pub fn traced(
        &self,
        images: Tensor<B, 4>,
        state: impl FnMut(usize, &Tensor<B, 3>),
    ) -> DinoStates<B> {
        let [_, _, height, width] = images.dims();
        let grid = self.patches.grid([height, width]);
        let mut x = self.patches.forward(images) + self.positions_of(grid);
        let patches = grid[0] * grid[1];
        if let Some(registers) = &self.registers {
            let class = x.clone().narrow(1, 0, 1);
            let rest = x.narrow(1, 1, patches);
            x = Tensor::cat(vec![class, prepend(registers.clone(), rest)], 1);
        }
        let x = self.norm.forward(self.blocks.forward(x, false, state));
        DinoStates {
            class: x.clone().narrow(1, 0, 1).squeeze_dim(1),
            patches: x.narrow(1, 1 + self.config.registers, patches),
        }
    }

    /// The positions of a grid of patches and of the class token, `[1, 1 + patches, width]`.
    fn positions_of(&self, [rows, columns]: [usize; 2]) -> Tensor<B, 3> {
        let DinoV2Config { grid, width, .. } = self.config;
        if [rows, columns] == [grid; 2] {
            return self.positions.clone();
        }
        let class = self.positions.clone().narrow(1, 0, 1);
        let learned = self.positions.clone().narrow(1, 1, grid * grid);
        let learned = learned
            .reshape([1, grid, grid, width])
            .permute([0, 3, 1, 2]);
        let [rows_matrix, columns_matrix] =
            [rows, columns].map(|to| self.config.positions.matrix(grid, to));
        let found = resample(learned, &rows_matrix, &columns_matrix)
            .permute([0, 2, 3, 1])
            .reshape([1, rows * columns, width]);
        Tensor::cat(vec![class, found], 1)
    }

    /// Prepared images to their features: the class token's states, `[batch, width]`.
    pub fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.forward(images).class
    }

    /// Its sizes.
    pub fn config(&self) -> &DinoV2Config {
        &self.config
    }
}
