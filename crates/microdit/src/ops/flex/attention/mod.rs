//! Attention of all samples, each by itself. Between its products everything is computed in f32; with tensors of bf16 the
//! products take numbers rounded like them.

mod factors;
mod heads;
mod sample;

use super::{buffer::unwritten, flat, slices, tensor};
use burn::tensor::Tensor;
use burn_flex::Flex;
use factors::Factors;
use rayon::prelude::*;
use sample::{Rows, Sample};

pub(super) use heads::Heads;

/// Queries, keys and values packed side by side: `qkv` `[batch, tokens, 3 x width]` to `[batch, tokens, width]`.
pub(super) fn packed<N: Factors>(qkv: Tensor<Flex, 3>, heads: Heads<'_>) -> Tensor<Flex, 3> {
    let [batch, tokens, packed] = qkv.dims();
    let width = packed / 3;
    let qkv = flat(qkv);
    let mut out = unwritten::<N>(batch * tokens * width);
    out.par_chunks_mut(tokens * width)
        .zip(qkv.storage::<N>().par_chunks(tokens * packed))
        .enumerate()
        .for_each_init(Sample::default, |sample, (i, (out, qkv))| {
            let qkv = [0, 1, 2].map(|i| Rows::packed(qkv, width, 3, i));
            sample.forward(out, qkv, heads.of_sample(i, tokens));
        });
    tensor(out, [batch, tokens, width])
}

/// Gradient of `qkv`.
pub(super) fn packed_backward<N: Factors>(
    qkv: Tensor<Flex, 3>,
    heads: Heads<'_>,
    grad: Tensor<Flex, 3>,
) -> Tensor<Flex, 3> {
    let shape @ [_, tokens, packed] = qkv.dims();
    let width = packed / 3;
    let tensors = [flat(qkv), flat(grad)];
    let [qkv, grad] = slices::<N, _>(&tensors);
    let mut out = unwritten::<N>(qkv.len());
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

/// Keys and values packed side by side: `q` `[batch, tokens, width]` and `kv` `[batch, words, 2 x width]` to the shape of `q`.
pub(super) fn half_packed<N: Factors>(
    q: Tensor<Flex, 3>,
    kv: Tensor<Flex, 3>,
    heads: Heads<'_>,
) -> Tensor<Flex, 3> {
    let (shape @ [_, tokens, width], [_, words, _]) = (q.dims(), kv.dims());
    let tensors = [flat(q), flat(kv)];
    let [q, kv] = slices::<N, _>(&tensors);
    let mut out = unwritten::<N>(q.len());
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

/// Gradients of `q` and `kv`.
pub(super) fn half_packed_backward<N: Factors>(
    q: Tensor<Flex, 3>,
    kv: Tensor<Flex, 3>,
    heads: Heads<'_>,
    grad: Tensor<Flex, 3>,
) -> (Tensor<Flex, 3>, Tensor<Flex, 3>) {
    let (q_shape @ [_, tokens, width], kv_shape @ [_, words, _]) = (q.dims(), kv.dims());
    let tensors = [flat(q), flat(kv), flat(grad)];
    let [q, kv, grad] = slices::<N, _>(&tensors);
    let (mut q_grad, mut kv_grad) = (unwritten::<N>(q.len()), unwritten::<N>(kv.len()));
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

/// `q` `[batch, tokens, width]`, `k` and `v` `[batch, words, width]` to the shape of `q`.
pub(super) fn apart<N: Factors>(
    q: Tensor<Flex, 3>,
    k: Tensor<Flex, 3>,
    v: Tensor<Flex, 3>,
    heads: Heads<'_>,
) -> Tensor<Flex, 3> {
    let (shape @ [_, tokens, width], [_, words, _]) = (q.dims(), k.dims());
    let tensors = [flat(q), flat(k), flat(v)];
    let [q, k, v] = slices::<N, _>(&tensors);
    let mut out = unwritten::<N>(q.len());
    let inputs = (
        q.par_chunks(tokens * width),
        k.par_chunks(words * width),
        v.par_chunks(words * width),
    );
    out.par_chunks_mut(tokens * width)
        .zip(inputs.into_par_iter())
        .for_each_init(Sample::default, |sample, (out, (q, k, v))| {
            let qkv = [q, k, v].map(|x| Rows::packed(x, width, 1, 0));
            sample.forward(out, qkv, heads);
        });
    tensor(out, shape)
}

/// Gradients of `q`, `k` and `v`.
pub(super) fn apart_backward<N: Factors>(
    q: Tensor<Flex, 3>,
    k: Tensor<Flex, 3>,
    v: Tensor<Flex, 3>,
    heads: Heads<'_>,
    grad: Tensor<Flex, 3>,
) -> [Tensor<Flex, 3>; 3] {
    let (q_shape @ [_, tokens, width], shape @ [_, words, _]) = (q.dims(), k.dims());
    let tensors = [flat(q), flat(k), flat(v), flat(grad)];
    let [q, k, v, grad] = slices::<N, _>(&tensors);
    let mut grads = [q, k, v].map(|x| unwritten::<N>(x.len()));
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
