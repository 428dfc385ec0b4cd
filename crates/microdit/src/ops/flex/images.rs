//! Operations on images `[batch, channels, height, width]`: convolutions, group norm, sums over pixels.

use super::{
    convolution::Convolution,
    group_norm::{self, Runs},
    pointwise,
    tensors::{by_number, flat, is_f32, is_narrow, slices, tensor, wide},
};
use crate::ops::{DitBackend as _, GroupNormGrads, GroupNormOptions, composed};
use burn::tensor::{DType, Tensor, ops::PaddedConvOptions};
use burn_flex::{Flex, FlexTensor};

/// The sizes of a convolution that the kernels here compute.
fn sizes(
    x: &Tensor<Flex, 4>,
    weight: &Tensor<Flex, 4>,
    options: &PaddedConvOptions<2>,
) -> Option<Convolution> {
    (is_f32(x) || is_narrow(x))
        .then(|| Convolution::new(x.dims(), weight.dims(), options))
        .flatten()
}

pub(super) fn convolution(
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 4>,
    bias: Option<Tensor<Flex, 1>>,
    options: &PaddedConvOptions<2>,
) -> Tensor<Flex, 4> {
    let Some(sizes) = sizes(&x, &weight, options) else {
        return in_f32(x, |x| composed::convolution(x, weight, bias, options));
    };
    by_number!(
        [x],
        N => {
            let (x, weight, bias) = (flat(x), flat(wide(weight)), bias.map(|bias| flat(wide(bias))));
            let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
            let out = sizes.forward::<N>(x.storage(), weight.storage(), bias);
            tensor(out, sizes.output_shape())
        },
        composed::convolution(x, weight, bias, options)
    )
}

/// What `compute` makes of an image, in f32 if it is bf16; the result is rounded again.
fn in_f32(
    x: Tensor<Flex, 4>,
    compute: impl FnOnce(Tensor<Flex, 4>) -> Tensor<Flex, 4>,
) -> Tensor<Flex, 4> {
    match is_narrow(&x) {
        true => Flex::cast(compute(wide(x)), DType::BF16),
        false => compute(x),
    }
}

pub(super) fn convolution_backward(
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 4>,
    options: &PaddedConvOptions<2>,
    grad: Tensor<Flex, 4>,
) -> (Tensor<Flex, 4>, Tensor<Flex, 4>) {
    let (dtype, grad) = (weight.dtype(), Flex::cast(grad, x.dtype()));
    let Some(sizes) = sizes(&x, &weight, options) else {
        let narrow = is_narrow(&x);
        let [x, weight, grad] = [x, weight, grad].map(|x| if narrow { wide(x) } else { x });
        let (x, weight) = composed::convolution_backward(x, weight, options, grad);
        let x = if narrow {
            Flex::cast(x, DType::BF16)
        } else {
            x
        };
        return (x, Flex::cast(weight, dtype));
    };
    by_number!(
        [x, grad],
        N => {
            let (x_shape, weight_shape) = (x.dims(), weight.dims());
            let (weight, narrow) = (flat(wide(weight)), flat(grad.clone()));
            let x_grad = sizes.input_gradient::<N>(weight.storage(), narrow.storage());
            // Weights' gradients are f32, and computed in it.
            let tensors = [flat(wide(x)), flat(wide(grad))];
            let [x, grad] = slices(&tensors);
            let weight_grad = tensor(sizes.weight_gradient(x, grad), weight_shape);
            (tensor(x_grad, x_shape), Flex::cast(weight_grad, dtype))
        },
        composed::convolution_backward(x, weight, options, grad)
    )
}

pub(super) fn sum_pixels(x: Tensor<Flex, 4>) -> Tensor<Flex, 1> {
    let [_, channels, height, width] = x.dims();
    if height * width == 0 {
        return composed::sum_pixels(x);
    }
    by_number!(
        [x],
        N => {
            let sums = pointwise::sum_pixels::<N>(flat(x).storage(), channels, height * width);
            tensor(sums, [channels])
        },
        composed::sum_pixels(x)
    )
}

/// How a group norm divides images.
fn runs([_, channels, height, width]: [usize; 4], options: GroupNormOptions) -> Runs {
    Runs {
        channels: channels / options.groups,
        groups: options.groups,
        pixels: height * width,
        eps: options.eps as f32,
        silu: options.silu,
    }
}

pub(super) fn group_norm(
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 1>,
    bias: Tensor<Flex, 1>,
    options: GroupNormOptions,
) -> Tensor<Flex, 4> {
    if !is_f32(&weight) {
        return composed::group_norm(x, weight, bias, options);
    }
    by_number!(
        [x],
        N => {
            let (shape, x) = (x.dims(), flat(x));
            let tensors = [flat(weight), flat(bias)];
            let [weight, bias] = slices(&tensors);
            let out = group_norm::forward::<N>(x.storage(), weight, bias, runs(shape, options));
            tensor(out, shape)
        },
        composed::group_norm(x, weight, bias, options)
    )
}

pub(super) fn group_norm_backward(
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 1>,
    bias: Tensor<Flex, 1>,
    options: GroupNormOptions,
    grad: Tensor<Flex, 4>,
) -> GroupNormGrads<Flex> {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::group_norm_backward(x, weight, bias, options, grad);
    }
    let shape @ [_, channels, _, _] = x.dims();
    let tensors = [flat(x), flat(weight), flat(bias), flat(grad)];
    let [x, weight, bias, grad] = slices(&tensors);
    let grads = group_norm::backward(x, weight, bias, grad, runs(shape, options));
    let sum = |by_image: &[f32]| tensor(pointwise::sum_rows(by_image, channels), [channels]);
    GroupNormGrads {
        x: tensor(grads.x, shape),
        weight: sum(&grads.weight),
        bias: sum(&grads.bias),
    }
}
