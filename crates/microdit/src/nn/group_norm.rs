//! Group normalization (arXiv 1803.08494).

use crate::{
    nn::init::Init,
    ops::{DitBackend, GroupNormOptions},
};
use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` with a mean and a variance for every run of `channels / groups`
/// channels of every image.
///
/// ```
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use microdit::nn::{group_norm::GroupNorm, init::Init};
///
/// let device = Default::default();
/// let norm = GroupNorm::<Flex>::new(6, 2, 1e-5, &Init::new(0, &device));
/// let x = Tensor::random([1, 6, 4, 4], Distribution::Uniform(3.0, 5.0), &device);
/// let first = norm.forward(x).narrow(1, 0, 3);
/// assert!(first.clone().mean().into_scalar().abs() < 1e-4);
/// assert!((first.powi_scalar(2).mean().into_scalar() - 1.0).abs() < 1e-3);
/// ```
#[derive(Module, Debug)]
pub struct GroupNorm<B: DitBackend> {
    /// `[channels]`.
    pub weight: Param<Tensor<B, 1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<B, 1>>,
    groups: usize,
    eps: f64,
}

impl<B: DitBackend> GroupNorm<B> {
    /// A norm of `channels` in `groups`, which divides them; weight 1, bias 0.
    pub fn new(channels: usize, groups: usize, eps: f64, init: &Init<'_, B>) -> Self {
        Self {
            weight: init.constant([channels], 1.0),
            bias: init.constant([channels], 0.0),
            groups,
            eps,
        }
    }

    /// `[batch, channels, height, width]` to the same.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.apply(x, false)
    }

    /// The SiLU of it.
    pub fn silu(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.apply(x, true)
    }

    fn apply(&self, x: Tensor<B, 4>, silu: bool) -> Tensor<B, 4> {
        let options = GroupNormOptions {
            groups: self.groups,
            eps: self.eps,
            silu,
        };
        B::group_norm(x, self.weight.val(), self.bias.val(), options)
    }
}
