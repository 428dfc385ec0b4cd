//! A linear layer whose weight has PyTorch's layout, so that a checkpoint is the memory as it stands.

use crate::ops::{DitBackend, over_rows};
use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// `y = x W^T + b` over the last dimension; built by [`Init`](crate::init::Init).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::init::{Init, STD};
///
/// let device = Default::default();
/// let linear = Init::<Flex>::new(0, &device).linear(8, 4, true, STD);
/// assert_eq!(linear.weight.dims(), [4, 8]);
/// assert_eq!(linear.forward(Tensor::<_, 2>::ones([5, 8], &device)).dims(), [5, 4]);
/// ```
#[derive(Module, Debug)]
pub struct Linear<B: DitBackend> {
    /// `[output, input]`.
    pub weight: Param<Tensor<B, 2>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: DitBackend> Linear<B> {
    /// `[..., input]` to `[..., output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        over_rows(x, |x| {
            B::project(x, self.weight.val(), self.bias.as_ref().map(Param::val))
        })
    }
}
