//! A linear layer whose weight has PyTorch's layout, so that a checkpoint holds the memory as it is.

use crate::{
    nn::{Precision, params::Roles, storage::whole},
    ops::{DitBackend, over_rows},
};
use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// `y = x W^T + b` over the last dimension; built by [`Init`](crate::nn::init::Init).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::nn::init::{Init, STD};
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
    pub(crate) bf16: bool,
}

impl<B: DitBackend> Linear<B> {
    /// `[..., input]` to `[..., output]`, which is f32 whatever the product was computed in.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        Precision::of(self.bf16).leave(self.compute(x))
    }

    /// The same, left in the type it was computed in: for operations that continue in it.
    pub(crate) fn compute<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let (weight, bias) = self.values();
        over_rows(self.enter(x), |x| B::project(x, weight, bias))
    }

    /// The same of a tensor that many layers take, each of which would keep a copy in the type it computes in.
    pub(crate) fn compute_shared<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let (weight, bias) = self.values();
        let dtype = Precision::of(self.bf16).dtype();
        over_rows(x, |x| B::project_as(x, weight, bias, dtype))
    }

    /// Weight and bias, for operations that end in this layer's.
    pub(crate) fn values(&self) -> (Tensor<B, 2>, Option<Tensor<B, 1>>) {
        (whole(self.weight.val()), self.bias.as_ref().map(Param::val))
    }

    /// A tensor in the type it computes in, for several layers that take the same.
    pub(crate) fn enter<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        Precision::of(self.bf16).enter(x)
    }

    /// The same layer, which computes in f32 whatever the others do.
    #[must_use]
    pub(crate) fn in_f32(mut self) -> Self {
        self.bf16 = false;
        self
    }
}

impl<B: DitBackend> Roles for Linear<B> {}
