//! Times training steps, or sampling, of the network alone and prints a JSON line for each: the counterpart of
//! `benches/torch/bench.py`, which takes the same options.
//!
//!     cargo run --bin microdit-step -- --mask 0.75 --batch 16 --steps 3
//!
//! With `--features cuda`, `--device cuda` runs it on an NVIDIA GPU; `benches/gpu.sh` does all there is to do on one.

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use clap::{Parser, ValueEnum};
use microdit::{
    Dit, DitBackend, DitConfig, Masking, MixerConfig, Precision, TokenMask, TrainBackend,
    diffusion::{
        Diffusion as _, Edm, Guidance, Point,
        sampler::{Heun, sample},
        schedule::SigmaSchedule,
    },
    net::{Conditioning, Denoiser as _, DenoiserConfig as _, Tokens},
    task::{DenoiseConfig, Draws, Noised, Task as _},
    worker_pool,
};
use microdit_benches::{cpu_seconds, normal, peak_mib, turns};
use microdit_train::{
    allocator,
    optim::{Gradients, Optimizer, OptimizerConfig},
};
use serde_json::{Value, json};
use std::{process::Command, time::Instant};

type DeviceOf<B> = <B as burn::tensor::backend::BackendTypes>::Device;

/// Tokens of a caption.
const WORDS: usize = 77;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Network {
    /// The 201 M parameters of the ablations.
    Tiny,
    /// Width 256, depth 8: 20 M.
    Small,
    /// The 1.16 G of MicroDiT.
    Xl,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Device {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value = "tiny")]
    network: Network,
    /// Width of backbone and mixer, in place of the network's own.
    #[arg(long)]
    width: Option<usize>,
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Side of the latents: 32 for images of 256 px, 64 for 512.
    #[arg(long, default_value_t = 32)]
    side: usize,
    /// Share of the tokens that is dropped after the mixer.
    #[arg(long, default_value_t = 0.75)]
    mask: f64,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Timed steps, after one that is not.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Instead of `--steps`, a step for every line on standard input.
    #[arg(long)]
    turns: bool,
    /// Matrix products in bf16.
    #[arg(long)]
    bf16: bool,
    /// Each step draws a batch with guidance 5 and this many of Heun's steps, instead of training.
    #[arg(long)]
    sample: Option<usize>,
    /// Each step is one product of square matrices with this many rows, instead of training.
    #[arg(long)]
    product: Option<usize>,
}

impl Arguments {
    fn config(&self) -> DitConfig {
        let mut config = match self.network {
            Network::Tiny => DitConfig::tiny_2(),
            Network::Xl => DitConfig::xl_2(),
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
        if let Some(width) = self.width {
            config.dim = width;
            if let Some(mixer) = &mut config.mixer {
                mixer.dim = width;
            }
        }
        // Positions are those of 256 px, stretched.
        let stretch = self.side as f64 / 32.0;
        config
            .with_precision(self.precision())
            .with_input_size(self.side)
            .with_pos_interp_scale(stretch)
    }

    fn precision(&self) -> Precision {
        match self.bf16 {
            true => Precision::Bf16,
            false => Precision::F32,
        }
    }

    /// The steps, as they are due.
    fn turns(&self) -> impl Iterator<Item = usize> + use<> {
        turns((!self.turns).then_some(self.steps))
    }
}

/// Trains, and reports each step.
fn train<B: TrainBackend>(
    arguments: &Arguments,
    config: &DitConfig,
    device: &DeviceOf<B>,
    report: impl Fn(usize, Value),
) {
    let settings = DenoiseConfig {
        masking: match arguments.mask {
            0.0 => Masking::None,
            ratio => Masking::Deferred { ratio },
        },
        ..DenoiseConfig::default()
    };
    let network: Dit<B> = config.init(0, device).expect("the sizes are possible");
    let mut task = settings.init(network).expect("the settings are possible");
    let mut optimizer = Optimizer::<B::InnerBackend>::new(OptimizerConfig::default());
    let (batch, side) = (arguments.batch, config.input_size);
    let kept = (config.tokens() as f64 * (1.0 - arguments.mask)) as usize;
    let tokens = Tokens {
        mixer: config.tokens(),
        backbone: kept,
        caption: WORDS,
    };
    let tflop = config.flops(&tokens).total() * batch as f64 / 1e12;
    for step in arguments.turns() {
        let image = [batch, config.in_channels, side, side];
        let first = 3 * step as u64;
        let (clean, noise) = (normal(first, image), normal(first + 1, image));
        let captions = normal(first + 2, [batch, WORDS, config.caption_channels]);
        let times = task.times(0..batch, &Draws::of_step(0, step as u64));
        let samples = 0..batch as u64;
        let (masking, grid) = (settings.masking, [config.grid(); 2]);
        let noised = Noised {
            clean,
            noise,
            rows: task.family().rows(&times),
            conditioning: Conditioning { captions },
            dropout: None,
            keep: TokenMask::draw(masking, grid, 0, step as u64, samples, device),
        };

        let _awake = B::keep_awake();
        let (started, worked) = (Instant::now(), cpu_seconds());
        let output = task.denoiser().predict(task.inputs(&noised));
        let loss = task.losses(&noised, &output).total().mean();
        // On a device that works while the host goes ahead, reading the loss waits for it.
        loss.clone().into_scalar();
        let forward = started.elapsed();
        let mut grads = loss.backward();
        B::sync(device).expect("the device works");
        let backward = started.elapsed();
        let grads = Gradients::collect(&task, &mut grads);
        let (updated, norm) = optimizer.step::<B, _>(task, grads, &loss.inner(), 1e-4);
        norm.into_scalar();
        let all = started.elapsed();
        task = updated;
        let [forward, backward, all] = [forward, backward, all].map(|time| time.as_secs_f64());
        let line = json!({
            "mask": arguments.mask, "seconds": all, "cpu_seconds": cpu_seconds() - worked,
            "forward": forward, "backward": backward - forward, "optimizer": all - backward,
            "tflop": tflop, "tflop_per_second": tflop / all,
        });
        report(step, line);
    }
}

/// Draws batches in `steps` of the sampler, and reports each.
fn draw<B: DitBackend>(
    arguments: &Arguments,
    config: &DitConfig,
    device: &DeviceOf<B>,
    steps: usize,
    report: impl Fn(usize, Value),
) {
    let dit: Dit<B> = config.init(0, device).expect("the sizes are possible");
    let (batch, side) = (arguments.batch, config.input_size);
    let captions = normal::<B, 3>(0, [batch, WORDS, config.caption_channels]);
    let noise = normal(1, [batch, config.in_channels, side, side]);
    let edm = Edm::default();
    let conditioning = Conditioning { captions };
    let (guidance, null) = (Guidance::scale(5.0), conditioning.null());
    let denoise = |x, point: Point| {
        let sigma = point.level.sigma();
        edm.denoise(x, point, |x, t| {
            guidance.predict(&dit, x, t, sigma, &conditioning, &null)
        })
    };
    let trajectory = SigmaSchedule::default().trajectory(&edm, steps);
    for turn in arguments.turns() {
        let _awake = B::keep_awake();
        let (started, worked) = (Instant::now(), cpu_seconds());
        let images = sample(
            &Heun,
            &trajectory,
            noise.clone() * trajectory.start,
            denoise,
            |_| unreachable!("no noise is added"),
            |_, _| (),
        );
        images.into_data();
        let seconds = started.elapsed().as_secs_f64();
        let line = json!({
            "sampler_steps": steps, "seconds": seconds, "cpu_seconds": cpu_seconds() - worked,
        });
        report(turn, line);
    }
}

/// Multiplies square matrices, and reports each time: what all the network's products together can at most reach.
fn multiply<B: DitBackend>(arguments: &Arguments, size: usize, report: impl Fn(usize, Value)) {
    let dtype = arguments.precision().dtype();
    let [x, weight] = [0, 1].map(|stream| normal::<B, 2>(stream, [size, size]).cast(dtype));
    let tflop = 2.0 * (size as f64).powi(3) / 1e12;
    for turn in arguments.turns() {
        let (started, worked) = (Instant::now(), cpu_seconds());
        let product = B::project(x.clone(), weight.clone(), None);
        B::sync(&product.device()).expect("the device works");
        let seconds = started.elapsed().as_secs_f64();
        let line = json!({
            "seconds": seconds, "cpu_seconds": cpu_seconds() - worked,
            "tflop": tflop, "tflop_per_second": tflop / seconds,
        });
        report(turn, line);
    }
}

/// Most memory the process has held, where the system tells: the GPU's, which burn's pools do not give back, or the
/// processor's.
fn peak_mib_on(device: Device) -> Option<f64> {
    if device != Device::Cpu {
        let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
        let output = Command::new("nvidia-smi").args(query).output().ok()?;
        return String::from_utf8(output.stdout).ok()?.trim().parse().ok();
    }
    peak_mib()
}

fn bench<B: DitBackend>(arguments: &Arguments) {
    let config = arguments.config();
    let report = |step, timed: Value| {
        if step == 0 {
            return;
        }
        let mut line = json!({
            "implementation": "microdit", "network": format!("{:?}", arguments.network).to_lowercase(),
            "parameters": config.parameters(), "batch": arguments.batch,
            "bf16": arguments.bf16, "threads": rayon::current_num_threads(),
            "images_per_second": arguments.batch as f64 / timed["seconds"].as_f64().unwrap_or(f64::NAN),
            "peak_mib": peak_mib_on(arguments.device),
        });
        if let (Some(line), Value::Object(timed)) = (line.as_object_mut(), timed) {
            line.extend(timed);
        }
        println!("{line}");
    };
    let device = Default::default();
    match (arguments.product, arguments.sample) {
        (Some(size), _) => multiply::<B>(arguments, size, report),
        (None, Some(steps)) => draw::<B>(arguments, &config, &device, steps, report),
        (None, None) => train::<Autodiff<B>>(arguments, &config, &device, report),
    }
}

fn main() {
    let arguments = Arguments::parse();
    allocator::keep_freed();
    // The operations share their work on a worker of the pool, as in a training run.
    worker_pool::enter(|| match arguments.device {
        Device::Cpu => bench::<Flex>(&arguments),
        #[cfg(feature = "cuda")]
        Device::Cuda => bench::<burn_cuda::Cuda>(&arguments),
    });
}
