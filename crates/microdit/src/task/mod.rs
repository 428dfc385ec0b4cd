//! Training objectives: from a batch to its losses, in three steps. A batch is prepared (levels, noise and masks are drawn),
//! the network predicts, and the prediction is compared.

mod adaptable;
mod batch;
mod denoise;
mod distill;
mod distill_config;
mod losses;
mod reconstruct;
mod terms;
mod vsd;

pub use adaptable::Adaptable;
pub use batch::{Adapted, Draws, Dropout, HELD_OUT_SIGMAS, HostBatch, Samples, picked};
pub use denoise::{Denoise, DenoiseConfig, Noised};
pub use distill::{Distill, Distilled, Noising};
pub use distill_config::{DistillConfig, TimestepRange};
pub use losses::{Losses, Term};
pub use reconstruct::Reconstruction;
pub use terms::{ClipTerm, FadingWeight, ImageEmbedder, OwnValues, TermTarget, regression_loss};
pub use vsd::{
    OneStep, clamped_clip_loss, cosine, critic_rows, score_gradient, vsd_loss, vsd_weight,
};

use crate::{
    net::{Denoiser, Inputs, Output, TrainDenoiser},
    nn::{lora::Lora, params::Roles},
    ops::{DitBackend, TrainBackend},
};
use burn::module::{AutodiffModule, Module};
use std::ops::Range;

/// A training objective. It owns its networks as named fields; the one that is trained and sampled from is called
/// `denoiser`.
///
/// All randomness comes from [`Draws`], so that a sample's loss does not depend on which others are computed with it.
pub trait Task<B: DitBackend>: Module<B> + Roles {
    /// The network that predicts.
    type Denoiser: Denoiser<B>;

    /// A batch that is ready for the network, and what its prediction is compared with.
    type Prepared;

    /// The network that predicts, without adapters.
    fn denoiser(&self) -> &Self::Denoiser;

    /// Adapters of the network that are trained, alone or beside it.
    fn adapters(&self) -> Option<&Lora<B>> {
        None
    }

    /// The network as it draws: with its adapters, if it has some.
    fn network(&self) -> Self::Denoiser {
        let network = self.denoiser().clone();
        match self.adapters() {
            Some(adapters) => adapters.apply(network, 1.0),
            None => network,
        }
    }

    /// The network as it predicts what [`inputs`](Self::inputs) gives it: adapters may drop a share of what they see.
    fn predictor(&self, prepared: &Self::Prepared) -> Self::Denoiser {
        let _ = prepared;
        self.network()
    }

    /// Draws what is random about `samples` of the batch, and encodes them.
    fn prepare(
        &self,
        batch: &impl Samples<B>,
        samples: Range<usize>,
        draws: &Draws,
    ) -> Self::Prepared;

    /// What the network is given.
    fn inputs(&self, prepared: &Self::Prepared) -> Inputs<B>;

    /// The losses of the prediction.
    fn losses(&self, prepared: &Self::Prepared, output: &Output<B>) -> Losses<B>;

    /// Whether the training step `step` moves the parameter at `path` in the task. The others have no gradient and no optimizer
    /// state, and their averages stay as they are.
    fn updates(&self, path: &[&str], step: u64) -> bool {
        let _ = (path, step);
        true
    }

    /// Whether no step ever moves the parameter at `path` in the task: it is saved once, rather than in every checkpoint.
    fn is_frozen(&self, path: &[&str]) -> bool {
        let _ = path;
        false
    }

    /// Whether the parameter at `path` in the task belongs to what the run is for: its final weights are those of such
    /// parameters, its checkpoints hold all that are not frozen.
    fn is_result(&self, path: &[&str]) -> bool {
        let _ = path;
        true
    }

    /// Noise levels of `samples` by the family's time: what the log says about steps that went wrong.
    fn times(&self, samples: Range<usize>, draws: &Draws) -> Vec<f64>;
}

/// A task that can be trained: it is also one without automatic differentiation, for evaluation and sampling.
pub trait TrainTask<B: TrainBackend>:
    Task<B, Denoiser: TrainDenoiser<B>> + AutodiffModule<B, InnerModule: Task<B::InnerBackend>>
{
}

impl<B, T> TrainTask<B> for T
where
    B: TrainBackend,
    T: Task<B, Denoiser: TrainDenoiser<B>> + AutodiffModule<B, InnerModule: Task<B::InnerBackend>>,
{
}
