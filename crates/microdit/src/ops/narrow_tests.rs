//! Operations whose products take and give bf16, against the composed ones in f32 of the same rounded numbers.

use super::{
    Activation, DitBackend, ExpertInputs, GroupNormOptions, composed,
    tests::{Draw, cases},
};
use crate::nn::Precision;
use burn::tensor::{DType, Tensor, activation::gelu_approximate, bf16, ops::PaddedConvOptions};
use burn_autodiff::Autodiff;
use burn_flex::Flex;

/// How far a number may be from the nearest of bf16, relative to it: half the distance of two neighbors.
const ROUNDING: f32 = 1.0 / 256.0;

fn narrow<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    Flex::cast(x, DType::BF16)
}

fn wide<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    Flex::cast(x, DType::F32)
}

/// Numbers of bf16, and the same in f32.
fn pair<const D: usize>(draw: &mut Draw, shape: [usize; D]) -> [Tensor<Flex, D>; 2] {
    let x = narrow(draw.tensor(shape));
    [x.clone(), wide(x)]
}

/// Asserts that the largest difference is within this many roundings of the largest element.
#[track_caller]
fn assert_rounded<const D: usize>(
    name: &str,
    dtype: DType,
    found: Tensor<Flex, D>,
    expected: &Tensor<Flex, D>,
    roundings: f32,
) {
    assert_eq!(found.dtype(), dtype, "{name}");
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let most = |x: Tensor<Flex, D>| {
        let values = x.into_data().to_vec::<f32>().unwrap();
        assert!(values.iter().all(|x| x.is_finite()), "{name}: not finite");
        values.iter().fold(0f32, |m, x| m.max(x.abs()))
    };
    let error = most(wide(found) - expected.clone());
    let size = most(expected.clone()).max(1e-3);
    // Beside the roundings counted, sums in f32 in another order.
    let bound = (roundings * ROUNDING + 2e-5) * size;
    assert!(error <= bound, "{name}: {error:e} of {size:e}");
}

/// Tensors of bf16, all of one rounding.
#[track_caller]
fn assert_narrow<const D: usize>(name: &str, found: Tensor<Flex, D>, expected: &Tensor<Flex, D>) {
    assert_rounded(name, DType::BF16, found, expected, 1.0);
}

#[test]
fn casts_round_and_widen() {
    for count in [0, 1, 33, 70_000] {
        let x = Draw::new(count as u64).tensor([count]);
        // burn's own conversion, by way of f64, rounds some numbers wrongly.
        let values = x.to_data().to_vec::<f32>().unwrap();
        let rounded: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        let found = narrow(x);
        assert_eq!(found.to_data().to_vec::<bf16>().unwrap(), rounded);
        let widened: Vec<f32> = rounded.into_iter().map(bf16::to_f32).collect();
        assert_eq!(wide(found).to_data().to_vec::<f32>().unwrap(), widened);
    }
    // A view, and a gradient that comes back in the type of what was cast.
    let x = Draw::new(1).tensor([3, 4]).transpose();
    let ordered = Tensor::<Flex, 2>::from_data(x.to_data(), &Default::default());
    assert_eq!(narrow(x.clone()).to_data(), narrow(ordered).to_data());
    type Tracked = Autodiff<Flex>;
    let x = Tensor::<Tracked, 2>::from_inner(x).require_grad();
    let y = Tracked::cast(Tracked::cast(x.clone(), DType::BF16), DType::F32);
    let slope = x.grad(&(y * 3.0).sum().backward()).unwrap();
    assert_eq!(
        slope.to_data(),
        Tensor::<Flex, 2>::full([4, 3], 3.0, &Default::default()).to_data()
    );
}

/// The weights are rounded on the way; their gradients, and the bias's, are not.
#[test]
fn projections() {
    for case in cases(8) {
        let mut draw = Draw::new(case);
        let (rows, input, output) = (draw.size(130), draw.size(70), draw.size(90));
        let [x, x_wide] = pair(&mut draw, [rows, input]);
        let weight = draw.tensor([output, input]);
        let rounded = wide(narrow(weight.clone()));
        let bias = draw.tensor([output]);
        let [grad, grad_wide] = pair(&mut draw, [rows, output]);
        for bias in [Some(bias), None] {
            let expected = composed::project(x_wide.clone(), rounded.clone(), bias.clone());
            let of = |weight| Flex::project(x.clone(), weight, bias.clone());
            let found = of(weight.clone());
            // Weights that were rounded before are the same.
            let rounded_before = of(narrow(weight.clone()));
            assert_eq!(found.to_data(), rounded_before.to_data());
            assert_narrow("project", found, &expected);
        }
        let (by_x, by_weight) = composed::project_backward(x_wide, rounded, grad_wide.clone());
        let (x_grad, weight_grad) = Flex::project_backward(x, weight, grad.clone());
        assert_narrow("gradient of x", x_grad, &by_x);
        assert_rounded(
            "gradient of weight",
            DType::F32,
            weight_grad,
            &by_weight,
            0.0,
        );
        let by_bias = composed::sum_rows(grad_wide);
        let sum = Flex::sum_rows(grad.clone());
        assert_rounded("gradient of bias", DType::F32, sum, &by_bias, 0.0);
        assert_rounded(
            "composed",
            DType::F32,
            composed::sum_rows(grad),
            &by_bias,
            0.0,
        );
    }
}

#[test]
fn pointwise_operations() {
    for case in cases(6) {
        let mut draw = Draw::new(case);
        let shape = [draw.size(4), draw.size(40), 2 * draw.size(150)];
        let [x, x_wide] = pair(&mut draw, shape);
        let [gate, gate_wide] = pair(&mut draw, shape);
        let [grad, grad_wide] = pair(&mut draw, shape);
        let [weight, bias] = [0, 1].map(|_| draw.tensor([shape[2]]));
        let stream: Tensor<Flex, 3> = draw.tensor(shape);
        let of = |precision, norm: fn(_, _, _, _, _) -> Tensor<Flex, 3>| {
            norm(
                stream.clone(),
                weight.clone(),
                bias.clone(),
                1e-2,
                precision,
            )
        };
        let expected = of(Precision::F32, composed::affine_norm);
        for norm in [Flex::affine_norm, composed::affine_norm] {
            assert_narrow("affine norm", of(Precision::Bf16, norm), &expected);
        }
        let expected = composed::rms_norm(stream.clone(), weight.clone(), 1e-2, Precision::F32);
        for norm in [Flex::rms_norm, composed::rms_norm] {
            let found = norm(stream.clone(), weight.clone(), 1e-2, Precision::Bf16);
            assert_narrow("norm by the root mean square", found, &expected);
        }
        for activation in [Activation::GeluTanh, Activation::Relu] {
            let expected = composed::gated(gate_wide.clone(), x_wide.clone(), activation);
            let found = Flex::gated(gate.clone(), x.clone(), activation);
            assert_narrow("gated", found, &expected);
        }
        let expected = composed::swiglu(gate_wide.clone(), x_wide.clone());
        assert_narrow("swiglu", Flex::swiglu(gate.clone(), x.clone()), &expected);
        let (by_gate, by_x) =
            composed::swiglu_backward(gate_wide.clone(), x_wide.clone(), grad_wide.clone());
        let (gate_grad, x_grad) = Flex::swiglu_backward(gate.clone(), x.clone(), grad.clone());
        assert_narrow("swiglu: gradient of gate", gate_grad, &by_gate);
        assert_narrow("swiglu: gradient of x", x_grad, &by_x);

        assert_narrow(
            "geglu",
            Flex::geglu(x.clone()),
            &composed::geglu(x_wide.clone()),
        );
        let half = [shape[0], shape[1], shape[2] / 2];
        let [part, part_wide] = pair(&mut draw, half);
        let expected = composed::geglu_backward(x_wide.clone(), part_wide);
        assert_narrow(
            "geglu backward",
            Flex::geglu_backward(x.clone(), part),
            &expected,
        );

        let flat = |x: Tensor<Flex, 3>| x.flatten::<2>(0, 1);
        let expected = gelu_approximate(flat(x_wide.clone()));
        assert_narrow("gelu", Flex::tanh_gelu(flat(x.clone())), &expected);
        let expected = composed::gelu_backward(flat(x_wide.clone()), flat(grad_wide.clone()));
        let found = Flex::tanh_gelu_backward(flat(x.clone()), flat(grad.clone()));
        assert_narrow("gelu backward", found, &expected);

        // The residual stream and its gate are f32.
        let gate = draw.tensor([shape[0], shape[2]]);
        let stream = draw.tensor(shape);
        let expected = stream.clone() + x_wide.clone() * gate.clone().unsqueeze_dim(1);
        for found in [
            Flex::gated_residual(stream.clone(), x.clone(), gate.clone()),
            composed::gated_residual(stream.clone(), x.clone(), gate.clone()),
        ] {
            assert_rounded("gated residual", DType::F32, found, &expected, 0.0);
        }
        let found = Flex::residual(stream.clone(), x.clone());
        let expected = stream.clone() + x_wide.clone();
        assert_rounded("residual", DType::F32, found, &expected, 0.0);
        let (by_x, by_gate) =
            composed::gated_residual_backward(x_wide, gate.clone(), stream.clone());
        for (x_grad, gate_grad) in [
            Flex::gated_residual_backward(x.clone(), gate.clone(), stream.clone()),
            composed::gated_residual_backward(x.clone(), gate.clone(), stream.clone()),
        ] {
            assert_narrow("gated residual: gradient of update", x_grad, &by_x);
            let name = "gated residual: gradient of gate";
            assert_rounded(name, DType::F32, gate_grad, &by_gate, 0.0);
        }
    }
}

/// Roundings of an attention's output and gradients: those of queries, keys, values, scores and their gradients that the
/// products take, beside that of the result.
const ATTENTION: f32 = 4.0;

#[test]
fn attentions() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (batch, tokens, words) = (draw.size(3), draw.size(130), draw.size(60));
        let (heads, head_dim) = (draw.size(4), 1 + draw.size(33));
        let width = heads * head_dim;
        // Less than 0.02 of a row's size apart, a row's variance is nothing but rounding.
        let eps = 1e-2;
        let assert_close = |name: &str, found: Tensor<Flex, 3>, expected: &Tensor<Flex, 3>| {
            assert_rounded(name, DType::BF16, found, expected, ATTENTION);
        };
        let [qkv, qkv_wide] = pair(&mut draw, [batch, tokens, 3 * width]);
        let [grad, grad_wide] = pair(&mut draw, [batch, tokens, width]);
        let expected = composed::self_attention(qkv_wide.clone(), heads, eps);
        assert_close(
            "self-attention",
            Flex::self_attention(qkv.clone(), heads, eps),
            &expected,
        );
        let bias = draw.tensor([heads, tokens, tokens]);
        let padding: Tensor<Flex, 2> = draw.tensor([batch, tokens]);
        let padding = Some(padding.greater_elem(1.0).float() * -1e9);
        let expected = composed::biased_attention(qkv_wide.clone(), bias.clone(), padding.clone());
        for attention in [Flex::biased_attention, composed::biased_attention] {
            let found = attention(qkv.clone(), bias.clone(), padding.clone());
            assert_close("attention with a bias", found, &expected);
        }
        let expected = composed::self_attention_backward(qkv_wide, heads, eps, grad_wide.clone());
        let found = Flex::self_attention_backward(qkv, heads, eps, grad.clone());
        assert_close("self-attention backward", found, &expected);

        let [q, q_wide] = pair(&mut draw, [batch, tokens, width]);
        let [kv, kv_wide] = pair(&mut draw, [batch, words, 2 * width]);
        let expected = composed::cross_attention(q_wide.clone(), kv_wide.clone(), heads, eps);
        let found = Flex::cross_attention(q.clone(), kv.clone(), heads, eps);
        assert_close("cross-attention", found, &expected);
        let (by_q, by_kv) = composed::cross_attention_backward(
            q_wide.clone(),
            kv_wide.clone(),
            heads,
            eps,
            grad_wide.clone(),
        );
        let (q_grad, kv_grad) =
            Flex::cross_attention_backward(q.clone(), kv.clone(), heads, eps, grad.clone());
        assert_close("cross-attention: gradient of q", q_grad, &by_q);
        assert_close("cross-attention: gradient of kv", kv_grad, &by_kv);

        let [k, v] = composed::split_last(kv);
        let [k_wide, v_wide] = composed::split_last(kv_wide);
        let expected =
            composed::plain_attention(q_wide.clone(), k_wide.clone(), v_wide.clone(), heads);
        let found = Flex::plain_attention(q.clone(), k.clone(), v.clone(), heads);
        assert_close("attention", found, &expected);
        let expected = composed::plain_attention_backward(q_wide, k_wide, v_wide, heads, grad_wide);
        let found = Flex::plain_attention_backward(q, k, v, heads, grad);
        for ((name, found), expected) in ["q", "k", "v"].iter().zip(found).zip(expected) {
            assert_close(&format!("attention: gradient of {name}"), found, &expected);
        }
    }
}

#[test]
fn expert_layers() {
    for case in cases(12) {
        let mut draw = Draw::new(case);
        let (batch, tokens, experts) = (draw.size(3), draw.size(24), draw.size(5));
        let (dim, hidden) = (draw.size(40), draw.size(60));
        let taken = if case == 0 { tokens } else { draw.size(tokens) };
        let [x, x_wide] = pair(&mut draw, [batch, tokens, dim]);
        let [grad, grad_wide] = pair(&mut draw, [batch, tokens, dim]);
        let inputs = ExpertInputs {
            x,
            chosen: Flex::top_k(draw.tensor([batch, experts, tokens]), taken),
            weights: draw.tensor([batch, experts, taken]),
            w1: draw.tensor([experts, dim, hidden]),
            w2: draw.tensor([experts, hidden, dim]),
        };
        let reference = ExpertInputs {
            x: x_wide,
            w1: wide(narrow(inputs.w1.clone())),
            w2: wide(narrow(inputs.w2.clone())),
            ..inputs.clone()
        };
        let (expected, hidden_layer) = composed::experts(reference.clone());
        let (found, found_hidden) = Flex::experts(inputs.clone());
        assert_narrow("hidden", found_hidden.clone(), &hidden_layer);
        // Rounded: the hidden layer, its activation, every expert's output, their sum.
        assert_rounded("experts", DType::BF16, found, &expected, 4.0);
        let by = composed::experts_backward(reference, hidden_layer, grad_wide);
        let grads = Flex::experts_backward(inputs, found_hidden, grad);
        // The hidden layer, the gradient behind it, that times the GELU's slope, the result and its sum.
        assert_rounded("experts: gradient of x", DType::BF16, grads.x, &by.x, 5.0);
        let rounded = |name: &str, found, expected| {
            assert_rounded(
                &format!("experts: gradient of {name}"),
                DType::F32,
                found,
                expected,
                4.0,
            );
        };
        rounded("weights", grads.weights, &by.weights);
        rounded("w1", grads.w1, &by.w1);
        rounded("w2", grads.w2, &by.w2);
    }
}

/// The mean and the variance are of the numbers as they are; the output alone is rounded.
#[test]
fn group_norms() {
    let mut draw = Draw::new(5);
    let [x, x_wide] = pair(&mut draw, [2, 12, 5, 7]);
    let (weight, bias) = (draw.tensor([12]), draw.tensor([12]));
    for silu in [false, true] {
        let options = GroupNormOptions {
            groups: 3,
            eps: 1e-5,
            silu,
        };
        let norm = |x| Flex::group_norm(x, weight.clone(), bias.clone(), options);
        assert_narrow("group norm", norm(x.clone()), &norm(x_wide.clone()));
        // What other backends run: weights stay f32 there too.
        let norm = |x| composed::group_norm(x, weight.clone(), bias.clone(), options);
        assert_narrow("composed", norm(x.clone()), &norm(x_wide.clone()));
        let back = |x: Tensor<Flex, 4>| {
            let grad = x.clone();
            composed::group_norm_backward(x, weight.clone(), bias.clone(), options, grad).x
        };
        assert_narrow(
            "composed, backwards",
            back(x.clone()),
            &back(x_wide.clone()),
        );
    }
}

#[test]
fn residuals_of_bf16() {
    let mut draw = Draw::new(6);
    let [x, x_wide] = pair(&mut draw, [2, 3, 50]);
    let [update, update_wide] = pair(&mut draw, [2, 3, 50]);
    let found = Flex::residual(x, update);
    assert_narrow("residual", found, &(x_wide + update_wide));
}

#[test]
fn convolutions() {
    let mut draw = Draw::new(3);
    let options = PaddedConvOptions::asymmetric([2; 2], [0; 2], [1; 2], [1; 2], 1);
    let [x, x_wide] = pair(&mut draw, [2, 5, 8, 6]);
    let (weight, bias) = (draw.tensor([7, 5, 3, 3]), draw.tensor([7]));
    let rounded = wide(narrow(weight.clone()));
    let [grad, grad_wide] = pair(&mut draw, [2, 7, 4, 3]);
    let expected = composed::convolution(
        x_wide.clone(),
        rounded.clone(),
        Some(bias.clone()),
        &options,
    );
    let found = Flex::convolution(x.clone(), weight.clone(), Some(bias), &options);
    assert_rounded("convolution", DType::BF16, found, &expected, 2.0);
    let (by_x, by_weight) =
        composed::convolution_backward(x_wide, rounded, &options, grad_wide.clone());
    let (x_grad, weight_grad) = Flex::convolution_backward(x, weight, &options, grad.clone());
    assert_rounded(
        "convolution: gradient of x",
        DType::BF16,
        x_grad,
        &by_x,
        2.0,
    );
    let name = "convolution: gradient of weight";
    assert_rounded(name, DType::F32, weight_grad, &by_weight, 0.0);
    let by_bias = composed::sum_pixels(grad_wide);
    assert_rounded(
        "sum of pixels",
        DType::F32,
        Flex::sum_pixels(grad),
        &by_bias,
        0.0,
    );
}

/// What other backends compute: every product in bf16, its weights rounded before.
#[test]
fn composed_operations_take_weights_in_f32() {
    let mut draw = Draw::new(4);
    let (x, weight, bias) = (draw.tensor([9, 12]), draw.tensor([5, 12]), draw.tensor([5]));
    let grad = narrow(draw.tensor([9, 5]));
    let x = narrow(x);
    let expected = Flex::project(x.clone(), weight.clone(), Some(bias.clone()));
    let found = composed::project(x.clone(), weight.clone(), Some(bias));
    // The product, the bias and the sum are rounded.
    assert_rounded("project", DType::BF16, found, &wide(expected), 3.0);
    let (by_x, by_weight) = Flex::project_backward(x.clone(), weight.clone(), grad.clone());
    let (x_grad, weight_grad) = composed::project_backward(x, weight, grad);
    assert_rounded("gradient of x", DType::BF16, x_grad, &wide(by_x), 2.0);
    assert_rounded(
        "gradient of weight",
        DType::F32,
        weight_grad,
        &by_weight,
        1.0,
    );
}
