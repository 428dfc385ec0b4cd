//! Layer normalization with a weight, with or without a bias, and its adaptive form (DiT, arXiv 2212.09748, section 3.2).

use crate::{
    nn::init::Init,
    ops::{DitBackend, over_rows},
};
use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// `(x - mean) / sqrt(variance + eps) * weight` over the last dimension.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{nn::{init::Init, norm::LayerNorm}};
///
/// let device = Default::default();
/// let norm = LayerNorm::<Flex>::new(4, 1e-6, &Init::new(0, &device));
/// let y = norm.forward(Tensor::<_, 2>::from_floats([[1.0, 2.0, 3.0, 4.0]], &device));
/// assert!(y.mean().into_scalar().abs() < 1e-6);
/// ```
#[derive(Module, Debug)]
pub struct LayerNorm<B: DitBackend> {
    /// `[dim]`.
    pub weight: Param<Tensor<B, 1>>,
    eps: f64,
}

/// Shift and scale of an adaptive norm, each `[batch, dim]`.
#[derive(Clone, Debug)]
pub struct Modulation<B: DitBackend> {
    /// Added after the scale.
    pub shift: Tensor<B, 2>,
    /// `1 + scale` multiplies.
    pub scale: Tensor<B, 2>,
}

impl<B: DitBackend> LayerNorm<B> {
    /// A norm over `dim` channels, weight 1.
    pub fn new(dim: usize, eps: f64, init: &Init<'_, B>) -> Self {
        Self {
            weight: init.constant([dim], 1.0),
            eps,
        }
    }

    /// Normalizes over the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        over_rows(x, |x| B::norm(x, self.weight.val(), self.eps))
    }

    /// `norm(x) * (1 + scale) + shift` for `x` `[batch, tokens, dim]`.
    pub fn modulated(&self, x: Tensor<B, 3>, modulation: Modulation<B>) -> Tensor<B, 3> {
        B::modulated_norm(
            x,
            self.weight.val(),
            modulation.shift,
            modulation.scale,
            self.eps,
        )
    }
}

/// [`LayerNorm`] plus a bias: PyTorch's.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::nn::{init::Init, norm::BiasedLayerNorm};
///
/// let device = Default::default();
/// let norm = BiasedLayerNorm::<Flex>::new(4, 1e-5, &Init::new(0, &device));
/// let y = norm.forward(Tensor::<_, 2>::from_floats([[1.0, 2.0, 3.0, 4.0]], &device));
/// assert!(y.mean().into_scalar().abs() < 1e-6);
/// ```
#[derive(Module, Debug)]
pub struct BiasedLayerNorm<B: DitBackend> {
    /// `[dim]`.
    pub weight: Param<Tensor<B, 1>>,
    /// `[dim]`.
    pub bias: Param<Tensor<B, 1>>,
    eps: f64,
}

impl<B: DitBackend> BiasedLayerNorm<B> {
    /// A norm over `dim` channels, weight 1, bias 0.
    pub fn new(dim: usize, eps: f64, init: &Init<'_, B>) -> Self {
        Self {
            weight: init.constant([dim], 1.0),
            bias: init.constant([dim], 0.0),
            eps,
        }
    }

    /// Normalizes over the last dimension.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let bias = self.bias.val().unsqueeze();
        over_rows(x, |x| B::norm(x, self.weight.val(), self.eps) + bias)
    }
}
