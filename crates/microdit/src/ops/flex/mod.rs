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
mod images;
mod matrix;
mod norm;
mod norms;
mod number;
mod pointwise;
mod products;
mod simd;
mod small;
mod tensors;
mod transpose;

use super::{
    Activation, Collectives, DitBackend, ExpertGrads, ExpertInputs, GroupNormGrads,
    GroupNormOptions, ModulatedNormGrads, composed,
};
use crate::{nn::Precision, worker_pool::KeepAwake};
use attention::Heads;
use burn::tensor::{DType, Int, Tensor, activation::gelu_approximate, ops::PaddedConvOptions};
use burn_flex::{Flex, FlexTensor};
use tensors::{by_number, flat, is_f32, is_narrow, slices, tensor};

/// Whether products of bf16 are computed by the tiles of AMX.
pub(super) fn has_amx() -> bool {
    bf16::Unit::fastest() == bf16::Unit::Tiles
}

impl DitBackend for Flex {
    fn keep_awake() -> Option<KeepAwake> {
        Some(KeepAwake::new())
    }

    fn bf16_advice() -> Option<&'static str> {
        (!bf16::are_fast()).then_some(
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
        if bias.as_ref().is_some_and(|bias| !is_f32(bias)) {
            return composed::project(x, weight, bias);
        }
        let ([rows, input], [output, _]) = (x.dims(), weight.dims());
        let sizes = [rows, input, output];
        if is_narrow(&x) && is_narrow(&weight) {
            let (x, weight, bias) = (flat(x), flat(weight), bias.map(flat));
            let bias = bias.as_ref().map(FlexTensor::storage);
            let y = products::project_rounded(x.storage(), weight.storage(), bias, sizes);
            return tensor(y, [rows, output]);
        }
        if !is_f32(&weight) {
            return composed::project(x, weight, bias);
        }
        by_number!(
            [x],
            N => {
                let (x, weight, bias) = (flat(x), flat(weight), bias.map(flat));
                let bias = bias.as_ref().map(FlexTensor::storage);
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
        norms::norm(x, weight, eps)
    }

    fn norm_backward(
        x: Tensor<Flex, 2>,
        weight: Tensor<Flex, 1>,
        eps: f64,
        grad: Tensor<Flex, 2>,
    ) -> (Tensor<Flex, 2>, Tensor<Flex, 1>) {
        norms::norm_backward(x, weight, eps, grad)
    }

    fn affine_norm(
        x: Tensor<Flex, 3>,
        weight: Tensor<Flex, 1>,
        bias: Tensor<Flex, 1>,
        eps: f64,
        precision: Precision,
    ) -> Tensor<Flex, 3> {
        norms::affine_norm(x, weight, bias, eps, precision)
    }

    fn rms_norm(
        x: Tensor<Flex, 3>,
        weight: Tensor<Flex, 1>,
        eps: f64,
        precision: Precision,
    ) -> Tensor<Flex, 3> {
        norms::rms_norm(x, weight, eps, precision)
    }

    fn modulated_norm(
        x: Tensor<Flex, 3>,
        weight: Tensor<Flex, 1>,
        shift: Tensor<Flex, 2>,
        scale: Tensor<Flex, 2>,
        eps: f64,
    ) -> Tensor<Flex, 3> {
        norms::modulated_norm(x, weight, shift, scale, eps)
    }

    fn modulated_norm_backward(
        x: Tensor<Flex, 3>,
        weight: Tensor<Flex, 1>,
        scale: Tensor<Flex, 2>,
        eps: f64,
        grad: Tensor<Flex, 3>,
    ) -> ModulatedNormGrads<Flex> {
        norms::modulated_norm_backward(x, weight, scale, eps, grad)
    }

    fn residual(x: Tensor<Flex, 3>, update: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        assert_eq!(x.dims(), update.dims(), "shapes of a residual");
        let shape = x.dims();
        if is_narrow(&x) && is_narrow(&update) {
            let (x, update) = (flat(x), flat(update));
            let (x, update) = (x.storage::<burn::tensor::bf16>(), update.storage());
            return tensor(
                pointwise::residual::<_, burn::tensor::bf16>(x, update),
                shape,
            );
        }
        if !is_f32(&x) {
            let dtype = x.dtype();
            return x + update.cast(dtype);
        }
        by_number!(
            [update],
            N => {
                let (x, update) = (flat(x), flat(update));
                let sum = pointwise::residual::<f32, N>(x.storage(), update.storage());
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
                tensor(pointwise::activate::<N>(flat(x).storage(), Activation::GeluTanh), shape)
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
                tensor(pointwise::gated(gate, x, Activation::Silu), shape)
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

    fn packed_attention(qkv: Tensor<Flex, 3>, heads: usize, causal: bool) -> Tensor<Flex, 3> {
        by_number!(
            [qkv],
            N => {
                let heads = if causal { Heads::causal(heads) } else { Heads::plain(heads) };
                attention::packed::<N>(qkv, heads)
            },
            composed::packed_attention(qkv, heads, causal)
        )
    }

    fn biased_attention(
        qkv: Tensor<Flex, 3>,
        bias: Tensor<Flex, 3>,
        padding: Option<Tensor<Flex, 2>>,
    ) -> Tensor<Flex, 3> {
        if !is_f32(&bias) || padding.as_ref().is_some_and(|padding| !is_f32(padding)) {
            return composed::biased_attention(qkv, bias, padding);
        }
        by_number!(
            [qkv],
            N => {
                let ([batch, tokens, _], [heads, ..]) = (qkv.dims(), bias.dims());
                assert_eq!(bias.dims(), [heads, tokens, tokens], "the bias");
                if let Some(padding) = &padding {
                    assert_eq!(padding.dims(), [batch, tokens], "the padding");
                }
                let (bias, padding) = (flat(bias), padding.map(flat));
                let padding = padding.as_ref().map(FlexTensor::storage);
                attention::packed::<N>(qkv, Heads::biased(heads, bias.storage(), padding))
            },
            composed::biased_attention(qkv, bias, padding)
        )
    }

    fn activate(x: Tensor<Flex, 3>, activation: Activation) -> Tensor<Flex, 3> {
        by_number!(
            [x],
            N => {
                let shape = x.dims();
                tensor(pointwise::activate::<N>(flat(x).storage(), activation), shape)
            },
            composed::activate(x, activation)
        )
    }

    fn gated(gate: Tensor<Flex, 3>, x: Tensor<Flex, 3>, activation: Activation) -> Tensor<Flex, 3> {
        by_number!(
            [gate, x],
            N => {
                let shape = x.dims();
                let tensors = [flat(gate), flat(x)];
                let [gate, x] = slices::<N, _>(&tensors);
                tensor(pointwise::gated(gate, x, activation), shape)
            },
            composed::gated(gate, x, activation)
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
        images::group_norm(x, weight, bias, options)
    }

    fn group_norm_backward(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 1>,
        bias: Tensor<Flex, 1>,
        options: GroupNormOptions,
        grad: Tensor<Flex, 4>,
    ) -> GroupNormGrads<Flex> {
        images::group_norm_backward(x, weight, bias, options, grad)
    }

    fn convolution(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 4>,
        bias: Option<Tensor<Flex, 1>>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Flex, 4> {
        images::convolution(x, weight, bias, options)
    }

    fn convolution_backward(
        x: Tensor<Flex, 4>,
        weight: Tensor<Flex, 4>,
        options: &PaddedConvOptions<2>,
        grad: Tensor<Flex, 4>,
    ) -> (Tensor<Flex, 4>, Tensor<Flex, 4>) {
        images::convolution_backward(x, weight, options, grad)
    }

    fn sum_pixels(x: Tensor<Flex, 4>) -> Tensor<Flex, 1> {
        images::sum_pixels(x)
    }

    fn top_k(scores: Tensor<Flex, 3>, taken: usize) -> Tensor<Flex, 3, Int> {
        scores
            .sort_descending_with_indices(2)
            .1
            .slice_dim(2, 0..taken)
    }

    fn experts(inputs: ExpertInputs<Flex>) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        experts::of(inputs)
    }

    fn experts_backward(
        inputs: ExpertInputs<Flex>,
        hidden: Tensor<Flex, 3>,
        grad: Tensor<Flex, 3>,
    ) -> ExpertGrads<Flex> {
        experts::gradients(inputs, hidden, grad)
    }
}

impl Collectives for Flex {
    const BESIDE: bool = false;
}
