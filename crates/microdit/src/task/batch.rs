//! A batch before its task, and the randomness of its samples.

use crate::{
    net::Conditioning,
    nn::lora::Lora,
    ops::DitBackend,
    rng::{Purpose, Stream},
};
use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};

/// The samples of a step, encoded on demand: a device computes a share of them, but a loss may compare a
/// sample with any other.
pub trait Samples<B: DitBackend> {
    /// Number of samples, at least 1.
    fn count(&self) -> usize;

    /// Clean latents of these samples, `[samples, channels, height, width]`.
    fn latents(&self, samples: &[usize]) -> Tensor<B, 4>;

    /// What these samples are conditioned on.
    fn conditioning(&self, samples: &[usize]) -> Conditioning<B>;

    /// What stands in place of these samples' captions where they are dropped; the null conditioning if none.
    fn dropped(&self, samples: &[usize]) -> Option<Conditioning<B>> {
        let _ = samples;
        None
    }

    /// Embeddings of these samples' captions that images' are compared with, `[samples, dim]`; none where nothing made them.
    fn embeddings(&self, samples: &[usize]) -> Option<Tensor<B, 2>> {
        let _ = samples;
        None
    }
}

/// Latents and captions in the host's memory, as they are given to the network.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// `[batch, channels, height, width]`, row-major.
    pub latents: Vec<f32>,
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// `[batch, caption tokens, channels]`, row-major.
    pub captions: Vec<f32>,
    /// Tokens and channels of a caption.
    pub caption: [usize; 2],
}

/// Those of `samples`, from values of which every sample has `size`.
///
/// # Panics
/// If a sample lies beyond the values.
pub fn picked(values: &[f32], size: usize, samples: &[usize]) -> Vec<f32> {
    let mut picked = Vec::with_capacity(size * samples.len());
    for &i in samples {
        picked.extend_from_slice(&values[i * size..][..size]);
    }
    picked
}

impl HostBatch {
    /// The samples on `device`.
    pub fn on<B: DitBackend>(&self, device: &B::Device) -> impl Samples<B> {
        OnDevice::<B> {
            batch: self,
            device: device.clone(),
        }
    }
}

struct OnDevice<'a, B: DitBackend> {
    batch: &'a HostBatch,
    device: B::Device,
}

impl<B: DitBackend> Samples<B> for OnDevice<'_, B> {
    fn count(&self) -> usize {
        self.batch.latents.len() / self.batch.shape.iter().product::<usize>()
    }

    fn latents(&self, samples: &[usize]) -> Tensor<B, 4> {
        let [channels, height, width] = self.batch.shape;
        let values = picked(&self.batch.latents, channels * height * width, samples);
        let shape = [samples.len(), channels, height, width];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn conditioning(&self, samples: &[usize]) -> Conditioning<B> {
        let [words, channels] = self.batch.caption;
        let values = picked(&self.batch.captions, words * channels, samples);
        let shape = [samples.len(), words, channels];
        let captions = Tensor::from_data(TensorData::new(values, shape), &self.device);
        Conditioning { captions }
    }
}

/// Noise over signal of held-out samples, in turn: the middles of eight equal parts of flow matching's time `t`, where it is
/// `t / (1 - t)`. They are the same for all families and settings, so that one network's curves by noise level can be
/// compared with another's.
pub const HELD_OUT_SIGMAS: [f64; 8] = [
    1.0 / 15.0,
    3.0 / 13.0,
    5.0 / 11.0,
    7.0 / 9.0,
    9.0 / 7.0,
    11.0 / 5.0,
    13.0 / 3.0,
    15.0,
];

/// The randomness of a step: every number is a function of the run's seed, the step and the sample's place in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The same counted from the beginning of the stage: what schedules go by.
    pub stage_step: u64,
    /// Whether a loss is measured rather than trained on: then nothing is masked, no caption is dropped, and the noise levels are
    /// [fixed](HELD_OUT_SIGMAS).
    pub held_out: bool,
}

impl Draws {
    /// Of a training step of the first stage.
    pub fn of_step(seed: u64, step: u64) -> Self {
        Self {
            seed,
            step,
            stage_step: step,
            held_out: false,
        }
    }

    /// The same of a step with this number in its stage.
    #[must_use]
    pub fn in_stage(self, stage_step: u64) -> Self {
        Self { stage_step, ..self }
    }

    /// Noise over signal of a sample, where it is not drawn.
    pub fn fixed_sigma(&self, sample: usize) -> Option<f64> {
        self.held_out
            .then(|| HELD_OUT_SIGMAS[sample % HELD_OUT_SIGMAS.len()])
    }

    /// The random stream of a sample.
    pub fn stream(&self, purpose: Purpose, sample: usize) -> Stream {
        Stream::new(self.seed, purpose, self.step, sample as u64)
    }

    /// Standard normal numbers for `samples`, each `[channels, height, width]`.
    pub fn normal<B: DitBackend>(
        &self,
        purpose: Purpose,
        samples: &[usize],
        [channels, height, width]: [usize; 3],
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let count = channels * height * width;
        let draw = |&i: &usize| self.stream(purpose, i).normal(count);
        let values: Vec<f32> = samples.iter().flat_map(draw).collect();
        let shape = [samples.len(), channels, height, width];
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Which captions of `samples` stay, when a share of `drop` is dropped.
    pub fn kept_captions(&self, samples: impl IntoIterator<Item = usize>, drop: f64) -> Vec<bool> {
        let keep = |i| {
            let draw = self.stream(Purpose::CaptionDrop, i).uniform(1)[0];
            self.held_out || f64::from(draw) >= drop
        };
        samples.into_iter().map(keep).collect()
    }
}

/// Whose adapters drop a share of their inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapted {
    /// The network that is trained.
    Network,
    /// The critic of a distillation.
    Critic,
}

/// The step in which adapters drop a share of their inputs, the same for all of its batch: however that is split, the weights are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout(Draws);

impl Dropout {
    /// Of a step; none where a loss is measured.
    pub fn of(draws: &Draws) -> Option<Self> {
        (!draws.held_out).then_some(Self(*draws))
    }

    /// `network` with its adapters as they see that step.
    pub fn applied<B: DitBackend, M: Module<B>>(
        self,
        of: Adapted,
        lora: &Lora<B>,
        network: M,
    ) -> M {
        let Draws { seed, step, .. } = self.0;
        lora.clone()
            .dropping(seed, step, of as u64)
            .apply(network, 1.0)
    }
}
