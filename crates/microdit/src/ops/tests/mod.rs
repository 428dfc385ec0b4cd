//! Every operation's fused version against the composed one, and both gradients against automatic differentiation of
//! the composed forward pass, on shapes that include one token, one head and one sample.

use super::{AdamState, AdamStep, DitBackend, ExpertInputs, GroupNormOptions, composed};
use crate::{
    nn::Precision,
    rng::{Purpose, Stream},
};
use burn::tensor::{
    DType, Int, Tensor, TensorData, activation::gelu_approximate, ops::PaddedConvOptions,
};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use std::ops::Range;

type Tracked = Autodiff<Flex>;

/// Draws tensors and sizes.
pub(super) struct Draw(Stream);

impl Draw {
    pub(crate) fn new(case: u64) -> Self {
        Self(Stream::new(7, Purpose::Noise, case, 0))
    }

    pub(super) fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<Flex, D> {
        let values = self.0.normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    /// A parameter with its moments, its gradient, and a step.
    pub(super) fn adam(&mut self) -> (AdamState<Flex>, Tensor<Flex, 1>, AdamStep) {
        let count = self.size(40_000);
        let state = AdamState {
            param: self.tensor([count]),
            first: self.tensor([count]) * 0.1,
            second: self.tensor([count]).powi_scalar(2) * 0.01,
        };
        let step = AdamStep {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            lr: 0.02,
            weight_decay: 0.1,
            step: 3,
        };
        (state, self.tensor([count]), step)
    }

    /// A whole number in `1..=most`; of a tenth of it under Miri.
    pub(super) fn size(&mut self, most: usize) -> usize {
        let most = if cfg!(miri) { most.div_ceil(10) } else { most };
        1 + (self.0.uniform(1)[0] * most as f32) as usize
    }
}

/// Numbers of random cases; fewer under Miri.
pub(super) fn cases(count: u64) -> Range<u64> {
    0..if cfg!(miri) { 3 } else { count }
}

/// Asserts that the largest difference is below 2e-5 of the largest element. f32 sums of some hundred products in
/// another order differ by a few 1e-7 of it; a wrong index, factor or missing term by 1e-2 and more.
#[track_caller]
pub(super) fn assert_close<const D: usize>(
    name: &str,
    found: &Tensor<Flex, D>,
    expected: &Tensor<Flex, D>,
) {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let most = |x: Tensor<Flex, D>| {
        let values = x.into_data().to_vec::<f32>().unwrap();
        assert!(values.iter().all(|x| x.is_finite()), "{name}: not finite");
        values.iter().fold(0f32, |m, x| m.max(x.abs()))
    };
    let error = most(found.clone() - expected.clone());
    let size = most(expected.clone()).max(1e-3);
    assert!(error < 2e-5 * size, "{name}: {error:e} of {size:e}");
}

fn track<const D: usize>(x: &Tensor<Flex, D>) -> Tensor<Tracked, D> {
    Tensor::from_inner(x.clone()).require_grad()
}

/// Gradients of the sum of `output * weights`.
fn pull<const D: usize>(
    output: Tensor<Tracked, D>,
    weights: &Tensor<Flex, D>,
) -> <Tracked as burn::tensor::backend::AutodiffBackend>::Gradients {
    (output * Tensor::from_inner(weights.clone()))
        .sum()
        .backward()
}

/// Compares the gradients of the fused graph, and those composed by hand, with automatic differentiation.
macro_rules! compare_gradients {
    ($name:literal, $weights:expr, [$($input:ident),*], $fused:expr, $reference:expr, [$($by_hand:expr),*]) => {{
        $(let $input = track(&$input);)*
        let fused = $fused;
        let reference = $reference;
        assert_close($name, &fused.clone().inner(), &reference.clone().inner());
        let fused = pull(fused, &$weights);
        let reference = pull(reference, &$weights);
        let by_hand = ($($by_hand,)*);
        compare_gradients!(@each $name, fused, reference, by_hand, [$($input),*]);
    }};
    (@each $name:literal, $fused:ident, $reference:ident, $by_hand:ident, [$a:ident $(, $b:ident $(, $c:ident $(, $d:ident)?)?)?]) => {{
        compare_gradients!(@one $name, $fused, $reference, $by_hand.0, $a);
        $(compare_gradients!(@one $name, $fused, $reference, $by_hand.1, $b);
        $(compare_gradients!(@one $name, $fused, $reference, $by_hand.2, $c);
        $(compare_gradients!(@one $name, $fused, $reference, $by_hand.3, $d);)?)?)?
    }};
    (@one $name:literal, $fused:ident, $reference:ident, $by_hand:expr, $input:ident) => {{
        let expected = $input.grad(&$reference).expect("a gradient");
        let name = concat!($name, ": gradient of ", stringify!($input));
        assert_close(name, &$input.grad(&$fused).expect("a gradient"), &expected);
        assert_close(concat!($name, ": composed gradient of ", stringify!($input)), &$by_hand, &expected);
    }};
}

mod experts;
mod images;

#[test]
fn projections() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (rows, input, output) = (draw.size(130), draw.size(70), draw.size(90));
        let x = draw.tensor([rows, input]);
        let weight = draw.tensor([output, input]);
        let bias = draw.tensor([output]);
        let grad = draw.tensor([rows, output]);
        let by_hand = composed::project_backward(x.clone(), weight.clone(), grad.clone());
        compare_gradients!(
            "project",
            grad,
            [x, weight, bias],
            Tracked::project(x.clone(), weight.clone(), Some(bias.clone())),
            composed::project(x.clone(), weight.clone(), Some(bias.clone())),
            [by_hand.0, by_hand.1, grad.clone().sum_dim(0).squeeze_dim(0)]
        );
    }
}

#[test]
fn projections_without_bias() {
    let mut draw = Draw::new(0);
    let (x, weight, grad) = (
        draw.tensor([5, 7]),
        draw.tensor([3, 7]),
        draw.tensor([5, 3]),
    );
    let by_hand = composed::project_backward(x.clone(), weight.clone(), grad.clone());
    compare_gradients!(
        "project",
        grad,
        [x, weight],
        Tracked::project(x.clone(), weight.clone(), None),
        composed::project(x.clone(), weight.clone(), None),
        [by_hand.0, by_hand.1]
    );
}

#[test]
fn norms() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (rows, dim) = (draw.size(200), 1 + draw.size(100));
        let x = draw.tensor([rows, dim]);
        let weight = draw.tensor([dim]);
        let grad = draw.tensor([rows, dim]);
        let by_hand = composed::norm_backward(x.clone(), weight.clone(), 1e-5, grad.clone());
        compare_gradients!(
            "norm",
            grad,
            [x, weight],
            Tracked::norm(x.clone(), weight.clone(), 1e-5),
            composed::norm(x.clone(), 1e-5) * weight.clone().unsqueeze(),
            [by_hand.0, by_hand.1]
        );
    }
}

#[test]
fn modulated_norms() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (batch, tokens, dim) = (draw.size(4), draw.size(40), 1 + draw.size(100));
        let x = draw.tensor([batch, tokens, dim]);
        let weight = draw.tensor([dim]);
        let shift = draw.tensor([batch, dim]);
        let scale = draw.tensor([batch, dim]);
        let grad = draw.tensor([batch, tokens, dim]);
        let by_hand = composed::modulated_norm_backward(
            x.clone(),
            weight.clone(),
            scale.clone(),
            1e-5,
            grad.clone(),
        );
        compare_gradients!(
            "modulated norm",
            grad,
            [x, weight, shift, scale],
            Tracked::modulated_norm(
                x.clone(),
                weight.clone(),
                shift.clone(),
                scale.clone(),
                1e-5
            ),
            composed::modulated_norm(
                x.clone(),
                weight.clone(),
                shift.clone(),
                scale.clone(),
                1e-5
            ),
            [by_hand.x, by_hand.weight, by_hand.shift, by_hand.scale]
        );
    }
}

#[test]
fn residuals() {
    for case in cases(4) {
        let mut draw = Draw::new(case);
        let shape = [draw.size(4), draw.size(40), draw.size(100)];
        let (x, update, grad) = (draw.tensor(shape), draw.tensor(shape), draw.tensor(shape));
        compare_gradients!(
            "residual",
            grad,
            [x, update],
            Tracked::residual(x.clone(), update.clone()),
            x.clone() + update.clone(),
            [grad.clone(), grad.clone()]
        );
    }
}

#[test]
fn gated_residuals() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let (batch, tokens, dim) = (draw.size(4), draw.size(40), draw.size(100));
        let x = draw.tensor([batch, tokens, dim]);
        let update = draw.tensor([batch, tokens, dim]);
        let gate = draw.tensor([batch, dim]);
        let grad = draw.tensor([batch, tokens, dim]);
        let by_hand = composed::gated_residual_backward(update.clone(), gate.clone(), grad.clone());
        compare_gradients!(
            "gated residual",
            grad,
            [x, update, gate],
            Tracked::gated_residual(x.clone(), update.clone(), gate.clone()),
            x.clone() + update.clone() * gate.clone().unsqueeze_dim(1),
            [grad.clone(), by_hand.0, by_hand.1]
        );
    }
}

#[test]
fn gelus() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let shape = [draw.size(40), draw.size(300)];
        let x = draw.tensor(shape) * 3.0;
        let grad = draw.tensor(shape);
        let by_hand = composed::gelu_backward(x.clone(), grad.clone());
        compare_gradients!(
            "gelu",
            grad,
            [x],
            Tracked::tanh_gelu(x.clone()),
            gelu_approximate(x.clone()),
            [by_hand]
        );
    }
}

#[test]
fn swiglus() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let shape = [draw.size(4), draw.size(40), draw.size(300)];
        let (gate, x) = (draw.tensor(shape) * 4.0, draw.tensor(shape));
        let grad = draw.tensor(shape);
        let by_hand = composed::swiglu_backward(gate.clone(), x.clone(), grad.clone());
        compare_gradients!(
            "swiglu",
            grad,
            [gate, x],
            Tracked::swiglu(gate.clone(), x.clone()),
            composed::swiglu(gate.clone(), x.clone()),
            [by_hand.0, by_hand.1]
        );
    }
}

/// Keeping less changes nothing: neither values nor gradients, in either type.
#[test]
fn projections_that_compute_their_input_again() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let (batch, tokens) = (draw.size(3), draw.size(40));
        let (width, output) = (draw.size(70), draw.size(50));
        let rows = batch * tokens;
        for dtype in [DType::F32, DType::BF16] {
            let [gate, x] = [(); 2].map(|()| {
                let x = draw.tensor([batch, tokens, width]).cast(dtype);
                Tensor::<Tracked, 3>::from_inner(x).require_grad()
            });
            let weight = track(&draw.tensor([output, width]));
            let bias = track(&draw.tensor([output]));
            let grad = draw.tensor([rows, output]);
            let flat = || x.clone().reshape([rows, width]);
            for biased in [true, false] {
                let layer = || (weight.clone(), biased.then(|| bias.clone()));
                // The output, and the gradients of whatever it depends on.
                let all = |y: Tensor<Tracked, 2>| {
                    let slopes = Tensor::from_inner(grad.clone().cast(y.dtype()));
                    let grads = (y.clone() * slopes).sum().backward();
                    let inputs = [&gate, &x].map(|x| x.grad(&grads).map(Tensor::into_data));
                    let weight = weight.grad(&grads).map(Tensor::into_data);
                    let bias = bias.grad(&grads).map(Tensor::into_data);
                    assert!(weight.is_some() && bias.is_some() == biased);
                    (y.into_data(), inputs, weight, bias)
                };
                let plain = |x| {
                    let (weight, bias) = layer();
                    Tracked::project(x, weight, bias)
                };

                let gated = Tracked::swiglu(gate.clone(), x.clone());
                let expected = all(plain(gated.reshape([rows, width])));
                let (w, b) = layer();
                let found = Tracked::project_swiglu(gate.clone(), x.clone(), w, b);
                let found = all(found.reshape([rows, output]));
                assert!(found.1.iter().all(Option::is_some));
                assert_eq!(found, expected, "SwiGLU, {dtype:?}");

                let expected = all(plain(Tracked::tanh_gelu(flat())));
                let (w, b) = layer();
                let found = all(Tracked::project_gelu(flat(), w, b));
                assert_eq!(found, expected, "GELU, {dtype:?}");

                for to in [DType::F32, DType::BF16] {
                    let expected = all(plain(Tracked::cast(flat(), to)));
                    let (w, b) = layer();
                    let found = all(Tracked::project_as(flat(), w, b, to));
                    assert_eq!(found, expected, "{dtype:?} as {to:?}");
                }
            }
        }
    }
}

#[test]
fn attentions() {
    for case in cases(16) {
        let mut draw = Draw::new(case);
        let (batch, tokens, words) = (draw.size(3), draw.size(130), draw.size(60));
        let (heads, head_dim) = (draw.size(4), 1 + draw.size(33));
        let width = heads * head_dim;
        let qkv = draw.tensor([batch, tokens, 3 * width]);
        let grad = draw.tensor([batch, tokens, width]);
        let by_hand = composed::self_attention_backward(qkv.clone(), heads, 1e-6, grad.clone());
        compare_gradients!(
            "self-attention",
            grad,
            [qkv],
            Tracked::self_attention(qkv.clone(), heads, 1e-6),
            composed::self_attention(qkv.clone(), heads, 1e-6),
            [by_hand]
        );
        let q = draw.tensor([batch, tokens, width]);
        let kv = draw.tensor([batch, words, 2 * width]);
        let by_hand =
            composed::cross_attention_backward(q.clone(), kv.clone(), heads, 1e-6, grad.clone());
        compare_gradients!(
            "cross-attention",
            grad,
            [q, kv],
            Tracked::cross_attention(q.clone(), kv.clone(), heads, 1e-6),
            composed::cross_attention(q.clone(), kv.clone(), heads, 1e-6),
            [by_hand.0, by_hand.1]
        );
    }
}

#[test]
fn attentions_without_norms() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (batch, words) = (draw.size(3), draw.size(60));
        // More queries than a thread takes at a time, or fewer.
        let tokens = if case == 0 { 1700 } else { draw.size(130) };
        let (heads, head_dim) = (draw.size(4), draw.size(33));
        let q = draw.tensor([batch, tokens, heads * head_dim]);
        let k = draw.tensor([batch, words, heads * head_dim]);
        let v = draw.tensor([batch, words, heads * head_dim]);
        let grad = draw.tensor([batch, tokens, heads * head_dim]);
        let [by_q, by_k, by_v] = composed::plain_attention_backward(
            q.clone(),
            k.clone(),
            v.clone(),
            heads,
            grad.clone(),
        );
        compare_gradients!(
            "attention",
            grad,
            [q, k, v],
            Tracked::plain_attention(q.clone(), k.clone(), v.clone(), heads),
            composed::plain_attention(q.clone(), k.clone(), v.clone(), heads),
            [by_q, by_k, by_v]
        );
    }
}

/// One head of many tokens, which threads share, among them.
#[test]
fn packed_attentions() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let tokens = if case < 2 { 1700 } else { draw.size(130) };
        let (batch, heads, head_dim) = (draw.size(2), draw.size(3), draw.size(33));
        let qkv = draw.tensor([batch, tokens, 3 * heads * head_dim]);
        for causal in [false, true] {
            assert_close(
                &format!("attention, causal {causal}"),
                &Flex::packed_attention(qkv.clone(), heads, causal),
                &composed::packed_attention(qkv.clone(), heads, causal),
            );
        }
        // The first token sees itself alone, and the last all of them.
        let [_, _, v] = composed::split_last::<_, 3, 3>(qkv.clone());
        let seen = Flex::packed_attention(qkv.clone(), heads, true);
        let first = |x: Tensor<Flex, 3>| x.narrow(1, 0, 1);
        assert_close("the first", &first(seen.clone()), &first(v));
        let last = |x: Tensor<Flex, 3>| x.narrow(1, tokens - 1, 1);
        let all = Flex::packed_attention(qkv, heads, false);
        assert_close("the last", &last(seen), &last(all));
    }
}

/// One head of many tokens, which threads share, among them.
#[test]
fn biased_attentions() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (tokens, heads) = match case {
            0 => (700, 1),
            _ => (draw.size(130), draw.size(3)),
        };
        let (batch, head_dim) = (draw.size(3), draw.size(33));
        let qkv = draw.tensor([batch, tokens, 3 * heads * head_dim]);
        let bias = draw.tensor([heads, tokens, tokens]);
        // A bias like the first, and words that nobody sees.
        let padding = draw.tensor([batch, tokens]);
        let padding = padding.clone().greater_elem(1.0).float() * -1e9 + padding;
        for padding in [None, Some(padding)] {
            assert_close(
                &format!("attention, padded {}", padding.is_some()),
                &Flex::biased_attention(qkv.clone(), bias.clone(), padding.clone()),
                &composed::biased_attention(qkv.clone(), bias.clone(), padding),
            );
        }
    }
}

#[test]
fn norms_of_frozen_networks() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let shape @ [.., dim] = [draw.size(3), draw.size(40), draw.size(200)];
        let (x, weight) = (draw.tensor(shape) * 3.0 + 1.0, draw.tensor([dim]));
        let bias = draw.tensor([dim]);
        let normed = composed::norm(x.clone(), 1e-2);
        let expected = normed * weight.clone().unsqueeze() + bias.clone().unsqueeze();
        for norm in [Flex::affine_norm, composed::affine_norm] {
            let found = norm(
                x.clone(),
                weight.clone(),
                bias.clone(),
                1e-2,
                Precision::F32,
            );
            assert_close("affine norm", &found, &expected);
        }
        assert_close(
            "root mean square",
            &Flex::rms_norm(x.clone(), weight.clone(), 1e-2, Precision::F32),
            &composed::rms_norm(x, weight, 1e-2, Precision::F32),
        );
    }
}

#[test]
fn nonlinearities() {
    use super::Activation::{Gelu, GeluTanh, QuickGelu, Relu, Silu};
    for (case, activation) in [Gelu, GeluTanh, QuickGelu, Relu, Silu]
        .into_iter()
        .enumerate()
    {
        let mut draw = Draw::new(case as u64);
        let shape = [draw.size(3), draw.size(40), draw.size(500)];
        let (x, gate) = (draw.tensor(shape), draw.tensor(shape) * 3.0);
        assert_close(
            &format!("{activation:?}"),
            &Flex::activate(gate.clone(), activation),
            &composed::activate(gate.clone(), activation),
        );
        assert_close(
            &format!("gated by {activation:?}"),
            &Flex::gated(gate.clone(), x.clone(), activation),
            &composed::gated(gate, x, activation),
        );
    }
}

#[test]
fn geglus() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let (batch, tokens, width) = (draw.size(4), draw.size(40), draw.size(300));
        let x = draw.tensor([batch, tokens, 2 * width]) * 3.0;
        let grad = draw.tensor([batch, tokens, width]);
        let by_hand = composed::geglu_backward(x.clone(), grad.clone());
        compare_gradients!(
            "geglu",
            grad,
            [x],
            Tracked::geglu(x.clone()),
            composed::geglu(x.clone()),
            [by_hand]
        );
    }
}

#[test]
fn views_are_read_in_their_order() {
    // A transposed and a narrowed view, whose memory is in another order than their elements.
    let mut draw = Draw::new(1);
    let x = draw.tensor([9, 6]).transpose().narrow(1, 2, 5);
    let weight = draw.tensor([5, 4]).transpose();
    let found = Flex::project(x.clone(), weight.clone(), None);
    assert_close(
        "project",
        &found,
        &composed::project(x.clone(), weight, None),
    );
    let weight = draw.tensor([10]).narrow(0, 3, 5);
    let expected = composed::norm(x.clone(), 1e-5) * weight.clone().unsqueeze();
    assert_close("norm", &Flex::norm(x, weight, 1e-5), &expected);
}

#[test]
fn other_types_of_numbers_take_the_composed_operations() {
    use burn::tensor::DType;
    let x = Draw::new(2).tensor([4, 8]);
    let weight = Tensor::<Flex, 1>::ones([8], &Default::default());
    let found = Flex::norm(
        x.clone().cast(DType::F64),
        weight.clone().cast(DType::F64),
        1e-5,
    );
    assert_eq!(found.dtype(), DType::F64);
    assert_close(
        "norm",
        &found.cast(DType::F32),
        &Flex::norm(x, weight, 1e-5),
    );
}
