//! A convolution whose weight has PyTorch's layout, so that a checkpoint holds the memory as it is.

use crate::{
    nn::{Precision, params::Roles, storage::whole},
    ops::{DitBackend, over_rows},
};
use burn::{
    module::{Module, Param},
    tensor::{
        Tensor,
        ops::{ConvOptions, PaddedConvOptions},
    },
};

/// A convolution with a square kernel of odd size that keeps height and width, or halves them with a stride of 2; built by
/// [`Init`](crate::nn::init::Init).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::nn::init::Init;
///
/// let device = Default::default();
/// let conv = Init::<Flex>::new(0, &device).conv(4, 8, 3, 2);
/// assert_eq!(conv.weight.dims(), [8, 4, 3, 3]);
/// // Odd sizes are halved upwards.
/// assert_eq!(conv.forward(Tensor::ones([1, 4, 6, 7], &device)).dims(), [1, 8, 3, 4]);
/// ```
#[derive(Module, Debug)]
pub struct Conv2d<B: DitBackend> {
    /// `[output, input, size, size]`.
    pub weight: Param<Tensor<B, 4>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
    pub(crate) stride: usize,
    pub(crate) bf16: bool,
}

impl<B: DitBackend> Conv2d<B> {
    /// `[batch, input, height, width]` to `[batch, output, height / stride, width / stride]`, rounded up, which is f32 whatever
    /// the products were computed in.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let precision = Precision::of(self.bf16);
        let [_, _, size, _] = self.weight.dims();
        let options = ConvOptions::new([self.stride; 2], [(size - 1) / 2; 2], [1; 2], 1);
        let options = PaddedConvOptions::from(options);
        let (weight, bias) = (whole(self.weight.val()), self.bias.as_ref().map(Param::val));
        precision.leave(B::convolution(precision.enter(x), weight, bias, &options))
    }

    /// A convolution of size 1 over pixels whose channels lie together: `[batch, pixels, input]` to `[batch, pixels, output]`.
    ///
    /// # Panics
    /// If its size is not 1.
    pub fn over_pixels(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [output, input, size, _] = self.weight.dims();
        assert_eq!(size, 1, "every pixel by itself");
        let precision = Precision::of(self.bf16);
        let bias = self.bias.as_ref().map(Param::val);
        let weight = whole(self.weight.val()).reshape([output, input]);
        precision.leave(over_rows(precision.enter(x), |x| {
            B::project(x, weight, bias)
        }))
    }
}

impl<B: DitBackend> Roles for Conv2d<B> {}
