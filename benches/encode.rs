//! Times a VAE and the text tower of CLIP or the encoder of T5 in two folders, on inputs in a file, and prints a JSON line for each
//! turn: one of the sides of `encode.py`.
//!
//!     cargo run --bin microdit-encode -- vae text --inputs inputs.safetensors --output output.safetensors

use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_flex::Flex;
use clap::Parser;
use microdit::{DitBackend, nn::Precision, weights::StateDict, worker_pool};
use microdit_benches::{cpu_seconds, peak_mib, turns};
use microdit_encoders::{text::TextEncoder, vae::Vae};
use microdit_train::allocator;
use serde_json::json;
use std::{path::PathBuf, time::Instant};

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the VAE
    vae: PathBuf,
    /// Folder of the text encoder
    text: PathBuf,
    /// Pictures `images` in -1..1, and `ids` of captions' tokens as f32
    #[arg(long)]
    inputs: PathBuf,
    /// Where the means of the latents and the states of the tokens go
    #[arg(long)]
    output: PathBuf,
    /// Compute in bf16
    #[arg(long)]
    bf16: bool,
    /// Timed turns, after one that is not
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Instead of `--steps`, a turn for every line on the standard input
    #[arg(long)]
    turns: bool,
}

fn bench<B: DitBackend>(arguments: &Arguments) {
    let device = Default::default();
    let precision = match arguments.bf16 {
        true => Precision::Bf16,
        false => Precision::F32,
    };
    let vae = Vae::<B>::open(&arguments.vae, &device).expect("a VAE");
    let Vae::Kl(vae) = vae.computing_in(precision) else {
        panic!("a VAE with a posterior is measured");
    };
    let text = TextEncoder::<B>::open(&arguments.text, &device).expect("a text encoder");
    let text = text.computing_in(precision);
    let inputs = StateDict::read(&arguments.inputs).expect("inputs");
    let input = |name: &str| inputs.get(name).expect("an input").clone();
    let images = Tensor::<B, 4>::from_data(input("images"), &device);
    let ids = input("ids");
    let shape: [usize; 2] = ids.shape.dims();
    let ids: Vec<i64> = ids.iter::<f32>().map(|id| id as i64).collect();
    let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, shape), &device);
    for turn in turns((!arguments.turns).then_some(arguments.steps)) {
        let _awake = B::keep_awake();
        let (started, worked) = (Instant::now(), cpu_seconds());
        let latents = vae.encode(images.clone()).mean.into_data();
        let (encoded, encoding) = (started.elapsed().as_secs_f64(), cpu_seconds() - worked);
        let states = match &text {
            TextEncoder::Clip(tower, ..) => tower.forward(ids.clone()).hidden,
            TextEncoder::T5(encoder, ..) => encoder.forward(ids.clone(), None),
        };
        let states = states.into_data();
        let line = json!({
            "vae": encoded, "vae_cpu": encoding, "text": started.elapsed().as_secs_f64() - encoded,
            "text_cpu": cpu_seconds() - worked - encoding, "peak_mib": peak_mib(),
        });
        if turn == 0 {
            let named = [("latents", latents), ("states", states)];
            let named = named.map(|(name, data)| (name.to_owned(), data));
            let written = StateDict::from_tensors(named).write_safetensors(
                &arguments.output,
                DType::F32,
                None,
            );
            written.expect("the output can be written");
        } else {
            println!("{line}");
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    allocator::keep_freed();
    worker_pool::enter(|| bench::<Flex>(&arguments));
}
