//! Every operation's gradient against difference quotients of its value.

use super::{DitBackend, ExpertInputs, GroupNormOptions, tests::Draw};
use burn::tensor::{DType, Int, Tensor, TensorData, ops::PaddedConvOptions};
use burn_autodiff::Autodiff;
use burn_flex::Flex;

type Tracked = Autodiff<Flex>;

/// A number computed from flat inputs.
type Loss<'a> = dyn Fn(&[Tensor<Tracked, 1>]) -> Tensor<Tracked, 1> + 'a;

/// The gradient along a random direction against the difference quotient, in f64, where the composed gradients run: with
/// steps of 1e-5 the quotient is exact to about 1e-9, a wrong term is off by percents.
fn follows_finite_differences(name: &str, draw: &mut Draw, sizes: &[usize], loss: &Loss<'_>) {
    let tensor = |draw: &mut Draw, size: usize| draw.tensor([size]).cast(DType::F64);
    let at: Vec<Tensor<Flex, 1>> = sizes.iter().map(|&size| tensor(draw, size)).collect();
    let along: Vec<Tensor<Flex, 1>> = sizes.iter().map(|&size| tensor(draw, size)).collect();
    let number = |x: Tensor<Flex, 1>| x.into_data().iter::<f64>().sum::<f64>();
    let value = |step: f64| {
        let moved = at
            .iter()
            .zip(&along)
            .map(|(x, d)| x.clone() + d.clone() * step);
        let moved: Vec<_> = moved.map(Tensor::<Tracked, 1>::from_inner).collect();
        number(loss(&moved).inner())
    };
    let step = 1e-5;
    let quotient = (value(step) - value(-step)) / (2.0 * step);
    let tracked = at.iter().cloned();
    let tracked: Vec<_> = tracked
        .map(|x| Tensor::<Tracked, 1>::from_inner(x).require_grad())
        .collect();
    let grads = loss(&tracked).backward();
    let slope: f64 = tracked
        .iter()
        .zip(&along)
        .map(|(x, d)| number(x.grad(&grads).expect("every input matters") * d.clone()))
        .sum();
    let error = (slope - quotient).abs() / quotient.abs().max(1.0);
    assert!(
        error < 1e-6,
        "{name}: gradient {slope}, quotient {quotient}"
    );
}

#[test]
fn gradients_follow_finite_differences() {
    let mut draw = Draw::new(11);
    // Two samples of three tokens, four words, six channels in two heads; a fixed weighting of the outputs makes a number.
    let (batch, tokens, words, dim, heads) = (2, 3, 4, 6, 2);
    let weigh = |y: Tensor<Tracked, 3>| {
        let count: usize = y.dims().iter().product();
        let flat = y.reshape([count]);
        let weights: Vec<f64> = (0..count).map(|i| (1.7 * i as f64).sin()).collect();
        let weights = TensorData::new(weights, [count]);
        let options = (&Default::default(), DType::F64);
        (flat * Tensor::from_data(weights, options)).sum()
    };
    let rows = batch * tokens * dim;
    let three = move |x: &Tensor<Tracked, 1>| x.clone().reshape([batch, tokens, dim]);
    let two = move |x: &Tensor<Tracked, 1>| x.clone().reshape([batch, dim]);
    let mut check = |name: &str, sizes: &[usize], loss: &Loss<'_>| {
        follows_finite_differences(name, &mut draw, sizes, loss);
    };
    check("project", &[rows, dim * 5, 5], &|x| {
        let y = Tracked::project(
            x[0].clone().reshape([batch * tokens, dim]),
            x[1].clone().reshape([5, dim]),
            Some(x[2].clone()),
        );
        weigh(y.unsqueeze())
    });
    check("norm", &[rows, dim], &|x| {
        let y = Tracked::norm(
            x[0].clone().reshape([batch * tokens, dim]),
            x[1].clone(),
            1e-6,
        );
        weigh(y.unsqueeze())
    });
    check(
        "modulated norm",
        &[rows, dim, batch * dim, batch * dim],
        &|x| {
            let (shift, scale) = (two(&x[2]), two(&x[3]));
            weigh(Tracked::modulated_norm(
                three(&x[0]),
                x[1].clone(),
                shift,
                scale,
                1e-6,
            ))
        },
    );
    check("gated residual", &[rows, rows, batch * dim], &|x| {
        weigh(Tracked::gated_residual(
            three(&x[0]),
            three(&x[1]),
            two(&x[2]),
        ))
    });
    check("swiglu", &[rows, rows], &|x| {
        weigh(Tracked::swiglu(three(&x[0]), three(&x[1])))
    });
    check("self-attention", &[3 * rows], &|x| {
        let qkv = x[0].clone().reshape([batch, tokens, 3 * dim]);
        weigh(Tracked::self_attention(qkv, heads, 1e-6))
    });
    check("cross-attention", &[rows, batch * words * 2 * dim], &|x| {
        let kv = x[1].clone().reshape([batch, words, 2 * dim]);
        weigh(Tracked::cross_attention(three(&x[0]), kv, heads, 1e-6))
    });
    check(
        "attention",
        &[rows, batch * words * dim, batch * words * dim],
        &|x| {
            let context = |x: &Tensor<Tracked, 1>| x.clone().reshape([batch, words, dim]);
            weigh(Tracked::plain_attention(
                three(&x[0]),
                context(&x[1]),
                context(&x[2]),
                heads,
            ))
        },
    );
    check("geglu", &[2 * rows], &|x| {
        let x = x[0].clone().reshape([batch, tokens, 2 * dim]);
        weigh(Tracked::geglu(x))
    });
    for silu in [false, true] {
        check("group norm", &[batch * dim * 4, dim, dim], &|x| {
            let image = x[0].clone().reshape([batch, dim, 2, 2]);
            let options = GroupNormOptions {
                groups: 3,
                eps: 1e-6,
                silu,
            };
            let y = Tracked::group_norm(image, x[1].clone(), x[2].clone(), options);
            weigh(y.flatten(2, 3))
        });
    }
    // 5 x 4 pixels of two channels, halved to 2 x 2 of three, with one row of padding below and a column on either side.
    check("convolution", &[batch * 2 * 20, 3 * 2 * 9, 3], &|x| {
        let y = Tracked::convolution(
            x[0].clone().reshape([batch, 2, 5, 4]),
            x[1].clone().reshape([3, 2, 3, 3]),
            Some(x[2].clone()),
            &PaddedConvOptions::asymmetric([2; 2], [0, 1], [1, 1], [1; 2], 1),
        );
        weigh(y.reshape([batch, 3, 4]))
    });
    let (experts, taken, hidden) = (2, 2, 5);
    let chosen = [0, 2, 1, 2, 2, 1, 0, 1];
    let chosen = TensorData::new(chosen.map(i64::from).to_vec(), [batch, experts, taken]);
    let weights = experts * dim * hidden;
    check(
        "experts",
        &[rows, batch * experts * taken, weights, weights],
        &|x| {
            let (output, _) = Tracked::experts(ExpertInputs {
                x: three(&x[0]),
                chosen: Tensor::<Tracked, 3, Int>::from_data(chosen.clone(), &Default::default()),
                weights: x[1].clone().reshape([batch, experts, taken]),
                w1: x[2].clone().reshape([experts, dim, hidden]),
                w2: x[3].clone().reshape([experts, hidden, dim]),
            });
            weigh(output)
        },
    );
}
