//! Each fused operation against the one composed from burn tensors, forward and backward, at the sizes of a block of
//! Tiny/2's mixer for four images of 256 px.

use burn::tensor::{Tensor, activation::gelu_approximate, ops::PaddedConvOptions};
use burn_flex::Flex;
use criterion::{Criterion, criterion_group, criterion_main};
use microdit::{
    DitBackend,
    ops::{
        AdamState, AdamStep, ExpertInputs, GroupNormOptions, OptimizerOps as _, composed, optimizer,
    },
    worker_pool,
};
use microdit_benches::normal;
use std::{hint::black_box, sync::Mutex, time::Duration};

const BATCH: usize = 4;
const TOKENS: usize = 256;
const WORDS: usize = 77;
const DIM: usize = 512;
const HIDDEN: usize = 2048;
const HEADS: usize = 16;
const EXPERTS: usize = 8;
const EPS: f64 = 1e-6;

fn compare<A, B>(
    c: &mut Criterion,
    name: &str,
    fused: impl Fn() -> A + Sync,
    composed: impl Fn() -> B + Sync,
) {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(300));
    // On a worker of the pool, as in a training run.
    group.bench_function("fused", |b| {
        worker_pool::enter(|| b.iter(|| black_box(fused())));
    });
    group.bench_function("composed", |b| {
        worker_pool::enter(|| b.iter(|| black_box(composed())));
    });
}

fn rows(c: &mut Criterion) {
    let x = normal(0, [BATCH * TOKENS, DIM]);
    let weight = normal(1, [HIDDEN, DIM]);
    let bias = normal(2, [HIDDEN]);
    let grad = normal(3, [BATCH * TOKENS, HIDDEN]);
    compare(
        c,
        "linear",
        || Flex::project(x.clone(), weight.clone(), Some(bias.clone())),
        || composed::project(x.clone(), weight.clone(), Some(bias.clone())),
    );
    compare(
        c,
        "linear backward",
        || Flex::project_backward(x.clone(), weight.clone(), grad.clone()),
        || composed::project_backward(x.clone(), weight.clone(), grad.clone()),
    );
    let gain = normal(1, [DIM]);
    let back = normal(4, [BATCH * TOKENS, DIM]);
    compare(
        c,
        "norm",
        || Flex::norm(x.clone(), gain.clone(), EPS),
        || composed::norm(x.clone(), EPS) * gain.clone().unsqueeze(),
    );
    compare(
        c,
        "norm backward",
        || Flex::norm_backward(x.clone(), gain.clone(), EPS, back.clone()),
        || composed::norm_backward(x.clone(), gain.clone(), EPS, back.clone()),
    );
    compare(
        c,
        "gelu",
        || Flex::tanh_gelu(x.clone()),
        || gelu_approximate(x.clone()),
    );
    compare(
        c,
        "gelu backward",
        || Flex::tanh_gelu_backward(x.clone(), back.clone()),
        || composed::gelu_backward(x.clone(), back.clone()),
    );
}

fn tokens(c: &mut Criterion) {
    let x = normal(0, [BATCH, TOKENS, DIM]);
    let update = normal(1, [BATCH, TOKENS, DIM]);
    let gain = normal(2, [DIM]);
    let [shift, scale] = [3, 4].map(|stream| normal(stream, [BATCH, DIM]));
    compare(
        c,
        "modulated norm",
        || Flex::modulated_norm(x.clone(), gain.clone(), shift.clone(), scale.clone(), EPS),
        || composed::modulated_norm(x.clone(), gain.clone(), shift.clone(), scale.clone(), EPS),
    );
    compare(
        c,
        "modulated norm backward",
        || {
            Flex::modulated_norm_backward(
                x.clone(),
                gain.clone(),
                scale.clone(),
                EPS,
                update.clone(),
            )
        },
        || {
            composed::modulated_norm_backward(
                x.clone(),
                gain.clone(),
                scale.clone(),
                EPS,
                update.clone(),
            )
        },
    );
    compare(
        c,
        "gated residual",
        || Flex::gated_residual(x.clone(), update.clone(), scale.clone()),
        || x.clone() + update.clone() * scale.clone().unsqueeze_dim(1),
    );
    compare(
        c,
        "gated residual backward",
        || Flex::gated_residual_backward(update.clone(), scale.clone(), x.clone()),
        || composed::gated_residual_backward(update.clone(), scale.clone(), x.clone()),
    );
    let [gate, wide, grad] = [5, 6, 7].map(|stream| normal(stream, [BATCH, TOKENS, HIDDEN]));
    compare(
        c,
        "swiglu",
        || Flex::swiglu(gate.clone(), wide.clone()),
        || composed::swiglu(gate.clone(), wide.clone()),
    );
    compare(
        c,
        "swiglu backward",
        || Flex::swiglu_backward(gate.clone(), wide.clone(), grad.clone()),
        || composed::swiglu_backward(gate.clone(), wide.clone(), grad.clone()),
    );
}

fn attention(c: &mut Criterion) {
    let qkv = normal(0, [BATCH, TOKENS, 3 * DIM]);
    let q = normal(1, [BATCH, TOKENS, DIM]);
    let kv = normal(2, [BATCH, WORDS, 2 * DIM]);
    let grad = normal(3, [BATCH, TOKENS, DIM]);
    compare(
        c,
        "self-attention",
        || Flex::self_attention(qkv.clone(), HEADS, EPS),
        || composed::self_attention(qkv.clone(), HEADS, EPS),
    );
    compare(
        c,
        "self-attention backward",
        || Flex::self_attention_backward(qkv.clone(), HEADS, EPS, grad.clone()),
        || composed::self_attention_backward(qkv.clone(), HEADS, EPS, grad.clone()),
    );
    compare(
        c,
        "cross-attention",
        || Flex::cross_attention(q.clone(), kv.clone(), HEADS, EPS),
        || composed::cross_attention(q.clone(), kv.clone(), HEADS, EPS),
    );
    compare(
        c,
        "cross-attention backward",
        || Flex::cross_attention_backward(q.clone(), kv.clone(), HEADS, EPS, grad.clone()),
        || composed::cross_attention_backward(q.clone(), kv.clone(), HEADS, EPS, grad.clone()),
    );
}

fn experts(c: &mut Criterion) {
    let taken = 2 * TOKENS / EXPERTS;
    let scores = normal(0, [BATCH, EXPERTS, TOKENS]);
    compare(
        c,
        "top-k scores",
        || Flex::top_k(scores.clone(), taken),
        || composed::top_k(scores.clone(), taken),
    );
    let chosen = Flex::top_k(scores, taken);
    let inputs = ExpertInputs {
        x: normal(1, [BATCH, TOKENS, DIM]),
        chosen,
        weights: normal(2, [BATCH, EXPERTS, taken]),
        w1: normal(3, [EXPERTS, DIM, HIDDEN]),
        w2: normal(4, [EXPERTS, HIDDEN, DIM]),
    };
    let grad = normal(5, [BATCH, TOKENS, DIM]);
    let (_, hidden) = Flex::experts(inputs.clone());
    compare(
        c,
        "experts",
        || Flex::experts(inputs.clone()),
        || composed::experts(inputs.clone()),
    );
    compare(
        c,
        "experts backward",
        || Flex::experts_backward(inputs.clone(), hidden.clone(), grad.clone()),
        || composed::experts_backward(inputs.clone(), hidden.clone(), grad.clone()),
    );
}

/// A level of Stable Diffusion's U-Net; `convolutions.rs` has more sizes.
fn convolutions(c: &mut Criterion) {
    let x = normal(0, [1, 320, 64, 64]);
    let weight = normal(1, [320, 320, 3, 3]);
    let bias = normal(2, [320]);
    let grad = normal(3, [1, 320, 64, 64]);
    let options = PaddedConvOptions::asymmetric([1; 2], [1; 2], [1; 2], [1; 2], 1);
    compare(
        c,
        "convolution",
        || Flex::convolution(x.clone(), weight.clone(), Some(bias.clone()), &options),
        || composed::convolution(x.clone(), weight.clone(), Some(bias.clone()), &options),
    );
    compare(
        c,
        "convolution backward",
        || Flex::convolution_backward(x.clone(), weight.clone(), &options, grad.clone()),
        || composed::convolution_backward(x.clone(), weight.clone(), &options, grad.clone()),
    );
}

/// Of a U-Net: Stable Diffusion's finest level but one for an image of 512 px, 640 channels of 32 x 32 pixels.
fn pixels(c: &mut Criterion) {
    let (channels, side, heads) = (640, 32, 8);
    let [x, grad] = [0, 1].map(|stream| normal(stream, [1, channels, side, side]));
    let [weight, bias] = [2, 3].map(|stream| normal(stream, [channels]));
    let options = GroupNormOptions {
        groups: 32,
        eps: 1e-5,
        silu: true,
    };
    compare(
        c,
        "group norm and silu",
        || Flex::group_norm(x.clone(), weight.clone(), bias.clone(), options),
        || composed::group_norm(x.clone(), weight.clone(), bias.clone(), options),
    );
    let backward = |of: fn(_, _, _, _, _) -> _| {
        of(
            x.clone(),
            weight.clone(),
            bias.clone(),
            options,
            grad.clone(),
        )
    };
    compare(
        c,
        "group norm and silu backward",
        || backward(Flex::group_norm_backward),
        || backward(composed::group_norm_backward),
    );
    let hidden = normal(4, [1, side * side, 8 * channels]);
    let back = normal(5, [1, side * side, 4 * channels]);
    compare(
        c,
        "geglu",
        || Flex::geglu(hidden.clone()),
        || composed::geglu(hidden.clone()),
    );
    compare(
        c,
        "geglu backward",
        || Flex::geglu_backward(hidden.clone(), back.clone()),
        || composed::geglu_backward(hidden.clone(), back.clone()),
    );
    for (name, words) in [
        ("self-attention of pixels", side * side),
        ("cross-attention of pixels", WORDS),
    ] {
        let [q, grad] = [6, 7].map(|stream| normal(stream, [1, side * side, channels]));
        let [k, v] = [8, 9].map(|stream| normal(stream, [1, words, channels]));
        let forward = |of: fn(_, _, _, _) -> _| of(q.clone(), k.clone(), v.clone(), heads);
        compare(
            c,
            name,
            || forward(Flex::plain_attention),
            || forward(composed::plain_attention),
        );
        let backward =
            |of: fn(_, _, _, _, _) -> _| of(q.clone(), k.clone(), v.clone(), heads, grad.clone());
        compare(
            c,
            &format!("{name} backward"),
            || backward(Flex::plain_attention_backward),
            || backward(composed::plain_attention_backward),
        );
    }
}

fn optimizer(c: &mut Criterion) {
    let grad = normal(0, [1 << 22]);
    let [param, first] = [1, 2].map(|stream| normal(stream, [1 << 22]));
    let second = first.clone() * first.clone();
    let scale = Tensor::ones([1], &Default::default());
    let step = AdamStep {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        lr: 1e-4,
        weight_decay: 0.1,
        step: 10,
    };
    // In turn the only holder of its memory, so that the fused step works in place, as in training.
    let state = || AdamState {
        param: param.clone(),
        first: first.clone(),
        second: second.clone(),
    };
    let held = Mutex::new(Some(Flex::adam(
        state(),
        grad.clone(),
        scale.clone(),
        &step,
    )));
    let in_place = || {
        let mut held = held.lock().expect("one thread at a time");
        let state = held.take().expect("put back below");
        *held = Some(Flex::adam(state, grad.clone(), scale.clone(), &step));
    };
    compare(c, "adamw, 4 M", in_place, || {
        optimizer::adam(state(), grad.clone(), scale.clone(), &step)
    });
    compare(
        c,
        "sum of squares, 4 M",
        || Flex::sum_of_squares(grad.clone()),
        || grad.clone().powi_scalar(2).sum(),
    );
}

criterion_group!(
    benches,
    rows,
    tokens,
    attention,
    experts,
    convolutions,
    pixels,
    optimizer
);
criterion_main!(benches);
