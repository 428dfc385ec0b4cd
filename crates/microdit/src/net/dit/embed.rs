//! Embeddings: patches, their 2-D positions, the time, and the captions.

use crate::{
    net::dit::config::DitConfig,
    nn::{
        Linear,
        init::{self, Init},
        norm::LayerNorm,
    },
    ops::{DitBackend, over_rows},
};
use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};

/// Frequencies of the time embedding: half of them cosines, half sines.
const TIME_CHANNELS: usize = 512;

/// Non-overlapping square patches, each through one linear map.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, net::dit::embed::PatchEmbed, nn::init::Init};
///
/// let device = Default::default();
/// let embed = PatchEmbed::<Flex>::new(&DitConfig::tiny_2(), &Init::new(0, &device));
/// // 32 x 32 latents of four channels in patches of 2 x 2.
/// assert_eq!(embed.forward(Tensor::ones([1, 4, 32, 32], &device)).dims(), [1, 256, 512]);
/// ```
#[derive(Module, Debug)]
pub struct PatchEmbed<B: DitBackend> {
    /// The map, kept in the layout of a convolution.
    pub proj: PatchProjection<B>,
}

/// Weight `[dim, channels, patch, patch]` and bias `[dim]`.
#[derive(Module, Debug)]
pub struct PatchProjection<B: DitBackend> {
    /// `[dim, channels, patch, patch]`.
    pub weight: Param<Tensor<B, 4>>,
    /// `[dim]`.
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: DitBackend> PatchEmbed<B> {
    /// Glorot weights over the flattened patch.
    pub fn new(config: &DitConfig, init: &Init<'_, B>) -> Self {
        let (patch, fan_in) = (config.patch_size, config.patch_dim());
        let shape = [config.dim, config.in_channels, patch, patch];
        let init = init.at("proj");
        Self {
            proj: PatchProjection {
                weight: init.at("weight").xavier(shape, fan_in, config.dim),
                bias: init
                    .at("bias")
                    .uniform([config.dim], (fan_in as f64).powf(-0.5)),
            },
        }
    }

    /// `[batch, channels, height, width]` to `[batch, tokens, dim]`, tokens row by row.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let [dim, channels, patch, _] = self.proj.weight.dims();
        let weight = self
            .proj
            .weight
            .val()
            .reshape([dim, channels * patch * patch]);
        over_rows(channel_patches(x, patch), |patches| {
            B::project(patches, weight, Some(self.proj.bias.val()))
        })
    }
}

/// `[batch, channels, height, width]` to `[batch, tokens, channels x patch x patch]`: the order of a convolution's weight.
fn channel_patches<B: Backend>(x: Tensor<B, 4>, patch: usize) -> Tensor<B, 3> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / patch, width / patch);
    x.reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, rows * columns, channels * patch * patch])
}

/// `[batch, channels, height, width]` to `[batch, tokens, patch x patch x channels]`: the order of the network's output.
///
/// ```
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use microdit::net::dit::embed::{patchify, unpatchify};
///
/// let x = Tensor::<Flex, 4>::random([2, 3, 8, 12], Distribution::Default, &Default::default());
/// let tokens = patchify(x.clone(), 2);
/// assert_eq!(tokens.dims(), [2, 24, 12]);
/// assert_eq!(unpatchify(tokens, 2, [8, 12]).to_data(), x.to_data());
/// ```
pub fn patchify<B: Backend>(x: Tensor<B, 4>, patch: usize) -> Tensor<B, 3> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / patch, width / patch);
    x.reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 3, 5, 1])
        .reshape([batch, rows * columns, patch * patch * channels])
}

/// Inverse of [`patchify`] for images of this height and width.
///
/// # Panics
/// If there are not as many tokens as such an image has patches.
pub fn unpatchify<B: Backend>(
    tokens: Tensor<B, 3>,
    patch: usize,
    [height, width]: [usize; 2],
) -> Tensor<B, 4> {
    let [batch, count, patch_dim] = tokens.dims();
    let (rows, columns) = (height / patch, width / patch);
    assert_eq!(
        rows * columns,
        count,
        "{count} tokens are not a {height} x {width} image"
    );
    let channels = patch_dim / (patch * patch);
    tokens
        .reshape([batch, rows, columns, patch, patch, channels])
        .permute([0, 5, 1, 3, 2, 4])
        .reshape([batch, channels, height, width])
}

/// Fixed 2-D sine-cosine positions `[rows x columns, dim]` of a grid `[rows, columns]`, row by row: the first half of the
/// channels encodes the column, the second half the row, as [`sincos_axis`] has them.
///
/// ```
/// use microdit::net::dit::embed::sincos_positions;
///
/// let table = sincos_positions(8, [2, 2], 1.0);
/// assert_eq!(table.len(), 2 * 2 * 8);
/// // Row 0, column 0: sines of 0, then cosines of 0, for the column and for the row.
/// assert_eq!(table[..8], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
/// // Twice the grid at half the scale covers the same range: token (2, 2) lies where (1, 1) was.
/// let finer = sincos_positions(8, [4, 4], 2.0);
/// assert_eq!(finer[(2 * 4 + 2) * 8..][..8], table[3 * 8..]);
/// ```
pub fn sincos_positions(dim: usize, [rows, columns]: [usize; 2], interp_scale: f64) -> Vec<f32> {
    let half = dim / 2;
    let axis = sincos_axis(dim, rows.max(columns), interp_scale);
    let mut table = Vec::with_capacity(rows * columns * dim);
    for row in 0..rows {
        for column in 0..columns {
            for place in [column, row] {
                table.extend_from_slice(&axis[place * half..][..half]);
            }
        }
    }
    table
}

/// Positions `[count, dim / 2]` along one axis: `dim / 4` sines, then as many cosines.
///
/// Coordinates are divided by `interp_scale` in f32, the rest is f64, as the reference computes it.
pub fn sincos_axis(dim: usize, count: usize, interp_scale: f64) -> Vec<f32> {
    let quarter = dim / 4;
    let frequencies: Vec<f64> = (0..quarter)
        .map(|i| 1.0 / 10_000f64.powf(i as f64 / quarter as f64))
        .collect();
    let mut table = Vec::with_capacity(count * 2 * quarter);
    for index in 0..count {
        let position = f64::from(index as f32 / interp_scale as f32);
        table.extend(frequencies.iter().map(|f| (position * f).sin() as f32));
        table.extend(frequencies.iter().map(|f| (position * f).cos() as f32));
    }
    table
}

/// Embeds the noise level: sinusoids through a two-layer MLP.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{net::dit::embed::TimestepEmbed, nn::init::Init};
///
/// let device = Default::default();
/// let embed = TimestepEmbed::<Flex>::new(64, &Init::new(0, &device));
/// assert_eq!(embed.forward(Tensor::from_floats([-1.5, 0.0, 1.0], &device)).dims(), [3, 64]);
/// ```
#[derive(Module, Debug)]
pub struct TimestepEmbed<B: DitBackend> {
    /// `[dim, 512]`.
    pub fc1: Linear<B>,
    /// `[dim, dim]`.
    pub fc2: Linear<B>,
}

impl<B: DitBackend> TimestepEmbed<B> {
    /// An embedding of width `dim`.
    pub fn new(dim: usize, init: &Init<'_, B>) -> Self {
        Self {
            fc1: init.at("fc1").linear(TIME_CHANNELS, dim, true, init::STD),
            fc2: init.at("fc2").linear(dim, dim, true, init::STD),
        }
    }

    /// `[batch]` to `[batch, dim]`.
    pub fn forward(&self, t: Tensor<B, 1>) -> Tensor<B, 2> {
        let half = TIME_CHANNELS / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (-(10_000f64.ln()) * i as f64 / half as f64).exp() as f32)
            .collect();
        let frequencies =
            Tensor::<B, 2>::from_data(TensorData::new(frequencies, [1, half]), &t.device());
        let angles = t.unsqueeze_dim::<2>(1) * frequencies;
        let sinusoids = Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1);
        self.fc2.forward(B::tanh_gelu(self.fc1.forward(sinusoids)))
    }
}

/// Linear, tanh-GELU, layer norm, linear: the caption projection and the pooled-caption path.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{net::dit::embed::Mlp, nn::init::Init};
///
/// let device = Default::default();
/// let project = Mlp::<Flex>::new(1024, 64, 1e-6, &Init::new(0, &device));
/// assert_eq!(project.forward(Tensor::<_, 3>::ones([2, 77, 1024], &device)).dims(), [2, 77, 64]);
/// ```
#[derive(Module, Debug)]
pub struct Mlp<B: DitBackend> {
    /// `[dim, input]`.
    pub fc1: Linear<B>,
    /// `[dim]`.
    pub norm: LayerNorm<B>,
    /// `[dim, dim]`.
    pub fc2: Linear<B>,
}

impl<B: DitBackend> Mlp<B> {
    /// From `input` channels to `dim`.
    pub fn new(input: usize, dim: usize, eps: f64, init: &Init<'_, B>) -> Self {
        Self {
            fc1: init.at("fc1").linear(input, dim, true, init::STD),
            norm: LayerNorm::new(dim, eps, init),
            fc2: init.at("fc2").linear(dim, dim, true, init::STD),
        }
    }

    /// `[..., input]` to `[..., dim]`.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let hidden = over_rows(self.fc1.forward(x), B::tanh_gelu);
        self.fc2.forward(self.norm.forward(hidden))
    }
}
