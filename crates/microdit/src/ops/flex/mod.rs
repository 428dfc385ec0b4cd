//! Fused operations for burn's CPU backend, in f32; other types of numbers take the composed ones.
//!
//! Work is split by rows, samples or experts, so that results do not depend on the number of threads.

mod adam;
mod attention;
mod buffer;
mod convolution;
mod experts;
mod group_norm;
mod matrix;
mod norm;
mod packed;
mod patches;
mod pointwise;
mod simd;
mod small;
mod winograd;

use super::{
    Collectives, DitBackend, ExpertGrads, ExpertInputs, GroupNormGrads, GroupNormOptions,
    ModulatedNormGrads, composed,
};
use crate::worker_pool::KeepAwake;
use attention::{Heads, Rows, Sample};
use buffer::unwritten;
use burn::tensor::{
    DType, Int, Shape, Tensor, TensorPrimitive, activation::gelu_approximate,
    ops::PaddedConvOptions,
};
use burn_flex::{Flex, FlexTensor};
use convolution::Convolution;
use group_norm::Runs;
use matrix::{Matrix, Threads, multiply};
use norm::Groups;
use rayon::prelude::*;

/// Rows that share one partial sum in the gradient of a norm's weight.
const NORM_ROWS: usize = 64;

/// The tensor in one piece of memory.
fn flat<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    x.into_primitive().tensor().to_contiguous()
}

/// A tensor of new values.
fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    let data = burn::tensor::TensorData::new(values, Shape::from(shape));
    Tensor::from_primitive(TensorPrimitive::Float(FlexTensor::from_data(data)))
}

fn is_f32<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::F32
}

/// The elements of contiguous tensors.
fn slices<const N: usize>(tensors: &[FlexTensor; N]) -> [&[f32]; N] {
    tensors.each_ref().map(FlexTensor::storage::<f32>)
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

impl DitBackend for Flex {
    fn keep_awake() -> Option<KeepAwake> {
        Some(KeepAwake::new())
    }

    fn project(
        x: Tensor<Flex, 2>,
        weight: Tensor<Flex, 2>,
        bias: Option<Tensor<Flex, 1>>,
    ) -> Tensor<Flex, 2> {
        if !is_f32(&x) || !is_f32(&weight) {
            return composed::project(x, weight, bias);
        }
        let ([rows, input], [output, _]) = (x.dims(), weight.dims());
        let tensors = [flat(x), flat(weight)];
        let [x, weight] = slices(&tensors);
        let accumulate = bias.is_some();
        let mut y = match bias {
            Some(bias) => pointwise::repeat_row(flat(bias).storage(), rows),
            None => unwritten(rows * output),
        };
        let weight = Matrix::new(weight, output, input).t();
        multiply(
            &mut y,
            output,
            Matrix::new(x, rows, input),
            weight,
            1.0,
            accumulate,
            Threads::All,
        );
        tensor(y, [rows, output])
    }

    fn project_backward(
        x: Tensor<Flex, 2>,
        weight: Tensor<Flex, 2>,
        grad: Tensor<Flex, 2>,
    ) -> (Tensor<Flex, 2>, Tensor<Flex, 2>) {
        if !is_f32(&x) || !is_f32(&weight) {
            return composed::project_backward(x, weight, grad);
        }
        let ([rows, input], [output, _]) = (x.dims(), weight.dims());
        let tensors = [flat(x), flat(weight), flat(grad)];
        let [x, weight, grad] = slices(&tensors);
        let mut x_grad = unwritten(rows * input);
        let mut weight_grad = unwritten(output * input);
        let grad = Matrix::new(grad, rows, output);
        let weight = Matrix::new(weight, output, input);
        multiply(&mut x_grad, input, grad, weight, 1.0, false, Threads::All);
        let x = Matrix::new(x, rows, input);
        multiply(
            &mut weight_grad,
            input,
            grad.t(),
            x,
            1.0,
            false,
            Threads::All,
        );
        (
            tensor(x_grad, [rows, input]),
            tensor(weight_grad, [output, input]),
        )
    }

    fn sum_rows(x: Tensor<Flex, 2>) -> Tensor<Flex, 1> {
        if !is_f32(&x) {
            return x.sum_dim(0).squeeze_dim(0);
        }
        let [_, dim] = x.dims();
        tensor(pointwise::sum_rows(flat(x).storage(), dim), [dim])
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

    fn gated_residual(
        x: Tensor<Flex, 3>,
        update: Tensor<Flex, 3>,
        gate: Tensor<Flex, 2>,
    ) -> Tensor<Flex, 3> {
        if !is_f32(&x) || !is_f32(&update) {
            return x + update * gate.unsqueeze_dim(1);
        }
        let shape @ [_, tokens, dim] = x.dims();
        let tensors = [flat(x), flat(update), flat(gate)];
        let [x, update, gate] = slices(&tensors);
        tensor(
            pointwise::gated_residual(x, update, gate, tokens, dim),
            shape,
        )
    }

    fn gated_residual_backward(
        update: Tensor<Flex, 3>,
        gate: Tensor<Flex, 2>,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 2>) {
        if !is_f32(&update) || !is_f32(&gate) {
            return composed::gated_residual_backward(update, gate, grad);
        }
        let shape @ [batch, tokens, dim] = update.dims();
        let tensors = [flat(update), flat(gate), flat(grad)];
        let [update, gate, grad] = slices(&tensors);
        let (update, gate) = pointwise::gated_residual_backward(update, gate, grad, tokens, dim);
        (tensor(update, shape), tensor(gate, [batch, dim]))
    }

    fn tanh_gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
        if !is_f32(&x) {
            return gelu_approximate(x);
        }
        let shape = x.dims();
        tensor(pointwise::gelu(flat(x).storage()), shape)
    }

    fn tanh_gelu_backward(x: Tensor<Flex, 2>, grad: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
        if !is_f32(&x) {
            return composed::gelu_backward(x, grad);
        }
        let shape = x.dims();
        let tensors = [flat(x), flat(grad)];
        let [x, grad] = slices(&tensors);
        tensor(pointwise::gelu_backward(x, grad), shape)
    }

    fn swiglu(gate: Tensor<Flex, 3>, x: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        if !is_f32(&gate) || !is_f32(&x) {
            return composed::swiglu(gate, x);
        }
        let shape = x.dims();
        let tensors = [flat(gate), flat(x)];
        let [gate, x] = slices(&tensors);
        tensor(pointwise::swiglu(gate, x), shape)
    }

    fn swiglu_backward(
        gate: Tensor<Flex, 3>,
        x: Tensor<Flex, 3>,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        if !is_f32(&gate) || !is_f32(&x) {
            return composed::swiglu_backward(gate, x, grad);
        }
        let shape = x.dims();
        let tensors = [flat(gate), flat(x), flat(grad)];
        let [gate, x, grad] = slices(&tensors);
        let (gate, x) = pointwise::swiglu_backward(gate, x, grad);
        (tensor(gate, shape), tensor(x, shape))
    }

    fn self_attention(qkv: Tensor<Flex, 3>, heads: usize, eps: f64) -> Tensor<Flex, 3> {
        if !is_f32(&qkv) {
            return composed::self_attention(qkv, heads, eps);
        }
        let [batch, tokens, packed] = qkv.dims();
        let width = packed / 3;
        let heads = Heads::normed(heads, eps);
        let qkv = flat(qkv);
        let mut out = unwritten(batch * tokens * width);
        out.par_chunks_mut(tokens * width)
            .zip(qkv.storage::<f32>().par_chunks(tokens * packed))
            .for_each_init(Sample::default, |sample, (out, qkv)| {
                let qkv = [0, 1, 2].map(|i| Rows::packed(qkv, width, 3, i));
                sample.forward(out, qkv, heads);
            });
        tensor(out, [batch, tokens, width])
    }

    fn self_attention_backward(
        qkv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Flex, 3>,
    ) -> Tensor<Flex, 3> {
        if !is_f32(&qkv) {
            return composed::self_attention_backward(qkv, heads, eps, grad);
        }
        let shape @ [_, tokens, packed] = qkv.dims();
        let width = packed / 3;
        let heads = Heads::normed(heads, eps);
        let tensors = [flat(qkv), flat(grad)];
        let [qkv, grad] = slices(&tensors);
        let mut out = unwritten(qkv.len());
        let inputs = (
            qkv.par_chunks(tokens * packed),
            grad.par_chunks(tokens * width),
        );
        out.par_chunks_mut(tokens * packed)
            .zip(inputs.into_par_iter())
            .for_each_init(Sample::default, |sample, (out, (qkv, grad))| {
                let qkv = [0, 1, 2].map(|i| Rows::packed(qkv, width, 3, i));
                sample.backward(grad, qkv, heads);
                for (i, part) in [&sample.q, &sample.k, &sample.v].into_iter().enumerate() {
                    part.write_grad(out, width, heads, 3, i);
                }
            });
        tensor(out, shape)
    }

    fn cross_attention(
        q: Tensor<Flex, 3>,
        kv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Flex, 3> {
        if !is_f32(&q) || !is_f32(&kv) {
            return composed::cross_attention(q, kv, heads, eps);
        }
        let (shape @ [_, tokens, width], [_, words, _]) = (q.dims(), kv.dims());
        let heads = Heads::normed(heads, eps);
        let tensors = [flat(q), flat(kv)];
        let [q, kv] = slices(&tensors);
        let mut out = unwritten(q.len());
        let inputs = (
            q.par_chunks(tokens * width),
            kv.par_chunks(words * 2 * width),
        );
        out.par_chunks_mut(tokens * width)
            .zip(inputs.into_par_iter())
            .for_each_init(Sample::default, |sample, (out, (q, kv))| {
                let q = Rows::packed(q, width, 1, 0);
                let [k, v] = [0, 1].map(|i| Rows::packed(kv, width, 2, i));
                sample.forward(out, [q, k, v], heads);
            });
        tensor(out, shape)
    }

    fn cross_attention_backward(
        q: Tensor<Flex, 3>,
        kv: Tensor<Flex, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Flex, 3>,
    ) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
        if !is_f32(&q) || !is_f32(&kv) {
            return composed::cross_attention_backward(q, kv, heads, eps, grad);
        }
        let (q_shape @ [_, tokens, width], kv_shape @ [_, words, _]) = (q.dims(), kv.dims());
        let heads = Heads::normed(heads, eps);
        let tensors = [flat(q), flat(kv), flat(grad)];
        let [q, kv, grad] = slices(&tensors);
        let (mut q_grad, mut kv_grad) = (unwritten(q.len()), unwritten(kv.len()));
        let outputs = (
            q_grad.par_chunks_mut(tokens * width),
            kv_grad.par_chunks_mut(words * 2 * width),
        );
        let inputs = (
            q.par_chunks(tokens * width),
            kv.par_chunks(words * 2 * width),
            grad.par_chunks(tokens * width),
        );
        outputs
            .into_par_iter()
            .zip(inputs.into_par_iter())
            .for_each_init(
                Sample::default,
                |sample, ((q_grad, kv_grad), (q, kv, grad))| {
                    let q = Rows::packed(q, width, 1, 0);
                    let [k, v] = [0, 1].map(|i| Rows::packed(kv, width, 2, i));
                    sample.backward(grad, [q, k, v], heads);
                    sample.q.write_grad(q_grad, width, heads, 1, 0);
                    sample.k.write_grad(kv_grad, width, heads, 2, 0);
                    sample.v.write_grad(kv_grad, width, heads, 2, 1);
                },
            );
        (tensor(q_grad, q_shape), tensor(kv_grad, kv_shape))
    }

    fn plain_attention(
        q: Tensor<Flex, 3>,
        k: Tensor<Flex, 3>,
        v: Tensor<Flex, 3>,
        heads: usize,
    ) -> Tensor<Flex, 3> {
        if ![&q, &k, &v].into_iter().all(is_f32) {
            return composed::plain_attention(q, k, v, heads);
        }
        let (shape @ [_, tokens, width], [_, words, _]) = (q.dims(), k.dims());
        let tensors = [flat(q), flat(k), flat(v)];
        let [q, k, v] = slices(&tensors);
        let mut out = unwritten(q.len());
        let inputs = (
            q.par_chunks(tokens * width),
            k.par_chunks(words * width),
            v.par_chunks(words * width),
        );
        out.par_chunks_mut(tokens * width)
            .zip(inputs.into_par_iter())
            .for_each_init(Sample::default, |sample, (out, (q, k, v))| {
                let qkv = [q, k, v].map(|x| Rows::packed(x, width, 1, 0));
                sample.forward(out, qkv, Heads::plain(heads));
            });
        tensor(out, shape)
    }

    fn plain_attention_backward(
        q: Tensor<Flex, 3>,
        k: Tensor<Flex, 3>,
        v: Tensor<Flex, 3>,
        heads: usize,
        grad: Tensor<Flex, 3>,
    ) -> [Tensor<Flex, 3>; 3] {
        if ![&q, &k, &v].into_iter().all(is_f32) {
            return composed::plain_attention_backward(q, k, v, heads, grad);
        }
        let heads = Heads::plain(heads);
        let (q_shape @ [_, tokens, width], shape @ [_, words, _]) = (q.dims(), k.dims());
        let tensors = [flat(q), flat(k), flat(v), flat(grad)];
        let [q, k, v, grad] = slices(&tensors);
        let mut grads = [q, k, v].map(|x| unwritten(x.len()));
        let [q_grad, k_grad, v_grad] = &mut grads;
        let outputs = (
            q_grad.par_chunks_mut(tokens * width),
            k_grad.par_chunks_mut(words * width),
            v_grad.par_chunks_mut(words * width),
        );
        let inputs = (
            q.par_chunks(tokens * width),
            k.par_chunks(words * width),
            v.par_chunks(words * width),
            grad.par_chunks(tokens * width),
        );
        outputs
            .into_par_iter()
            .zip(inputs.into_par_iter())
            .for_each_init(
                Sample::default,
                |sample, ((dq, dk, dv), (q, k, v, grad))| {
                    let qkv = [q, k, v].map(|x| Rows::packed(x, width, 1, 0));
                    sample.backward(grad, qkv, heads);
                    sample.q.write_grad(dq, width, heads, 1, 0);
                    sample.k.write_grad(dk, width, heads, 1, 0);
                    sample.v.write_grad(dv, width, heads, 1, 0);
                },
            );
        let [q, k, v] = grads;
        [tensor(q, q_shape), tensor(k, shape), tensor(v, shape)]
    }

    fn geglu(x: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        if !is_f32(&x) {
            return composed::geglu(x);
        }
        let [batch, tokens, packed] = x.dims();
        let out = pointwise::geglu(flat(x).storage(), packed / 2);
        tensor(out, [batch, tokens, packed / 2])
    }

    fn geglu_backward(x: Tensor<Flex, 3>, grad: Tensor<Flex, 3>) -> Tensor<Flex, 3> {
        if !is_f32(&x) {
            return composed::geglu_backward(x, grad);
        }
        let shape @ [_, _, packed] = x.dims();
        let tensors = [flat(x), flat(grad)];
        let [x, grad] = slices(&tensors);
        tensor(pointwise::geglu_backward(x, grad, packed / 2), shape)
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
        if !is_f32(&inputs.x) || !is_f32(&inputs.w1) {
            return composed::experts(inputs);
        }
        let shape = inputs.x.dims();
        experts::with(inputs, |layer, x| {
            let (out, hidden) = layer.forward(x);
            let hidden_shape = [layer.experts, layer.rows(), layer.hidden];
            (tensor(out, shape), tensor(hidden, hidden_shape))
        })
    }

    fn experts_backward(
        inputs: ExpertInputs<Flex>,
        hidden: Tensor<Flex, 3>,
        grad: Tensor<Flex, 3>,
    ) -> ExpertGrads<Flex> {
        if !is_f32(&inputs.x) || !is_f32(&inputs.w1) {
            return composed::experts_backward(inputs, hidden, grad);
        }
        let (x, weights) = (inputs.x.dims(), inputs.weights.dims());
        let (w1, w2) = (inputs.w1.dims(), inputs.w2.dims());
        let tensors = [flat(hidden), flat(grad)];
        experts::with(inputs, |layer, tokens| {
            let [hidden, grad] = slices(&tensors);
            let grads = layer.backward(tokens, hidden, grad);
            ExpertGrads {
                x: tensor(grads.x, x),
                weights: tensor(grads.weights, weights),
                w1: tensor(grads.w1, w1),
                w2: tensor(grads.w2, w2),
            }
        })
    }
}

impl Collectives for Flex {}
