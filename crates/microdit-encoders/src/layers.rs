//! Layers of frozen networks, with weights as they lie in PyTorch's files. They are modules without parameters: plain tensors go to
//! devices and backends with what holds them, and are neither trained nor saved.

use crate::weights::At;
use burn::{
    module::Module,
    tensor::{
        Tensor,
        module::interpolate,
        ops::{InterpolateMode, InterpolateOptions, PaddedConvOptions},
    },
};
use microdit::{DitBackend, nn::Precision, ops::GroupNormOptions, weights::WeightsError};

/// A convolution.
#[derive(Module, Debug)]
pub(crate) struct Conv2d<B: DitBackend> {
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    #[module(skip)]
    options: PaddedConvOptions<2>,
}

impl<B: DitBackend> Conv2d<B> {
    /// A convolution that keeps height and width; `size` is that of its square kernel, odd.
    pub(crate) fn load(
        at: &At<'_>,
        [input, output, size]: [usize; 3],
        bias: bool,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let pad = (size - 1) / 2;
        Self::strided(at, [input, output, size], bias, 1, [pad; 2], device)
    }

    /// A convolution with a square kernel and a stride, padded by `pad` pixels at the [top and left, bottom and right].
    pub(crate) fn strided(
        at: &At<'_>,
        [input, output, size]: [usize; 3],
        bias: bool,
        stride: usize,
        pad: [usize; 2],
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let bias = bias
            .then(|| at.tensor("bias", [output], device))
            .transpose()?;
        let weight = at.tensor("weight", [output, input, size, size], device)?;
        let pad = pad.map(|pad| [pad; 2]);
        let options = PaddedConvOptions::asymmetric([stride; 2], pad[0], pad[1], [1; 2], 1);
        Ok(Self::new(weight, bias, options))
    }

    /// Of `weight` `[output, input, height, width]` and `bias` `[output]`.
    pub(crate) fn new(
        weight: Tensor<B, 4>,
        bias: Option<Tensor<B, 1>>,
        options: PaddedConvOptions<2>,
    ) -> Self {
        Self {
            weight,
            bias,
            options,
        }
    }

    /// `[batch, input, height, width]` to `[batch, output, ..]`.
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        B::convolution(x, self.weight.clone(), self.bias.clone(), &self.options)
    }
}

/// Group norm (arXiv 1803.08494).
#[derive(Clone, Debug)]
pub(crate) struct GroupNorm<B: DitBackend> {
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    groups: usize,
}

impl<B: DitBackend> GroupNorm<B> {
    const EPS: f64 = 1e-6;

    pub(crate) fn load(
        at: &At<'_>,
        channels: usize,
        groups: usize,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            weight: at.tensor("weight", [channels], device)?,
            bias: at.tensor("bias", [channels], device)?,
            groups,
        })
    }

    /// `[batch, channels, height, width]` to the same.
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.apply(x, false)
    }

    /// The SiLU of it.
    pub(crate) fn silu(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.apply(x, true)
    }

    fn apply(&self, x: Tensor<B, 4>, silu: bool) -> Tensor<B, 4> {
        let options = GroupNormOptions {
            groups: self.groups,
            eps: Self::EPS,
            silu,
        };
        B::group_norm(x, self.weight.clone(), self.bias.clone(), options)
    }
}

/// `y = x W^T + b`.
#[derive(Module, Debug)]
pub(crate) struct Linear<B: DitBackend> {
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
}

impl<B: DitBackend> Linear<B> {
    pub(crate) fn load(
        at: &At<'_>,
        [input, output]: [usize; 2],
        bias: bool,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let bias = bias
            .then(|| at.tensor("bias", [output], device))
            .transpose()?;
        let weight = at.tensor("weight", [output, input], device)?;
        Ok(Self::new(weight, bias))
    }

    /// Of `weight` `[output, input]` and `bias` `[output]`.
    pub(crate) fn new(weight: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Self {
        Self { weight, bias }
    }

    /// The same for products in `precision`. For bf16 the weight is rounded here, once and for good, and half of it is left to be read.
    pub(crate) fn computing_in(mut self, precision: Precision) -> Self {
        self.weight = B::cast(self.weight, precision.dtype());
        self
    }

    /// `[batch, tokens, input]` to `[batch, tokens, output]`.
    pub(crate) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, tokens, input] = x.dims();
        let rows = x.reshape([batch * tokens, input]);
        B::project(rows, self.weight.clone(), self.bias.clone()).reshape([
            batch as i32,
            tokens as i32,
            -1,
        ])
    }
}

/// Layer norm with weight and bias.
#[derive(Module, Debug)]
pub(crate) struct LayerNorm<B: DitBackend> {
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    eps: f64,
}

impl<B: DitBackend> LayerNorm<B> {
    pub(crate) fn load(
        at: &At<'_>,
        dim: usize,
        eps: f64,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            weight: at.tensor("weight", [dim], device)?,
            bias: at.tensor("bias", [dim], device)?,
            eps,
        })
    }

    /// Normalizes over the last dimension.
    pub(crate) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.forward_in(Precision::F32, x)
    }

    /// The same as `precision` has it.
    pub(crate) fn forward_in(&self, precision: Precision, x: Tensor<B, 3>) -> Tensor<B, 3> {
        B::affine_norm(
            x,
            self.weight.clone(),
            self.bias.clone(),
            self.eps,
            precision,
        )
    }
}

/// The sum of two images `[batch, channels, height, width]`.
pub(crate) fn add<B: DitBackend>(x: Tensor<B, 4>, update: Tensor<B, 4>) -> Tensor<B, 4> {
    let shape @ [batch, channels, height, width] = x.dims();
    let [x, update] = [x, update].map(|x| x.reshape([batch, channels, height * width]));
    B::residual(x, update).reshape(shape)
}

/// Every pixel four times.
pub(crate) fn double<B: DitBackend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [_, _, height, width] = x.dims();
    let options = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(x, [2 * height, 2 * width], options)
}
