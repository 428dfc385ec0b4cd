//! Fused operations for burn's CPU backend. Residual stream, norms and weights are f32; what products take and give is f32 or
//! bf16, which differ in memory and in how products are computed: everything else is computed in f32. Other types of numbers
//! take the composed operations.
//!
//! Work is split by rows, samples or experts, so that results do not depend on the number of threads.

mod adam;
mod attention;
mod bf16;
mod buffer;
mod convolution;
mod experts;
mod group_norm;
mod matrix;
mod norm;
mod number;
mod packed;
mod patches;
mod pointwise;
mod products;
mod simd;
mod small;
mod winograd;

use super::{
    Collectives, DitBackend, ExpertGrads, ExpertInputs, GroupNormGrads, GroupNormOptions,
    ModulatedNormGrads, composed,
};
use crate::worker_pool::KeepAwake;
use attention::Heads;
use burn::tensor::{
    DType, Int, Shape, Tensor, TensorPrimitive, activation::gelu_approximate,
    ops::PaddedConvOptions,
};
use burn_flex::{Flex, FlexTensor};
use convolution::Convolution;
use group_norm::Runs;
use norm::Groups;
use number::Number;

/// Rows that share one partial sum in the gradient of a norm's weight.
const NORM_ROWS: usize = 64;

/// The tensor in one piece of memory.
fn flat<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    x.into_primitive().tensor().to_contiguous()
}

/// A tensor of new values.
fn tensor<N: Number, const D: usize>(values: Vec<N>, shape: [usize; D]) -> Tensor<Flex, D> {
    let data = burn::tensor::TensorData::new(values, Shape::from(shape));
    Tensor::from_primitive(TensorPrimitive::Float(FlexTensor::from_data(data)))
}

fn is_f32<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::F32
}

/// Whether it is of a type that products take.
fn is_narrow<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::BF16
}

/// The elements of contiguous tensors.
fn slices<N: Number, const K: usize>(tensors: &[FlexTensor; K]) -> [&[N]; K] {
    tensors.each_ref().map(FlexTensor::storage)
}

/// `$run` with `$N` the type of all of these tensors, if that is f32 or bf16, else `$otherwise`.
macro_rules! by_number {
    ([$first:expr $(, $x:expr)*], $N:ident => $run:expr, $otherwise:expr) => {
        match ($first.dtype(), true $(&& $x.dtype() == $first.dtype())*) {
            (DType::F32, true) => {
                type $N = f32;
                $run
            }
            (DType::BF16, true) => {
                type $N = burn::tensor::bf16;
                $run
            }
            _ => $otherwise,
        }
    };
}

/// How a group norm divides images `[batch, channels, height, width]`.
fn runs([_, channels, height, width]: [usize; 4], options: GroupNormOptions) -> Runs {
    Runs {
        channels: channels / options.groups,
        groups: options.groups,
        pixels: height * width,
        eps: options.eps as f32,
        silu: options.silu,
    }
}

/// The sizes of a convolution that the kernels here compute.
fn sizes_in_f32(
    x: &Tensor<Flex, 4>,
    weight: &Tensor<Flex, 4>,
    options: &PaddedConvOptions<2>,
) -> Option<Convolution> {
    (is_f32(x) && is_f32(weight))
        .then(|| Convolution::new(x.dims(), weight.dims(), options))
        .flatten()
}

/// The same in f32.
fn wide<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    Flex::cast(x, DType::F32)
}

/// Whether there are kernels for experts with these weights.
fn are_f32(inputs: &ExpertInputs<Flex>) -> bool {
    is_f32(&inputs.weights) && is_f32(&inputs.w1) && is_f32(&inputs.w2)
}

impl DitBackend for Flex {
    fn keep_awake() -> Option<KeepAwake> {
        Some(KeepAwake::new())
    }

    fn bf16_advice() -> Option<&'static str> {
        (!bf16::has_instruction()).then_some(
            "this processor has no AVX512-BF16: products in bf16 save memory but take longer than in f32, \
             which model.precision=F32 computes in",
        )
    }

    fn cast<const D: usize>(x: Tensor<Flex, D>, dtype: DType) -> Tensor<Flex, D> {
        let shape = x.dims();
        match (x.dtype(), dtype) {
            (DType::F32, DType::BF16) => {
                let narrow = pointwise::convert::<f32, burn::tensor::bf16>(flat(x).storage());
                tensor(narrow, shape)
            }
            (DType::BF16, DType::F32) => {
                let wide = pointwise::convert::<burn::tensor::bf16, f32>(flat(x).storage());
                tensor(wide, shape)
            }
            _ => x.cast(dtype),
        }
    }

    fn project(
        x: Tensor<Flex, 2>,
        weight: Tensor<Flex, 2>,
        bias: Option<Tensor<Flex, 1>>,
    ) -> Tensor<Flex, 2> {
        if !is_f32(&weight) {
            return composed::project(x, weight, bias);
        }
        by_number!(
            [x],
            N => {
                let ([rows, input], [output, _]) = (x.dims(), weight.dims());
                let (x, weight, bias) = (flat(x), flat(weight), bias.map(flat));
                let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
                let sizes = [rows, input, output];
                let y = products::project::<N>(x.storage(), weight.storage(), bias, sizes);
                tensor(y, [rows, output])
            },
            composed::project(x, weight, bias)
        )
    }

    fn project_backward(
        x: Tensor<Flex, 2>,
        weight: Tensor<Flex, 2>,
        grad: Tensor<Flex, 2>,
    ) -> (Tensor<Flex, 2>, Tensor<Flex, 2>) {
        if !is_f32(&weight) {
            return composed::project_backward(x, weight, grad);
        }
        by_number!(
            [x, grad],
            N => {
                let ([rows, input], [output, _]) = (x.dims(), weight.dims());
                let (x, weight, grad) = (flat(x), flat(weight), flat(grad));
                let (x_grad, weight_grad) = products::project_backward::<N>(
                    x.storage(),
                    weight.storage(),
                    grad.storage(),
                    [rows, input, output],
                );
                (
                    tensor(x_grad, [rows, input]),
                    tensor(weight_grad, [output, input]),
                )
            },
            composed::project_backward(x, weight, grad)
        )
    }

    fn sum_rows(x: Tensor<Flex, 2>) -> Tensor<Flex, 1> {
        by_number!(
            [x],
            N => {
                let [_, dim] = x.dims();
                tensor(pointwise::sum_rows::<N>(flat(x).storage(), dim), [dim])
            },
            composed::sum_rows(x)
        )
    }

    fn norm(x: Tensor<Flex, 2>, weight: Tensor<Flex, 1>, eps: f64) -> Tensor<Flex, 2> {
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
        tensor(norm::forward(x, weight, None, groups, eps as f32), shape)
    }

    fn norm_backward(
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

    fn modulated_norm(
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
        tensor(
            norm::forward(x, gain, Some(shift), groups, eps as f32),
            shape,
        )
    }

    fn modulated_norm_backward(
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

    fn residual(x: Tensor<Flex, 3>, update: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        assert_eq!(x.dims(), update.dims(), "shapes of a residual");
        if !is_f32(&x) {
            let dtype = x.dtype();
            return x + update.cast(dtype);
        }
        by_number!(
            [update],
            N => {
                let shape = x.dims();
                let (x, update) = (flat(x), flat(update));
                let sum = pointwise::residual::<N>(x.storage(), update.storage());
                tensor(sum, shape)
            },
            x + update.cast(DType::F32)
        )
    }

    fn gated_residual(
        x: Tensor<Flex, 3>,
        update: Tensor<Flex, 3>,
        gate: Tensor<Flex, 2>,
    ) -> Tensor<Flex, 3> {
        if !is_f32(&x) || !is_f32(&gate) {
            return composed::gated_residual(x, update, gate);
        }
        by_number!(
            [update],
            N => {
                let shape @ [_, tokens, dim] = x.dims();
                let tensors = [flat(x), flat(gate)];
                let ([x, gate], update) = (slices(&tensors), flat(update));
                let update = update.storage::<N>();
                tensor(
                    pointwise::gated_residual(x, update, gate, tokens, dim),
                    shape,
                )
            },
            composed::gated_residual(x, update, gate)
        )
    }

    fn gated_residual_backward(
        update: Tensor<Flex, 3>,
        gate: Tensor<Flex, 2>,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 2>) {
        if !is_f32(&grad) || !is_f32(&gate) {
            return composed::gated_residual_backward(update, gate, grad);
        }
        by_number!(
            [update],
            N => {
                let shape @ [batch, tokens, dim] = update.dims();
                let tensors = [flat(gate), flat(grad)];
                let ([gate, grad], update) = (slices(&tensors), flat(update));
                let update = update.storage::<N>();
                let (update, gate) =
                    pointwise::gated_residual_backward(update, gate, grad, tokens, dim);
                (tensor(update, shape), tensor(gate, [batch, dim]))
            },
            composed::gated_residual_backward(update, gate, grad)
        )
    }

    fn tanh_gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
        by_number!(
            [x],
            N => {
                let shape = x.dims();
                tensor(pointwise::gelu::<N>(flat(x).storage()), shape)
            },
            gelu_approximate(x)
        )
    }

    fn tanh_gelu_backward(x: Tensor<Flex, 2>, grad: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
        by_number!(
            [x, grad],
            N => {
                let shape = x.dims();
                let tensors = [flat(x), flat(grad)];
                let [x, grad] = slices::<N, _>(&tensors);
                tensor(pointwise::gelu_backward(x, grad), shape)
            },
            composed::gelu_backward(x, grad)
        )
    }

    fn swiglu(gate: Tensor<Flex, 3>, x: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        by_number!(
            [gate, x],
            N => {
                let shape = x.dims();
                let tensors = [flat(gate), flat(x)];
                let [gate, x] = slices::<N, _>(&tensors);
                tensor(pointwise::swiglu(gate, x), shape)
            },
            composed::swiglu(gate, x)
        )
    }

    fn swiglu_backward(
        gate: Tensor<Flex, 3>,
        x: Tensor<Flex, 3>,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        by_number!(
            [gate, x, grad],
            N => {
                let shape = x.dims();
                let tensors = [flat(gate), flat(x), flat(grad)];
                let [gate, x, grad] = slices::<N, _>(&tensors);
                let (gate, x) = pointwise::swiglu_backward(gate, x, grad);
                (tensor(gate, shape), tensor(x, shape))
            },
            composed::swiglu_backward(gate, x, grad)
        )
    }

    fn self_attention(qkv: Tensor<Flex, 3>, heads: usize, eps: f64) -> Tensor<Flex, 3> {
        by_number!(
            [qkv],
            N => attention::packed::<N>(qkv, Heads::normed(heads, eps)),
            composed::self_attention(qkv, heads, eps)
        )
    }

    fn self_attention_backward(
        qkv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Flex, 3>,
    ) -> Tensor<Flex, 3> {
        by_number!(
            [qkv, grad],
            N => attention::packed_backward::<N>(qkv, Heads::normed(heads, eps), grad),
            composed::self_attention_backward(qkv, heads, eps, grad)
        )
    }

    fn cross_attention(
        q: Tensor<Flex, 3>,
        kv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Flex, 3> {
        by_number!(
            [q, kv],
            N => attention::half_packed::<N>(q, kv, Heads::normed(heads, eps)),
            composed::cross_attention(q, kv, heads, eps)
        )
    }

    fn cross_attention_backward(
        q: Tensor<Flex, 3>,
        kv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        by_number!(
            [q, kv, grad],
            N => attention::half_packed_backward::<N>(q, kv, Heads::normed(heads, eps), grad),
            composed::cross_attention_backward(q, kv, heads, eps, grad)
        )
    }

    fn plain_attention(
        q: Tensor<Flex, 3>,
        k: Tensor<Flex, 3>,
        v: Tensor<Flex, 3>,
        heads: usize,
    ) -> Tensor<Flex, 3> {
        by_number!(
            [q, k, v],
            N => attention::apart::<N>(q, k, v, Heads::plain(heads)),
            composed::plain_attention(q, k, v, heads)
        )
    }

    fn plain_attention_backward(
        q: Tensor<Flex, 3>,
        k: Tensor<Flex, 3>,
        v: Tensor<Flex, 3>,
        heads: usize,
        grad: Tensor<Flex, 3>,
    ) -> [Tensor<Flex, 3>; 3] {
        by_number!(
            [q, k, v, grad],
            N => attention::apart_backward::<N>(q, k, v, Heads::plain(heads), grad),
            composed::plain_attention_backward(q, k, v, heads, grad)
        )
    }

    fn geglu(x: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        by_number!(
            [x],
            N => {
                let [batch, tokens, packed] = x.dims();
                let out = pointwise::geglu::<N>(flat(x).storage(), packed / 2);
                tensor(out, [batch, tokens, packed / 2])
            },
            composed::geglu(x)
        )
    }

    fn geglu_backward(x: Tensor<Flex, 3>, grad: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        by_number!(
            [x, grad],
            N => {
                let shape @ [_, _, packed] = x.dims();
                let tensors = [flat(x), flat(grad)];
                let [x, grad] = slices::<N, _>(&tensors);
                tensor(pointwise::geglu_backward(x, grad, packed / 2), shape)
            },
            composed::geglu_backward(x, grad)
        )
    }

    fn group_norm(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 1>,
        bias: Tensor<Flex, 1>,
        options: GroupNormOptions,
    ) -> Tensor<Flex, 4> {
        if !is_f32(&x) || !is_f32(&weight) {
            return composed::group_norm(x, weight, bias, options);
        }
        let shape = x.dims();
        let tensors = [flat(x), flat(weight), flat(bias)];
        let [x, weight, bias] = slices(&tensors);
        let runs = runs(shape, options);
        tensor(group_norm::forward(x, weight, bias, runs), shape)
    }

    fn group_norm_backward(
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

    fn convolution(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 4>,
        bias: Option<Tensor<Flex, 1>>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Flex, 4> {
        if is_narrow(&x) {
            let wide = Self::convolution(wide(x), wide(weight), bias.map(wide), options);
            return Self::cast(wide, DType::BF16);
        }
        let Some(sizes) = sizes_in_f32(&x, &weight, options) else {
            return composed::convolution(x, weight, bias, options);
        };
        let (tensors, bias) = ([flat(x), flat(weight)], bias.map(flat));
        let [x, weight] = slices(&tensors);
        let bias = bias.as_ref().map(FlexTensor::storage::<f32>);
        tensor(sizes.forward(x, weight, bias), sizes.output_shape())
    }

    fn convolution_backward(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 4>,
        options: &PaddedConvOptions<2>,
        grad: Tensor<Flex, 4>,
    ) -> (Tensor<Flex, 4>, Tensor<Flex, 4>) {
        if is_narrow(&x) {
            let dtype = weight.dtype();
            let (x, weight) =
                Self::convolution_backward(wide(x), wide(weight), options, wide(grad));
            return (Self::cast(x, DType::BF16), Self::cast(weight, dtype));
        }
        let Some(sizes) = sizes_in_f32(&x, &weight, options) else {
            return composed::convolution_backward(x, weight, options, grad);
        };
        let (x_shape, weight_shape) = (x.dims(), weight.dims());
        let tensors = [flat(x), flat(weight), flat(grad)];
        let [x, weight, grad] = slices(&tensors);
        (
            tensor(sizes.input_gradient(weight, grad), x_shape),
            tensor(sizes.weight_gradient(x, grad), weight_shape),
        )
    }

    fn sum_pixels(x: Tensor<Flex, 4>) -> Tensor<Flex, 1> {
        if is_narrow(&x) {
            return Self::sum_pixels(wide(x));
        }
        let [_, channels, height, width] = x.dims();
        if !is_f32(&x) || height * width == 0 {
            return composed::sum_pixels(x);
        }
        let sums = pointwise::sum_pixels(flat(x).storage(), channels, height * width);
        tensor(sums, [channels])
    }

    fn top_k(scores: Tensor<Flex, 3>, taken: usize) -> Tensor<Flex, 3, Int> {
        scores
            .sort_descending_with_indices(2)
            .1
            .slice_dim(2, 0..taken)
    }

    fn experts(inputs: ExpertInputs<Flex>) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        if !are_f32(&inputs) {
            return composed::experts(inputs);
        }
        by_number!(
            [inputs.x],
            N => {
                let shape = inputs.x.dims();
                experts::with::<N, _>(inputs, |layer, x| {
                    let (out, hidden) = layer.forward(x);
                    let hidden_shape = [layer.experts, layer.rows(), layer.hidden];
                    (tensor(out, shape), tensor(hidden, hidden_shape))
                })
            },
            composed::experts(inputs)
        )
    }

    fn experts_backward(
        inputs: ExpertInputs<Flex>,
        hidden: Tensor<Flex, 3>,
        grad: Tensor<Flex, 3>,
    ) -> ExpertGrads<Flex> {
        if !are_f32(&inputs) {
            return composed::experts_backward(inputs, hidden, grad);
        }
        by_number!(
            [inputs.x, hidden, grad],
            N => {
                let (x, weights) = (inputs.x.dims(), inputs.weights.dims());
                let (w1, w2) = (inputs.w1.dims(), inputs.w2.dims());
                let tensors = [flat(hidden), flat(grad)];
                experts::with::<N, _>(inputs, |layer, tokens| {
                    let [hidden, grad] = slices(&tensors);
                    let grads = layer.backward(tokens, hidden, grad);
                    ExpertGrads {
                        x: tensor(grads.x, x),
                        weights: tensor(grads.weights, weights),
                        w1: tensor(grads.w1, w1),
                        w2: tensor(grads.w2, w2),
                    }
                })
            },
            composed::experts_backward(inputs, hidden, grad)
        )
    }
}

impl Collectives for Flex {
    const BESIDE: bool = false;
}
