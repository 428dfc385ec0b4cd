//! The operations and their gradients, composed from burn tensors: what every backend can run, and what a fused version
//! is compared with.

mod experts;
mod images;

pub use experts::*;
pub use images::*;

use super::{Activation, DitBackend, ModulatedNormGrads};
use crate::nn::Precision;
use burn::tensor::{
    Bool, DType, Tensor,
    activation::{gelu, gelu_approximate, relu, sigmoid, silu, softmax},
    backend::Backend,
};

pub fn project<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let y = x.matmul(weight.cast(dtype).transpose());
    match bias {
        Some(bias) => y + bias.cast(dtype).unsqueeze(),
        None => y,
    }
}

pub fn project_backward<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    grad: Tensor<B, 2>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let dtype = weight.dtype();
    let x_grad = grad.clone().matmul(weight.cast(x.dtype()));
    (x_grad, grad.transpose().matmul(x).cast(dtype))
}

pub fn sum_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 1> {
    wide(x).sum_dim(0).squeeze_dim(0)
}

/// In f32 if it is in bf16.
fn wide<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match x.dtype() {
        DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// `(x - mean) / sqrt(variance + eps)` over the last dimension.
pub fn norm<B: Backend, const D: usize>(x: Tensor<B, D>, eps: f64) -> Tensor<B, D> {
    normed(x, eps).0
}

/// The normed tensor and `1 / sqrt(variance + eps)`.
fn normed<B: Backend, const D: usize>(x: Tensor<B, D>, eps: f64) -> (Tensor<B, D>, Tensor<B, D>) {
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = centred.clone().powi_scalar(2).mean_dim(D - 1);
    let inverse = (variance + eps).sqrt().recip();
    (centred * inverse.clone(), inverse)
}

/// Gradient of a norm's input, from the gradient of the normed tensor:
/// `(g - mean(g) - n mean(g n)) / sqrt(variance + eps)`.
fn through_norm<B: Backend, const D: usize>(
    normed: Tensor<B, D>,
    inverse: Tensor<B, D>,
    grad: Tensor<B, D>,
) -> Tensor<B, D> {
    let along = (grad.clone() * normed.clone()).mean_dim(D - 1);
    (grad.clone() - grad.mean_dim(D - 1) - normed * along) * inverse
}

pub fn norm_backward<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    eps: f64,
    grad: Tensor<B, 2>,
) -> (Tensor<B, 2>, Tensor<B, 1>) {
    let (normed, inverse) = normed(x, eps);
    let weight_grad = (grad.clone() * normed.clone()).sum_dim(0).squeeze_dim(0);
    let x_grad = through_norm(normed, inverse, grad * weight.unsqueeze());
    (x_grad, weight_grad)
}

pub fn affine_norm<B: DitBackend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    eps: f64,
    precision: Precision,
) -> Tensor<B, 3> {
    // By the norm that other backends have a kernel for.
    let [batch, _, dim] = x.dims();
    let shift = bias.unsqueeze::<2>().expand([batch, dim]);
    let scale = Tensor::zeros([batch, dim], &x.device());
    precision.enter(B::modulated_norm(x, weight, shift, scale, eps))
}

pub fn rms_norm<B: DitBackend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    eps: f64,
    precision: Precision,
) -> Tensor<B, 3> {
    let square = x.clone().square().mean_dim(2);
    precision.enter(x * (square + eps).sqrt().recip() * weight.unsqueeze())
}

pub fn modulated_norm<B: Backend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    shift: Tensor<B, 2>,
    scale: Tensor<B, 2>,
    eps: f64,
) -> Tensor<B, 3> {
    let gain = (scale + 1.0) * weight.unsqueeze();
    norm(x, eps) * gain.unsqueeze_dim(1) + shift.unsqueeze_dim(1)
}

pub fn modulated_norm_backward<B: Backend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    scale: Tensor<B, 2>,
    eps: f64,
    grad: Tensor<B, 3>,
) -> ModulatedNormGrads<B> {
    let (normed, inverse) = normed(x, eps);
    let weight = weight.unsqueeze::<2>();
    let scale = scale + 1.0;
    let gain = scale.clone() * weight.clone();
    let along: Tensor<B, 2> = (grad.clone() * normed.clone()).sum_dim(1).squeeze_dim(1);
    ModulatedNormGrads {
        x: through_norm(normed, inverse, grad.clone() * gain.unsqueeze_dim(1)),
        weight: (along.clone() * scale).sum_dim(0).squeeze_dim(0),
        shift: grad.sum_dim(1).squeeze_dim(1),
        scale: along * weight,
    }
}

pub fn gated_residual<B: Backend>(
    x: Tensor<B, 3>,
    update: Tensor<B, 3>,
    gate: Tensor<B, 2>,
) -> Tensor<B, 3> {
    let dtype = x.dtype();
    x + update.cast(dtype) * gate.unsqueeze_dim(1)
}

pub fn gated_residual_backward<B: Backend>(
    update: Tensor<B, 3>,
    gate: Tensor<B, 2>,
    grad: Tensor<B, 3>,
) -> (Tensor<B, 3>, Tensor<B, 2>) {
    let dtype = update.dtype();
    let update = update.cast(grad.dtype());
    (
        (grad.clone() * gate.unsqueeze_dim(1)).cast(dtype),
        (grad * update).sum_dim(1).squeeze_dim(1),
    )
}

pub fn gelu_backward<B: Backend>(x: Tensor<B, 2>, grad: Tensor<B, 2>) -> Tensor<B, 2> {
    // With (1 + tanh(u)) / 2 = s = sigmoid(2 u): gelu = x s and gelu' = s + 2 x s (1 - s) u'.
    let root = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let square = x.clone() * x.clone() * 0.044_715;
    let s = sigmoid(x.clone() * (square.clone() + 1.0) * root);
    let slope = x * s.clone() * (-s.clone() + 1.0) * (square * 3.0 + 1.0) * root;
    grad * (s + slope)
}

pub fn swiglu<B: Backend>(gate: Tensor<B, 3>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    silu(gate) * x
}

pub fn swiglu_backward<B: Backend>(
    gate: Tensor<B, 3>,
    x: Tensor<B, 3>,
    grad: Tensor<B, 3>,
) -> (Tensor<B, 3>, Tensor<B, 3>) {
    // silu' = s + g s (1 - s) with s = sigmoid(g).
    let s = sigmoid(gate.clone());
    let value = gate * s.clone();
    let slope = s.clone() + value.clone() * (-s + 1.0);
    (grad.clone() * x * slope, grad * value)
}

pub fn geglu<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    let [value, gate] = split_last(x);
    value * gelu(gate)
}

pub fn geglu_backward<B: Backend>(x: Tensor<B, 3>, grad: Tensor<B, 3>) -> Tensor<B, 3> {
    let [value, gate] = split_last(x);
    let slope = gelu_slope(gate.clone());
    Tensor::cat(vec![grad.clone() * gelu(gate), grad * value * slope], 2)
}

/// Derivative of the exact GELU: `Phi(x) + x phi(x)`.
fn gelu_slope<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    let bell = (x.clone().powi_scalar(2) * -0.5).exp() * (0.5 / std::f64::consts::PI).sqrt();
    let cumulative = ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    cumulative + x * bell
}

/// `[batch, tokens, width]` to `[batch, heads, tokens, width / heads]`.
fn split_heads<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads])
        .swap_dims(1, 2)
}

/// Inverse of [`split_heads`].
fn join_heads<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, heads, tokens, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim])
}

/// Attention, with queries and keys normalized first where there is an epsilon.
fn attend<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
    eps: Option<f64>,
) -> Tensor<B, 3> {
    let (scale, dtype) = (head_scale(&q, heads), q.dtype());
    let prepared = |x| match eps {
        Some(eps) => split_heads(in_f32(x, |x| norm(x, eps)), heads),
        None => split_heads(x, heads),
    };
    let (q, k) = (prepared(q) * scale, prepared(k));
    // [batch, heads, tokens, words]
    let logits = match eps {
        Some(_) => q.matmul(k.swap_dims(2, 3)),
        // Of queries and keys as they come, scores may be large.
        None => wide(q).matmul(wide(k).swap_dims(2, 3)),
    };
    let scores = softmax(wide(logits), 3);
    join_heads(scores.cast(dtype).matmul(split_heads(v, heads)))
}

/// Computes in f32 and returns to the type of `x`: what loses too much with 8 bits of mantissa.
fn in_f32<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    compute: impl FnOnce(Tensor<B, D>) -> Tensor<B, D>,
) -> Tensor<B, D> {
    let dtype = x.dtype();
    compute(wide(x)).cast(dtype)
}

/// `1 / sqrt(head_dim)`.
fn head_scale<B: Backend>(q: &Tensor<B, 3>, heads: usize) -> f64 {
    ((q.dims()[2] / heads) as f64).sqrt().recip()
}

/// Gradients of `q`, `k` and `v` of normalized attention.
fn attend_backward<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
    eps: f64,
    grad: Tensor<B, 3>,
) -> [Tensor<B, 3>; 3] {
    let dtype = q.dtype();
    // Norms in f32, products in the type of the inputs.
    let ((q, q_inverse), (k, k_inverse)) = (normed(wide(q), eps), normed(wide(k), eps));
    let [q_narrow, k_narrow] = [&q, &k].map(|x| x.clone().cast(dtype));
    let [q_grad, k_grad, v_grad] = plain_attention_backward(q_narrow, k_narrow, v, heads, grad);
    let through = |x, inverse, grad| through_norm(x, inverse, wide(grad)).cast(dtype);
    [
        through(q, q_inverse, q_grad),
        through(k, k_inverse, k_grad),
        v_grad,
    ]
}

/// Scores that plain attention holds in memory at a time: the VAE of an image of 1024 pixels would otherwise need gigabytes.
const SCORES: usize = 1 << 26;

pub fn plain_attention<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
) -> Tensor<B, 3> {
    in_stretches(q, k, v, heads, SCORES)
}

/// Attention of so many queries at a time that there are at most `scores`, or of one.
fn in_stretches<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
    scores: usize,
) -> Tensor<B, 3> {
    let ([batch, tokens, _], [_, words, _]) = (q.dims(), k.dims());
    let stretch = (scores / (batch * heads * words)).clamp(1, tokens);
    let parts = q.split(stretch, 1).into_iter();
    let parts = parts.map(|q| attend(q, k.clone(), v.clone(), heads, None));
    Tensor::cat(parts.collect(), 1)
}

pub fn packed_attention<B: Backend>(qkv: Tensor<B, 3>, heads: usize, causal: bool) -> Tensor<B, 3> {
    let [q, k, v] = split_last(qkv);
    if !causal {
        return plain_attention(q, k, v, heads);
    }
    let (scale, dtype) = (head_scale(&q, heads), q.dtype());
    let [q, k, v] = [q, k, v].map(|x| split_heads(x, heads));
    let [batch, _, tokens, _] = q.dims();
    let hidden = Tensor::<B, 4, Bool>::tril_mask([batch, heads, tokens, tokens], 0, &q.device());
    let logits = (q * scale).matmul(k.swap_dims(2, 3));
    let scores = in_f32(logits, |logits| {
        softmax(logits.mask_fill(hidden, f32::NEG_INFINITY), 3)
    });
    join_heads(scores.cast(dtype).matmul(v))
}

pub fn biased_attention<B: Backend>(
    qkv: Tensor<B, 3>,
    bias: Tensor<B, 3>,
    padding: Option<Tensor<B, 2>>,
) -> Tensor<B, 3> {
    let ([heads, ..], dtype) = (bias.dims(), qkv.dtype());
    let [q, k, v] = split_last(qkv).map(|x| split_heads(x, heads));
    let mut bias = bias.unsqueeze::<4>();
    if let Some(padding) = padding {
        let [batch, tokens] = padding.dims();
        bias = bias + padding.reshape([batch, 1, 1, tokens]);
    }
    // Scores that are not scaled are large: 8 bits are too few.
    let scores = softmax(wide(q).matmul(wide(k).swap_dims(2, 3)) + bias, 3);
    join_heads(scores.cast(dtype).matmul(v))
}

pub fn gated<B: Backend>(
    gate: Tensor<B, 3>,
    x: Tensor<B, 3>,
    activation: Activation,
) -> Tensor<B, 3> {
    activate(gate, activation) * x
}

pub fn activate<B: Backend>(x: Tensor<B, 3>, activation: Activation) -> Tensor<B, 3> {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_approximate(x),
        Activation::QuickGelu => sigmoid(x.clone() * 1.702) * x,
        Activation::Relu => relu(x),
        Activation::Silu => silu(x),
    }
}

/// Gradients of `q`, `k` and `v`, with the scores recomputed.
pub fn plain_attention_backward<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
    grad: Tensor<B, 3>,
) -> [Tensor<B, 3>; 3] {
    let scale = head_scale(&q, heads);
    let [q_heads, k_heads] = [q, k].map(|x| split_heads(x, heads));
    let v_heads = split_heads(v, heads);
    let grad = split_heads(grad, heads);
    let scores = in_f32(
        q_heads.clone().matmul(k_heads.clone().swap_dims(2, 3)) * scale,
        |logits| softmax(logits, 3),
    );
    let v_grad = scores.clone().swap_dims(2, 3).matmul(grad.clone());
    let score_grad = grad.matmul(v_heads.swap_dims(2, 3));
    // Softmax: p (g - sum(g p)).
    let along = (score_grad.clone() * scores.clone()).sum_dim(3);
    let logit_grad = scores * (score_grad - along) * scale;
    let q_grad = logit_grad.clone().matmul(k_heads);
    let k_grad = logit_grad.swap_dims(2, 3).matmul(q_heads);
    [q_grad, k_grad, v_grad].map(join_heads)
}

/// Splits the last dimension into `N` equal parts.
pub(crate) fn split_last<B: Backend, const D: usize, const N: usize>(
    x: Tensor<B, D>,
) -> [Tensor<B, D>; N] {
    let width = x.dims()[D - 1] / N;
    std::array::from_fn(|i| x.clone().narrow(D - 1, i * width, width))
}

pub fn self_attention<B: Backend>(qkv: Tensor<B, 3>, heads: usize, eps: f64) -> Tensor<B, 3> {
    let [q, k, v] = split_last(qkv);
    attend(q, k, v, heads, Some(eps))
}

pub fn self_attention_backward<B: Backend>(
    qkv: Tensor<B, 3>,
    heads: usize,
    eps: f64,
    grad: Tensor<B, 3>,
) -> Tensor<B, 3> {
    let [q, k, v] = split_last(qkv);
    Tensor::cat(attend_backward(q, k, v, heads, eps, grad).into(), 2)
}

pub fn cross_attention<B: Backend>(
    q: Tensor<B, 3>,
    kv: Tensor<B, 3>,
    heads: usize,
    eps: f64,
) -> Tensor<B, 3> {
    let [k, v] = split_last(kv);
    attend(q, k, v, heads, Some(eps))
}

pub fn cross_attention_backward<B: Backend>(
    q: Tensor<B, 3>,
    kv: Tensor<B, 3>,
    heads: usize,
    eps: f64,
    grad: Tensor<B, 3>,
) -> (Tensor<B, 3>, Tensor<B, 3>) {
    let [k, v] = split_last(kv);
    let [q, k, v] = attend_backward(q, k, v, heads, eps, grad);
    (q, Tensor::cat(vec![k, v], 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{Draw, assert_close};

    #[test]
    fn attention_is_the_same_in_stretches() {
        let mut draw = Draw::new(0);
        let [q, k, v] = [[2, 11, 8], [2, 5, 8], [2, 5, 8]].map(|shape| draw.tensor(shape));
        let of = |scores| in_stretches(q.clone(), k.clone(), v.clone(), 2, scores);
        // One query, three, and all of them.
        for scores in [1, 60, 1000] {
            assert_close(
                "attention",
                &of(scores),
                &plain_attention(q.clone(), k.clone(), v.clone(), 2),
            );
        }
    }
}
