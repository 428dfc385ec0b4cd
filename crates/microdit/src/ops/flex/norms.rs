//! Norms of tensors.

use super::{
    norm::{self, Groups},
    pointwise,
    tensors::{flat, is_f32, slices, tensor},
};
use crate::{
    nn::Precision,
    ops::{ModulatedNormGrads, composed},
};
use burn::tensor::{Tensor, bf16};
use burn_flex::Flex;

/// Rows that share one partial sum in the gradient of a norm's weight.
const NORM_ROWS: usize = 64;

pub(super) fn norm(x: Tensor<Flex, 2>, weight: Tensor<Flex, 1>, eps: f64) -> Tensor<Flex, 2> {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::norm(x, eps) * weight.unsqueeze();
    }
    let shape @ [_, dim] = x.dims();
    let tensors = [flat(x), flat(weight)];
    let [x, weight] = slices(&tensors);
    let groups = Groups {
        dim,
        rows: NORM_ROWS,
    };
    let normed = norm::forward::<f32>(x, weight, None, groups, eps as f32);
    tensor(normed, shape)
}

pub(super) fn norm_backward(
    x: Tensor<Flex, 2>,
    weight: Tensor<Flex, 1>,
    eps: f64,
    grad: Tensor<Flex, 2>,
) -> (Tensor<Flex, 2>, Tensor<Flex, 1>) {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::norm_backward(x, weight, eps, grad);
    }
    let shape @ [_, dim] = x.dims();
    let tensors = [flat(x), flat(weight), flat(grad)];
    let [x, weight, grad] = slices(&tensors);
    let groups = Groups {
        dim,
        rows: NORM_ROWS,
    };
    let grads = norm::backward(x, weight, grad, groups, eps as f32);
    (
        tensor(grads.x, shape),
        tensor(pointwise::sum_rows(&grads.along, dim), [dim]),
    )
}

pub(super) fn affine_norm(
    x: Tensor<Flex, 3>,
    weight: Tensor<Flex, 1>,
    bias: Tensor<Flex, 1>,
    eps: f64,
    precision: Precision,
) -> Tensor<Flex, 3> {
    if !is_f32(&x) || !is_f32(&weight) || !is_f32(&bias) {
        return composed::affine_norm(x, weight, bias, eps, precision);
    }
    let shape @ [.., dim] = x.dims();
    assert_eq!([weight.dims(), bias.dims()], [[dim]; 2], "weight and bias");
    let tensors = [flat(x), flat(weight), flat(bias)];
    let [x, weight, bias] = slices(&tensors);
    let groups = Groups {
        dim,
        rows: NORM_ROWS,
    };
    match precision {
        Precision::F32 => tensor(
            norm::forward::<f32>(x, weight, Some(bias), groups, eps as f32),
            shape,
        ),
        Precision::Bf16 => tensor(
            norm::forward::<bf16>(x, weight, Some(bias), groups, eps as f32),
            shape,
        ),
    }
}

pub(super) fn rms_norm(
    x: Tensor<Flex, 3>,
    weight: Tensor<Flex, 1>,
    eps: f64,
    precision: Precision,
) -> Tensor<Flex, 3> {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::rms_norm(x, weight, eps, precision);
    }
    let shape @ [.., dim] = x.dims();
    assert_eq!(weight.dims(), [dim], "the weight");
    let tensors = [flat(x), flat(weight)];
    let [x, weight] = slices(&tensors);
    match precision {
        Precision::F32 => tensor(norm::root_mean_square::<f32>(x, weight, eps as f32), shape),
        Precision::Bf16 => tensor(norm::root_mean_square::<bf16>(x, weight, eps as f32), shape),
    }
}

pub(super) fn modulated_norm(
    x: Tensor<Flex, 3>,
    weight: Tensor<Flex, 1>,
    shift: Tensor<Flex, 2>,
    scale: Tensor<Flex, 2>,
    eps: f64,
) -> Tensor<Flex, 3> {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::modulated_norm(x, weight, shift, scale, eps);
    }
    let shape @ [_, rows, dim] = x.dims();
    let gain = (scale + 1.0) * weight.unsqueeze();
    let tensors = [flat(x), flat(gain), flat(shift)];
    let [x, gain, shift] = slices(&tensors);
    let groups = Groups { dim, rows };
    let normed = norm::forward::<f32>(x, gain, Some(shift), groups, eps as f32);
    tensor(normed, shape)
}

pub(super) fn modulated_norm_backward(
    x: Tensor<Flex, 3>,
    weight: Tensor<Flex, 1>,
    scale: Tensor<Flex, 2>,
    eps: f64,
    grad: Tensor<Flex, 3>,
) -> ModulatedNormGrads<Flex> {
    if !is_f32(&x) || !is_f32(&weight) {
        return composed::modulated_norm_backward(x, weight, scale, eps, grad);
    }
    let shape @ [batch, rows, dim] = x.dims();
    let (weight, scale) = (weight.unsqueeze::<2>(), scale + 1.0);
    let gain = scale.clone() * weight.clone();
    let tensors = [flat(x), flat(gain), flat(grad)];
    let [x, gain, grad] = slices(&tensors);
    let grads = norm::backward(x, gain, grad, Groups { dim, rows }, eps as f32);
    let along = tensor(grads.along, [batch, dim]);
    ModulatedNormGrads {
        x: tensor(grads.x, shape),
        weight: (along.clone() * scale).sum_dim(0).squeeze_dim(0),
        shift: tensor(grads.total, [batch, dim]),
        scale: along * weight,
    }
}
