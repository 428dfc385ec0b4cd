//! Operations on images `[batch, channels, height, width]`.

use super::{
    super::{GroupNormGrads, GroupNormOptions},
    normed, through_norm, wide,
};
use burn::tensor::{
    Tensor, TensorPrimitive,
    activation::{sigmoid, silu},
    backend::Backend,
    module::conv2d,
    ops::{ConvOptions, PaddedConvOptions},
};

/// The normed groups `[batch x groups, channels / groups x pixels]` of an image, and `1 / sqrt(variance + eps)` of each.
fn normed_groups<B: Backend>(
    x: Tensor<B, 4>,
    options: GroupNormOptions,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let rows = x.dims()[0] * options.groups;
    let of_group = x.shape().num_elements() / rows;
    normed(x.reshape([rows, of_group]), options.eps)
}

pub fn group_norm<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    options: GroupNormOptions,
) -> Tensor<B, 4> {
    let (shape @ [_, channels, _, _], dtype) = (x.dims(), x.dtype());
    let of_channel = |x: Tensor<B, 1>| x.reshape([1, channels, 1, 1]);
    let normed = normed_groups(wide(x), options).0.reshape(shape);
    let y = normed * of_channel(weight) + of_channel(bias);
    let y = match options.silu {
        true => silu(y),
        false => y,
    };
    y.cast(dtype)
}

pub fn group_norm_backward<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    options: GroupNormOptions,
    grad: Tensor<B, 4>,
) -> GroupNormGrads<B> {
    let (shape @ [_, channels, _, _], dtype) = (x.dims(), x.dtype());
    let of_channel = |x: Tensor<B, 1>| x.reshape([1, channels, 1, 1]);
    let (normed, inverse) = normed_groups(wide(x), options);
    let grad = wide(grad);
    let pixels = normed.clone().reshape(shape);
    let weight = of_channel(weight);
    let grad = match options.silu {
        true => {
            let y = pixels.clone() * weight.clone() + of_channel(bias);
            let s = sigmoid(y.clone());
            grad * s.clone() * (y * (-s + 1.0) + 1.0)
        }
        false => grad,
    };
    let sum = |x: Tensor<B, 4>| x.sum_dims(&[0, 2, 3]).reshape([channels]);
    let through = (grad.clone() * weight).reshape(normed.dims());
    GroupNormGrads {
        x: through_norm(normed, inverse, through)
            .reshape(shape)
            .cast(dtype),
        weight: sum(grad.clone() * pixels),
        bias: sum(grad),
    }
}

pub fn convolution<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    options: &PaddedConvOptions<2>,
) -> Tensor<B, 4> {
    let dtype = x.dtype();
    let (weight, bias) = (weight.cast(dtype), bias.map(|bias| bias.cast(dtype)));
    let Some(end) = options.padding_end else {
        return conv2d(x, weight, bias, options.options.clone());
    };
    let (begin, unpadded) = unpadded(&options.options);
    conv2d(padded(x, begin, end), weight, bias, unpadded)
}

/// Zeros around images: rows and columns before and behind. (burn's own padding is of the backend's default type.)
fn padded<B: Backend>(x: Tensor<B, 4>, begin: [usize; 2], end: [usize; 2]) -> Tensor<B, 4> {
    let around = |x: Tensor<B, 4>, dim: usize, before: usize, behind: usize| {
        let zeros = x.clone().narrow(dim, 0, 1).zeros_like();
        let zeros = |count: usize| (count > 0).then(|| zeros.clone().repeat_dim(dim, count));
        let parts = [zeros(before), Some(x), zeros(behind)];
        Tensor::cat(parts.into_iter().flatten().collect(), dim)
    };
    let x = around(x, 2, begin[0], end[0]);
    around(x, 3, begin[1], end[1])
}

/// The padding before an image, and the same convolution without any.
fn unpadded(options: &ConvOptions<2>) -> ([usize; 2], ConvOptions<2>) {
    let unpadded = ConvOptions::new(options.stride, [0; 2], options.dilation, options.groups);
    (options.padding, unpadded)
}

pub fn convolution_backward<B: Backend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    options: &PaddedConvOptions<2>,
    grad: Tensor<B, 4>,
) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let PaddedConvOptions {
        options,
        padding_end,
    } = options;
    let dtype = weight.dtype();
    let weight = weight.cast(x.dtype());
    let Some(end) = *padding_end else {
        let [x, weight, grad] = [x, weight, grad].map(|x| x.into_primitive().tensor());
        let x_grad = B::conv2d_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone());
        let weight_grad = B::conv2d_weight_backward(x, weight, grad, options.clone());
        let [x, weight] = [x_grad, weight_grad].map(TensorPrimitive::Float);
        let weight = Tensor::<B, 4>::from_primitive(weight).cast(dtype);
        return (Tensor::from_primitive(x), weight);
    };
    // Unequal padding is a part of the input.
    let [_, _, height, width] = x.dims();
    let (begin @ [top, left], unpadded) = unpadded(options);
    let x = padded(x, begin, end);
    let (x_grad, weight_grad) = convolution_backward(x, weight, &unpadded.into(), grad);
    (
        x_grad.narrow(2, top, height).narrow(3, left, width),
        weight_grad.cast(dtype),
    )
}

pub fn sum_pixels<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 1> {
    let [batch, channels, height, width] = x.dims();
    let sums = wide(x)
        .reshape([batch, channels, height * width])
        .sum_dim(2);
    sums.sum_dim(0).reshape([channels])
}
