//! Times the U-Net in a folder of diffusers' on inputs in a file, and prints a JSON line for each step: one of the two sides of
//! `unet_step.py`.
//!
//!     cargo run --bin microdit-unet -- unet --inputs inputs.safetensors --output output.safetensors

use burn::tensor::{DType, Tensor};
use burn_flex::Flex;
use clap::Parser;
use microdit::{
    DitBackend, UNetConfig,
    net::{Conditioning, Denoiser as _, NetworkConfig},
    weights::StateDict,
    worker_pool,
};
use microdit_benches::{cpu_seconds, peak_mib, turns};
use microdit_train::allocator;
use serde_json::json;
use std::{fs, path::PathBuf, time::Instant};

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with the configuration and the weights
    folder: PathBuf,
    /// Latents `x`, timesteps `time` and caption states `captions`
    #[arg(long)]
    inputs: PathBuf,
    /// Where the prediction goes
    #[arg(long)]
    output: PathBuf,
    /// Timed steps, after one that is not
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Instead of `--steps`, a step for every line on the standard input
    #[arg(long)]
    turns: bool,
}

fn bench<B: DitBackend>(arguments: &Arguments) {
    let device = Default::default();
    let config = fs::read(arguments.folder.join("config.json")).expect("a configuration");
    let config = serde_json::from_slice(&config).expect("JSON");
    let config = NetworkConfig::UNet(UNetConfig::from_diffusers(&config).expect("a U-Net"));
    // As sampling loads it.
    let fresh = config
        .to_load::<B>(&device)
        .expect("the sizes are possible");
    let weights = arguments.folder.join("diffusion_pytorch_model.safetensors");
    let weights = StateDict::read(&weights).expect("weights");
    let network = weights.load_into(fresh, &device).expect("its weights");
    let inputs = StateDict::read(&arguments.inputs).expect("inputs");
    let input = |name: &str| inputs.get(name).expect("an input").clone();
    let x = Tensor::<B, 4>::from_data(input("x"), &device);
    let time = Tensor::from_data(input("time"), &device);
    let conditioning = Conditioning {
        captions: Tensor::from_data(input("captions"), &device),
    };
    for turn in turns((!arguments.turns).then_some(arguments.steps)) {
        let _awake = B::keep_awake();
        let (started, worked) = (Instant::now(), cpu_seconds());
        let predicted = network.image(x.clone(), time.clone(), conditioning.clone());
        let predicted = predicted.into_data();
        let line = json!({
            "implementation": "microdit", "parameters": config.parameters(), "threads": rayon::current_num_threads(),
            "seconds": started.elapsed().as_secs_f64(), "cpu_seconds": cpu_seconds() - worked, "peak_mib": peak_mib(),
        });
        if turn == 0 {
            let output = StateDict::from_tensors([("predicted".to_owned(), predicted)]);
            let written = output.write_safetensors(&arguments.output, DType::F32, None);
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
