//! Times convolutions of VAEs and U-Nets, those written here and burn's, by turns.
//!
//!     cargo run --bin microdit-convolutions
//!
//! `benches/torch/convolutions.py` asks it for one measurement at a time and puts PyTorch's beside it.

use burn::tensor::{DType, Tensor, ops::PaddedConvOptions};
use burn_flex::Flex;
use clap::Parser;
use microdit::{DitBackend as _, ops::composed, worker_pool};
use microdit_benches::normal;
use serde::{Deserialize, Serialize};
use std::{hint::black_box, io::stdin, time::Instant};

/// Batch, channels of input and output, side of the input, size of the kernel, stride.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Case {
    batch: usize,
    input: usize,
    output: usize,
    side: usize,
    kernel: usize,
    stride: usize,
}

const fn case(channels: [usize; 2], side: usize, kernel: usize, stride: usize) -> Case {
    let [input, output] = channels;
    Case {
        batch: 1,
        input,
        output,
        side,
        kernel,
        stride,
    }
}

/// The VAE's decoder for a picture of 512 px, its encoder's second halving, then Stable Diffusion's U-Net for one of 512 px, and a
/// shortcut of the VAE's.
const CASES: [Case; 15] = [
    case([512; 2], 64, 3, 1),
    case([256; 2], 128, 3, 1),
    case([128; 2], 256, 3, 1),
    case([3, 128], 256, 3, 1),
    case([128, 3], 256, 3, 1),
    case([256; 2], 128, 3, 2),
    case([320; 2], 64, 3, 1),
    case([640; 2], 32, 3, 1),
    case([1280; 2], 16, 3, 1),
    case([1280; 2], 8, 3, 1),
    Case {
        batch: 8,
        ..case([1280; 2], 8, 3, 1)
    },
    case([320; 2], 64, 3, 2),
    case([320; 2], 64, 1, 1),
    case([1280; 2], 16, 1, 1),
    case([128, 256], 128, 1, 1),
];

#[derive(Clone, Copy, Debug, Deserialize)]
enum Side {
    #[serde(rename = "microdit")]
    Microdit,
    #[serde(rename = "microdit, bf16")]
    Bf16,
    #[serde(rename = "burn")]
    Burn,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    forward: f64,
    backward: f64,
}

/// A convolution's tensors.
struct Layer {
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 4>,
    bias: Tensor<Flex, 1>,
    grad: Tensor<Flex, 4>,
    options: PaddedConvOptions<2>,
}

impl Layer {
    fn new(case: Case) -> Self {
        let Case {
            batch,
            input,
            output,
            side,
            kernel,
            stride,
        } = case;
        let pad = [kernel / 2; 2];
        Self {
            x: normal(0, [batch, input, side, side]),
            weight: normal(1, [output, input, kernel, kernel]),
            bias: normal(2, [output]),
            grad: normal(3, [batch, output, side / stride, side / stride]),
            options: PaddedConvOptions::asymmetric([stride; 2], pad, pad, [1; 2], 1),
        }
    }

    fn times(&self, side: Side) -> Times {
        let [mut x, weight, mut grad] = [&self.x, &self.weight, &self.grad].map(Tensor::clone);
        if matches!(side, Side::Bf16) {
            // Weights stay f32, as layers have them.
            [x, grad] = [x, grad].map(|x| Flex::cast(x, DType::BF16));
        }
        let (forward_weight, bias) = (weight.clone(), Some(self.bias.clone()));
        let options = &self.options;
        // On a worker of the pool, as in a run.
        worker_pool::enter(|| match side {
            Side::Microdit | Side::Bf16 => Times {
                forward: seconds(|| Flex::convolution(x.clone(), forward_weight, bias, options)),
                backward: seconds(|| {
                    let bias = Flex::sum_pixels(grad.clone());
                    (
                        bias,
                        Flex::convolution_backward(x.clone(), weight, options, grad),
                    )
                }),
            },
            Side::Burn => Times {
                forward: seconds(|| {
                    composed::convolution(x.clone(), forward_weight, bias, options)
                }),
                backward: seconds(|| {
                    let bias = composed::sum_pixels(grad.clone());
                    let grads = composed::convolution_backward(x.clone(), weight, options, grad);
                    (bias, grads)
                }),
            },
        })
    }
}

fn seconds<R>(work: impl FnOnce() -> R) -> f64 {
    let begin = Instant::now();
    black_box(work());
    begin.elapsed().as_secs_f64()
}

/// What is asked for on a line of standard input.
#[derive(Debug, Deserialize)]
struct Turn {
    case: usize,
    side: Side,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Prints the cases, then measures one for every line on standard input, such as `{"case": 0, "side": "burn"}`.
    #[arg(long)]
    turns: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if arguments.turns {
        println!("{}", serde_json::to_string(&CASES).expect("numbers"));
        let mut held: Option<(usize, Layer)> = None;
        for line in stdin().lines() {
            let line = line.expect("standard input");
            let turn: Turn = serde_json::from_str(&line).expect("a case and a side");
            if held.as_ref().is_none_or(|(case, _)| *case != turn.case) {
                held = Some((turn.case, Layer::new(CASES[turn.case])));
            }
            let (_, layer) = held.as_ref().expect("set above");
            let times = layer.times(turn.side);
            println!("{}", serde_json::to_string(&times).expect("numbers"));
        }
        return;
    }
    println!("| case | forward, ms | burn's | ratio | backward, ms | burn's | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for case in CASES {
        let layer = Layer::new(case);
        let rounds = 0..=arguments.rounds;
        let mut pairs: Vec<[Times; 2]> = rounds
            .map(|_| [Side::Microdit, Side::Burn].map(|side| layer.times(side)))
            .collect();
        // The first allocates.
        pairs.remove(0);
        let row = |time: fn(&Times) -> f64| {
            let of = |side: usize| pairs.iter().map(move |pair| 1e3 * time(&pair[side]));
            let ratio = of(1).zip(of(0)).map(|(burn, ours)| burn / ours);
            let [ours, burn] = [0, 1].map(|side| median(of(side)));
            format!("{ours:.1} | {burn:.1} | {:.2}", median(ratio))
        };
        let (forward, backward) = (row(|times| times.forward), row(|times| times.backward));
        println!("| {case:?} | {forward} | {backward} |");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
