//! The bill before the run: FLOPs, memory, hours and dollars of every stage of a recipe.

mod compare;
mod constant_width;
mod feed;
mod training;

pub use compare::{Comparison, Cost, Figure, Published};
pub use constant_width::ConstantWidth;
pub use feed::Feed;

use crate::recipe::{ActivationCheckpointing, Recipe, Stage};
use microdit::{MaskStage, net::Tokens};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use training::Training;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// A kind of GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Name on the command line.
    pub name: String,
    /// Peak rate of bf16 matrix products without sparsity, in TFLOP/s.
    pub tflops: f64,
    /// Memory in GiB.
    pub gib: f64,
}

impl Gpu {
    /// The GPUs that are known.
    ///
    /// # Panics
    /// Never: the list is part of the program, and a test reads it.
    pub fn known() -> Vec<Self> {
        ron::from_str(include_str!("../data/gpus.ron")).expect("the list of GPUs is valid")
    }

    /// The first NVIDIA GPU of this machine, as its driver names it, if it is a known one.
    pub fn detect() -> Option<Self> {
        let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
        let first = gpus
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .min()?;
        let text = std::fs::read_to_string(first.join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Self::by_model(model)
    }

    /// The GPU whose name is part of a driver's name of it, such as "NVIDIA H100 80GB HBM3".
    fn by_model(model: &str) -> Option<Self> {
        let model: String = model.to_lowercase().split_whitespace().collect();
        let known = Self::known().into_iter();
        let named = known.filter(|gpu| model.contains(&gpu.name));
        named.max_by_key(|gpu| gpu.name.len())
    }
}

/// What a run is carried out on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Kind of its devices.
    pub gpu: Gpu,
    /// Number of devices, as [`COUNTS`](Self::COUNTS).
    pub count: usize,
    /// Model FLOPs utilization: the fraction of the peak rate that is reached, as [`MFU`](Self::MFU).
    pub mfu: f64,
    /// Price of a device for an hour, in dollars, as [`USD`](Self::USD).
    pub usd_per_gpu_hour: f64,
}

impl Machine {
    /// How many devices there may be.
    pub const COUNTS: RangeInclusive<usize> = 1..=1_000_000;

    /// Which fractions of the peak rate there may be.
    pub const MFU: RangeInclusive<f64> = 1e-6..=1.0;

    /// What an hour of a device may cost.
    pub const USD: RangeInclusive<f64> = 0.0..=1e6;
}

/// The bill of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    /// Name of the stage.
    pub name: String,
    /// Parameters of the network.
    pub parameters: usize,
    /// All networks and adapters the stage holds, with their parameters and those of them that it trains.
    pub networks: Vec<Held>,
    /// Images trained on.
    pub images: u64,
    /// Images of a step.
    pub batch: usize,
    /// FLOPs of an image, forward and backward.
    pub flop_per_image: f64,
    /// FLOPs of the stage.
    pub flop: f64,
    /// Memory of one device.
    pub memory: Memory,
    /// Images a device takes in a second.
    pub images_per_second_per_gpu: f64,
    /// What the whole machine asks of the data; nothing of generated ones.
    pub feed: Option<Feed>,
    /// Time on the whole machine.
    pub hours: f64,
    /// Price of the whole machine for that time.
    pub usd: f64,
}

/// A network, or the adapters of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// Such as `teacher`.
    pub name: String,
    /// Its parameters.
    pub parameters: usize,
    /// Those of them that are trained.
    pub trained: usize,
}

/// Memory of one device, in GiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Images computed at once.
    pub micro_batch: usize,
    /// Weights of all networks, the rounded copies that products in bf16 take of them, and those that adapters are added to.
    pub weights: f64,
    /// Their gradients.
    pub gradients: f64,
    /// Two moments of each weight, or of this device's share of them.
    pub optimizer: f64,
    /// Averages of the weights, likewise.
    pub averages: f64,
    /// Whether the devices share moments and averages.
    pub shared_optimizer: bool,
    /// What the forward pass leaves for the backward pass.
    pub activations: f64,
    /// Whether activations are recomputed rather than kept.
    pub activation_checkpointing: bool,
    /// All of it.
    pub total: f64,
}

/// The bill of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Name of the recipe.
    pub recipe: String,
    /// What it is carried out on.
    pub machine: Machine,
    /// Stage by stage.
    pub stages: Vec<StagePlan>,
    /// FLOPs of the run.
    pub flop: f64,
    /// Time of the run.
    pub hours: f64,
    /// Price of the run.
    pub usd: f64,
}

impl Plan {
    /// The bill of `recipe` on `machine`.
    pub fn new(recipe: &Recipe, machine: Machine) -> Self {
        let stages: Vec<StagePlan> = recipe
            .stages
            .iter()
            .map(|stage| plan(stage, &machine))
            .collect();
        let sum = |of: fn(&StagePlan) -> f64| stages.iter().map(of).sum();
        Self {
            recipe: recipe.run.name.clone(),
            flop: sum(|stage| stage.flop),
            hours: sum(|stage| stage.hours),
            usd: sum(|stage| stage.usd),
            machine,
            stages,
        }
    }
}

/// FLOPs of an image of `stage`, forward and backward.
pub fn flop_per_image(stage: &Stage) -> f64 {
    Training::of(stage).flop(&tokens(stage))
}

/// What the network sees of an image in training.
fn tokens(stage: &Stage) -> Tokens {
    let all = stage.model.tokens();
    let kept = stage.masking.kept(all);
    Tokens {
        mixer: match stage.masking.stage() {
            MaskStage::BeforeMixer => kept,
            MaskStage::AfterMixer => all,
        },
        backbone: kept,
        caption: stage.data.tokens(),
    }
}

fn plan(stage: &Stage, machine: &Machine) -> StagePlan {
    let parameters = stage.model.parameters();
    let images = stage.steps * stage.batch as u64;
    let flop_per_image = flop_per_image(stage);
    let flop = flop_per_image * images as f64;
    let rate = machine.gpu.tflops * 1e12 * machine.mfu;
    let hours = flop / (rate * machine.count as f64) / 3600.0;
    StagePlan {
        name: stage.name.clone(),
        parameters,
        networks: Training::of(stage)
            .networks()
            .into_iter()
            .map(|(name, parameters, trained)| Held {
                name,
                parameters,
                trained,
            })
            .collect(),
        images,
        batch: stage.batch,
        flop_per_image,
        flop,
        memory: memory_of(stage, machine.count, Some(machine.gpu.gib)),
        images_per_second_per_gpu: rate / flop_per_image,
        feed: Feed::of(stage, rate / flop_per_image * machine.count as f64),
        hours,
        usd: hours * machine.count as f64 * machine.usd_per_gpu_hour,
    }
}

/// Whether `stage` recomputes activations on this many devices, each with this many GiB if that is known.
pub(crate) fn checkpoints_activations(stage: &Stage, devices: usize, gib: Option<f64>) -> bool {
    match stage.activation_checkpointing {
        ActivationCheckpointing::On => true,
        ActivationCheckpointing::Off => false,
        ActivationCheckpointing::Auto => {
            let kept = memory_if(stage, devices, false).total;
            gib.is_none_or(|gib| kept > gib)
        }
    }
}

/// Memory of one of this many devices, each with this many GiB if that is known.
pub(crate) fn memory_of(stage: &Stage, devices: usize, gib: Option<f64>) -> Memory {
    memory_if(stage, devices, checkpoints_activations(stage, devices, gib))
}

fn memory_if(stage: &Stage, devices: usize, activation_checkpointing: bool) -> Memory {
    let share = stage.batch.div_ceil(devices);
    let micro_batch = stage.micro_batch.unwrap_or(share).min(share);
    let training = Training::of(stage);
    // Products in bf16 round weights as they take them, and keep no copies.
    let weights = training.weights() / GIB;
    // Shares are of whole tensors, and even but for the last of them.
    let own = match stage.distributed.shard_optimizer {
        true => 1.0 / devices as f64,
        false => 1.0,
    };
    let averages = stage.ema.len() + stage.post_hoc_averages().len();
    let averages = own * averages as f64 * training.average() / GIB;
    let of_image = training.activations(&tokens(stage), activation_checkpointing);
    let activations = of_image * micro_batch as f64 / GIB;
    let (gradients, optimizer) = (training.gradients() / GIB, own * training.moments() / GIB);
    Memory {
        micro_batch,
        weights,
        gradients,
        optimizer,
        averages,
        shared_optimizer: stage.distributed.shard_optimizer && devices > 1,
        activations,
        activation_checkpointing,
        total: weights + gradients + optimizer + averages + activations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn auto_computes_again_what_does_not_fit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/microdit-xl2.ron");
        let stage = |set: &str| Recipe::load(&path, &[set.to_owned()]).unwrap().stages[0].clone();
        let [on, off, auto] =
            ["On", "Off", "Auto"].map(|value| stage(&format!("activation_checkpointing={value}")));
        let of = |stage: &Stage, gib| memory_of(stage, 8, gib);
        let needed = of(&off, None).total;
        assert!(of(&on, None).total < needed / 2.0);
        for (gib, alike) in [
            (Some(needed + 1.0), &off),
            (Some(needed - 1.0), &on),
            (None, &on),
        ] {
            assert_eq!(of(&auto, gib), of(alike, gib), "{gib:?}");
        }
        // Products in bf16 keep half of most activations.
        let wide = of(&stage("model.precision=F32"), Some(1000.0));
        let narrow = of(&auto, Some(1000.0));
        assert!((0.5..0.75).contains(&(narrow.activations / wide.activations)));
        assert_eq!(narrow.weights, wide.weights);
    }

    /// The phases of the paper's run, at its micro-batches, on eight GPUs with 80 GB: moments and averages take an eighth.
    #[test]
    fn a_shared_optimizer_leaves_room() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/microdit-xl2.ron");
        let recipe = |shared: &str| {
            let set = format!("distributed.shard_optimizer={shared}");
            Recipe::load(&path, &[set]).unwrap()
        };
        let (whole, shared) = (recipe("false"), recipe("true"));
        assert_eq!(shared.stages.len(), 4);
        for (whole, shared) in whole.stages.iter().zip(&shared.stages) {
            let [of_whole, of_shared] =
                [whole, shared].map(|stage| memory_of(stage, 8, Some(80.0)));
            assert!(of_shared.total <= 80.0, "{}: {of_shared:?}", shared.name);
            for (of_whole, of_shared) in [
                (of_whole.optimizer, of_shared.optimizer),
                (of_whole.averages, of_shared.averages),
            ] {
                assert_eq!(of_shared, of_whole / 8.0, "{}", shared.name);
            }
            assert_eq!(of_shared.weights, of_whole.weights);
            assert!(!of_whole.shared_optimizer && of_shared.shared_optimizer);
        }
    }

    #[test]
    fn drivers_names_are_recognised() {
        for (model, name) in [
            ("NVIDIA H200", Some("h200")),
            ("NVIDIA H100 80GB HBM3", Some("h100")),
            ("NVIDIA A100-SXM4-80GB", Some("a100")),
            ("NVIDIA GeForce RTX 4090", Some("rtx4090")),
            ("NVIDIA L40S", Some("l40s")),
            ("Quadro P400", None),
        ] {
            let found = Gpu::by_model(model).map(|gpu| gpu.name);
            assert_eq!(found.as_deref(), name, "{model}");
        }
    }
}
