//! The kernels against the composed operations on the CPU, on whatever device Vulkan, Metal or DirectX offers, such as Mesa's
//! software rasterizer. Shapes include single rows, and rows longer than a cube of threads.

use crate::ops::{
    AdamState, DitBackend, ExpertInputs, OptimizerOps as _, composed, optimizer,
    tests::{Draw, assert_close},
};
use burn::tensor::{Tensor, TensorData, activation::gelu_approximate};
use burn_flex::Flex;
use burn_wgpu::Wgpu;

fn up<const D: usize>(x: &Tensor<Flex, D>) -> Tensor<Wgpu, D> {
    Tensor::from_data(x.to_data(), &Default::default())
}

#[track_caller]
fn compare<const D: usize>(name: &str, found: Tensor<Wgpu, D>, expected: Tensor<Flex, D>) {
    let found = Tensor::from_data(found.into_data(), &Default::default());
    assert_close(name, &found, &expected);
}

#[test]
fn modulated_norms() {
    for case in 0..6 {
        let mut draw = Draw::new(case);
        let (batch, tokens) = (draw.size(3), draw.size(20));
        let dim = if case == 0 { 1 } else { draw.size(700) };
        let (x, grad) = (
            draw.tensor([batch, tokens, dim]),
            draw.tensor([batch, tokens, dim]),
        );
        let weight = draw.tensor([dim]);
        let (shift, scale) = (draw.tensor([batch, dim]), draw.tensor([batch, dim]));
        // One element is its own mean: only eps keeps its norm finite.
        let eps = if dim == 1 { 0.5 } else { 1e-6 };
        compare(
            "forward",
            Wgpu::modulated_norm(up(&x), up(&weight), up(&shift), up(&scale), eps),
            composed::modulated_norm(x.clone(), weight.clone(), shift, scale.clone(), eps),
        );
        let found = Wgpu::modulated_norm_backward(up(&x), up(&weight), up(&scale), eps, up(&grad));
        let expected = composed::modulated_norm_backward(x, weight, scale, eps, grad);
        compare("x", found.x, expected.x);
        compare("weight", found.weight, expected.weight);
        compare("shift", found.shift, expected.shift);
        compare("scale", found.scale, expected.scale);
    }
}

#[test]
fn norms() {
    for case in 0..6 {
        let mut draw = Draw::new(case);
        // One row, and more than a thread sums.
        let rows = if case == 0 { 1 } else { draw.size(300) };
        let dim = 1 + draw.size(700);
        let x = draw.tensor([rows, dim]) * 1.5 + 0.5;
        let (weight, grad) = (draw.tensor([dim]), draw.tensor([rows, dim]));
        compare(
            "norm",
            Wgpu::norm(up(&x), up(&weight), 1e-6),
            composed::norm(x.clone(), 1e-6) * weight.clone().unsqueeze(),
        );
        let found = Wgpu::norm_backward(up(&x), up(&weight), 1e-6, up(&grad));
        let expected = composed::norm_backward(x, weight, 1e-6, grad);
        compare("x", found.0, expected.0);
        compare("weight", found.1, expected.1);
    }
}

#[test]
fn expert_layers() {
    for case in 0..4 {
        let mut draw = Draw::new(case);
        let (batch, tokens, experts) = (draw.size(3), draw.size(24), draw.size(5));
        let (dim, hidden) = (draw.size(40), draw.size(600));
        let taken = draw.size(tokens);
        let scores = draw.tensor([batch, experts, tokens]);
        let chosen = composed::top_k(scores, taken);
        let inputs = ExpertInputs {
            x: draw.tensor([batch, tokens, dim]),
            weights: draw.tensor([batch, experts, taken]),
            w1: draw.tensor([experts, dim, hidden]),
            w2: draw.tensor([experts, hidden, dim]),
            chosen,
        };
        let here = ExpertInputs {
            x: up(&inputs.x),
            weights: up(&inputs.weights),
            w1: up(&inputs.w1),
            w2: up(&inputs.w2),
            chosen: Tensor::from_data(inputs.chosen.to_data(), &Default::default()),
        };
        let grad = draw.tensor([batch, tokens, dim]);
        let found = Wgpu::experts(here.clone());
        let expected = composed::experts(inputs.clone());
        compare("experts", found.0, expected.0);
        compare("hidden layer", found.1.clone(), expected.1.clone());
        let found = Wgpu::experts_backward(here, found.1, up(&grad));
        let expected = composed::experts_backward(inputs, expected.1, grad);
        compare("x", found.x, expected.x);
        compare("weights", found.weights, expected.weights);
        compare("first layers", found.w1, expected.w1);
        compare("second layers", found.w2, expected.w2);
    }
}

#[test]
fn gates() {
    for case in 0..6 {
        let mut draw = Draw::new(case);
        let (batch, tokens, dim) = (draw.size(3), draw.size(20), draw.size(700));
        let shape = [batch, tokens, dim];
        let (x, update, grad) = (draw.tensor(shape), draw.tensor(shape), draw.tensor(shape));
        let gate = draw.tensor([batch, dim]);
        compare(
            "gated residual",
            Wgpu::gated_residual(up(&x), up(&update), up(&gate)),
            Flex::gated_residual(x, update.clone(), gate.clone()),
        );
        let found = Wgpu::gated_residual_backward(up(&update), up(&gate), up(&grad));
        let expected = composed::gated_residual_backward(update, gate, grad);
        compare("update", found.0, expected.0);
        compare("gate", found.1, expected.1);
    }
}

#[test]
fn activations() {
    for case in 0..4 {
        let mut draw = Draw::new(case);
        let shape = [draw.size(40), draw.size(700)];
        let (x, grad) = (draw.tensor(shape) * 4.0, draw.tensor(shape));
        compare("gelu", Wgpu::tanh_gelu(up(&x)), gelu_approximate(x.clone()));
        let found = Wgpu::tanh_gelu_backward(up(&x), up(&grad));
        compare("gelu backward", found, composed::gelu_backward(x, grad));
        let shape = [draw.size(4), draw.size(20), draw.size(300)];
        let (gate, x, grad) = (
            draw.tensor(shape) * 4.0,
            draw.tensor(shape),
            draw.tensor(shape),
        );
        let found = Wgpu::swiglu(up(&gate), up(&x));
        compare("swiglu", found, composed::swiglu(gate.clone(), x.clone()));
        let found = Wgpu::swiglu_backward(up(&gate), up(&x), up(&grad));
        let expected = composed::swiglu_backward(gate, x, grad);
        compare("gate", found.0, expected.0);
        compare("x", found.1, expected.1);
    }
}

#[test]
fn adam_steps() {
    for case in 0..4 {
        let (state, grad, step) = Draw::new(case).adam();
        let here = || AdamState {
            param: up(&state.param),
            first: up(&state.first),
            second: up(&state.second),
        };
        for scale in [0.3, f32::NAN] {
            let scale = Tensor::from_data(TensorData::from([scale]), &Default::default());
            // Shared with `kept`, the state must not change in place.
            let kept = here();
            let found = Wgpu::adam(kept.clone(), up(&grad), up(&scale), &step);
            let expected = optimizer::adam(state.clone(), grad.clone(), scale.clone(), &step);
            compare("parameter", found.param, expected.param.clone());
            compare("first moment", found.first, expected.first);
            compare("second moment", found.second, expected.second);
            compare("the state it was given", kept.param, state.param.clone());
            let found = Wgpu::adam(here(), up(&grad), up(&scale), &step);
            compare("parameter in place", found.param, expected.param);
        }
    }
}

/// Equal scores have one order here: the earlier token first.
#[test]
fn top_k() {
    for case in 0..4 {
        let mut draw = Draw::new(case);
        let tokens = draw.size(70);
        let shape = [draw.size(3), draw.size(5), tokens];
        let scores = (draw.tensor(shape) * 2.0).round();
        // Zero becomes NaN.
        let scores = if case == 0 {
            scores.clone() / scores
        } else {
            scores
        };
        let taken = draw.size(tokens);
        let found: Vec<i64> = Wgpu::top_k(up(&scores), taken).into_data().iter().collect();
        let expected: Vec<i64> = composed::top_k(scores, taken).into_data().iter().collect();
        assert_eq!(found, expected);
    }
}

/// Sizes of heads: those of the kernels, and two that take the composed operations.
const HEAD_SIZES: [usize; 8] = [32, 64, 72, 80, 96, 128, 20, 42];

#[test]
fn attentions() {
    for (case, head) in (0..).zip(HEAD_SIZES) {
        let mut draw = Draw::new(case);
        // One token, to one word, or no multiple of a tile.
        let (tokens, words) = match case {
            0 => (1, 1),
            1 => (70, 77),
            _ => (draw.size(140), draw.size(90)),
        };
        let (batch, heads) = (draw.size(2), draw.size(8));
        let width = heads * head;
        let grad = draw.tensor([batch, tokens, width]);
        // Off zero, so that norms have a mean to take away.
        let qkv = draw.tensor([batch, tokens, 3 * width]) * 1.5 + 0.5;
        compare(
            "self-attention",
            Wgpu::self_attention(up(&qkv), heads, 1e-6),
            composed::self_attention(qkv.clone(), heads, 1e-6),
        );
        compare(
            "self-attention backward",
            Wgpu::self_attention_backward(up(&qkv), heads, 1e-6, up(&grad)),
            composed::self_attention_backward(qkv, heads, 1e-6, grad.clone()),
        );
        let q = draw.tensor([batch, tokens, width]) * 1.5 + 0.5;
        let kv = draw.tensor([batch, words, 2 * width]) * 1.5 + 0.5;
        compare(
            "cross-attention",
            Wgpu::cross_attention(up(&q), up(&kv), heads, 1e-6),
            composed::cross_attention(q.clone(), kv.clone(), heads, 1e-6),
        );
        let found = Wgpu::cross_attention_backward(up(&q), up(&kv), heads, 1e-6, up(&grad));
        let expected = composed::cross_attention_backward(q, kv, heads, 1e-6, grad);
        compare("q", found.0, expected.0);
        compare("kv", found.1, expected.1);
    }
}

/// Without norms scores are large: a softmax that nearly takes one word, and sums of exponentials that must not overflow.
#[test]
fn attentions_without_norms() {
    for (case, head) in (0..).zip(HEAD_SIZES) {
        let mut draw = Draw::new(case + 100);
        let (batch, heads) = (draw.size(2), draw.size(4));
        let (tokens, words) = (draw.size(100), draw.size(90));
        let q = draw.tensor([batch, tokens, heads * head]) * 3.0;
        let k = draw.tensor([batch, words, heads * head]) * 3.0 - 2.0;
        let v = draw.tensor([batch, words, heads * head]);
        let grad = draw.tensor([batch, tokens, heads * head]);
        compare(
            "attention",
            Wgpu::plain_attention(up(&q), up(&k), up(&v), heads),
            composed::plain_attention(q.clone(), k.clone(), v.clone(), heads),
        );
        let found = Wgpu::plain_attention_backward(up(&q), up(&k), up(&v), heads, up(&grad));
        let expected = composed::plain_attention_backward(q, k, v, heads, grad);
        for ((name, found), expected) in ["q", "k", "v"].iter().zip(found).zip(expected) {
            compare(name, found, expected);
        }
    }
}
