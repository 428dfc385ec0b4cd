//! Times training steps, or sampling, of the network alone and prints one JSON line: the counterpart of
//! `benches/torch/bench.py`, which takes the same options.
//!
//!     cargo run -p microdit-benches --bin microdit-step -- --mask 0.75 --batch 16 --steps 3

use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use clap::{Parser, ValueEnum};
use microdit::{
    Dit, DitBackend, DitConfig, Masking, MixerConfig, Precision, TokenMask,
    diffusion::{
        edm::Edm,
        sampler::{Churn, Solver, sample},
        schedule::SigmaSchedule,
    },
    rng::{Purpose, Stream},
};
use microdit_train::optim::{Gradients, Optimiser, OptimiserConfig};
use serde_json::json;
use std::time::Instant;

type Device<B> = <B as burn::tensor::backend::BackendTypes>::Device;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Network {
    /// The 201 M parameters of the ablations.
    Tiny,
    /// Width 256, depth 8: 20 M.
    Small,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value = "tiny")]
    network: Network,
    /// Share of the tokens that is dropped behind the mixer.
    #[arg(long, default_value_t = 0.75)]
    mask: f64,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Timed steps after one that is not; of the sampler, with `--sample`.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Matrix products in bf16.
    #[arg(long)]
    bf16: bool,
    /// Draws a batch with guidance 5 and Heun's steps instead of training.
    #[arg(long)]
    sample: bool,
}

impl Arguments {
    fn config(&self) -> DitConfig {
        let config = match self.network {
            Network::Tiny => DitConfig::tiny_2(),
            Network::Small => DitConfig::tiny_2()
                .with_dim(256)
                .with_depth(8)
                .with_mixer(Some(MixerConfig {
                    dim: 256,
                    depth: 2,
                    qkv_ratio: 1.0,
                    mlp_ratio: 4.0,
                })),
        };
        let precision = match self.bf16 {
            true => Precision::Bf16,
            false => Precision::F32,
        };
        config.with_precision(precision)
    }
}

fn normal<B: DitBackend, const D: usize>(
    step: usize,
    stream: u64,
    shape: [usize; D],
    device: &Device<B>,
) -> Tensor<B, D> {
    let count = shape.iter().product();
    let values = Stream::new(0, Purpose::Noise, step as u64, stream).normal(count);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Seconds of forward pass, backward pass and optimiser in every step after the first.
fn train<B>(arguments: &Arguments, config: &DitConfig, device: &Device<B>) -> Vec<[f64; 3]>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let mut dit: Dit<B> = config.init(0, device).expect("the sizes are possible");
    let mut optimiser = Optimiser::<B::InnerBackend>::new(OptimiserConfig::default());
    let edm = Edm::default();
    let (batch, side) = (arguments.batch, config.input_size);
    let masking = match arguments.mask {
        0.0 => Masking::None,
        ratio => Masking::Deferred { ratio },
    };
    let mut times = Vec::new();
    for step in 0..=arguments.steps {
        let image = [batch, config.in_channels, side, side];
        let (clean, noise) = (
            normal(step, 0, image, device),
            normal(step, 1, image, device),
        );
        let captions = normal(step, 2, [batch, 77, config.caption_channels], device);
        let draws = Stream::new(0, Purpose::Sigma, step as u64, 0).normal(batch);
        let sigmas: Vec<f32> = draws.into_iter().map(|normal| edm.sigma(normal)).collect();
        let samples = 0..batch as u64;
        let mask = TokenMask::draw(masking, config.tokens(), 0, step as u64, samples, device);
        let mask = mask.as_ref();

        let started = Instant::now();
        let network = |x, t| dit.forward_tokens(x, t, captions, mask);
        let loss = edm
            .loss(clean, noise, &sigmas, config.patch_size, mask, network)
            .mean();
        // On a device that works on while the host goes ahead, reading the loss waits for it.
        loss.clone().into_scalar();
        let forward = started.elapsed();
        let mut grads = loss.backward();
        B::sync(device).expect("the device works");
        let backward = started.elapsed();
        let grads = Gradients::collect(&dit, &mut grads);
        let (updated, norm) = optimiser.step::<B, _>(dit, grads, 1e-4);
        norm.into_scalar();
        let all = started.elapsed();
        dit = updated;
        times.push([forward, backward - forward, all - backward].map(|time| time.as_secs_f64()));
    }
    times.split_off(1)
}

/// Seconds to draw a batch, after one evaluation that is not counted.
fn draw<B: DitBackend>(arguments: &Arguments, config: &DitConfig, device: &Device<B>) -> f64 {
    let dit: Dit<B> = config.init(0, device).expect("the sizes are possible");
    let (batch, side) = (arguments.batch, config.input_size);
    let captions = normal::<B, 3>(0, 2, [batch, 77, config.caption_channels], device);
    let noise = normal(0, 0, [batch, config.in_channels, side, side], device);
    let edm = Edm::default();
    let denoise = |x, sigma| {
        let network = |x, t| dit.forward_guided(x, t, captions.clone(), 5.0);
        edm.denoise(x, sigma, network)
    };
    denoise(noise.clone(), 1.0).into_data();
    let sigmas = SigmaSchedule::default().sigmas(arguments.steps);
    let churn = Churn::default();
    let started = Instant::now();
    let images = sample(
        Solver::Heun,
        noise,
        &sigmas,
        denoise,
        &churn,
        |_| Vec::new(),
        |_, _| (),
    );
    images.into_data();
    started.elapsed().as_secs_f64()
}

/// Most memory the process has held, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

fn main() {
    let arguments = Arguments::parse();
    let config = arguments.config();
    let device = Default::default();
    let mut line = json!({
        "implementation": "microdit", "network": format!("{:?}", arguments.network).to_lowercase(),
        "parameters": microdit::flops::parameters(&config), "batch": arguments.batch, "bf16": arguments.bf16,
        "threads": rayon::current_num_threads(),
    });
    // The operations share their work on a worker of the pool, as in the command.
    let timed = rayon::scope(|_| match arguments.sample {
        true => {
            let seconds = draw::<Flex>(&arguments, &config, &device);
            json!({
                "steps": arguments.steps, "images_per_second": arguments.batch as f64 / seconds,
            })
        }
        false => {
            let times = train::<Autodiff<Flex>>(&arguments, &config, &device);
            let count = times.len() as f64;
            let mean = |part: usize| times.iter().map(|time| time[part]).sum::<f64>() / count;
            let total: f64 = (0..3).map(mean).sum();
            let best = times
                .iter()
                .map(|time| time.iter().sum())
                .fold(f64::INFINITY, f64::min);
            json!({
                "mask": arguments.mask, "images_per_second": arguments.batch as f64 / total,
                "best_images_per_second": arguments.batch as f64 / best,
                "forward": mean(0), "backward": mean(1), "optimiser": mean(2),
            })
        }
    });
    let (line_map, timed) = (line.as_object_mut(), timed.as_object());
    if let (Some(line), Some(timed)) = (line_map, timed) {
        line.extend(timed.clone());
        line.insert("peak_mib".into(), json!(peak_mib()));
    }
    println!("{line}");
}
