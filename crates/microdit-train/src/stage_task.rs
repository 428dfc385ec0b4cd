//! What a stage of a recipe trains: which of the library's tasks, on the recipe's network.

use crate::{error::TrainError, recipe::Stage};
use burn::module::Module;
use microdit::{
    DitBackend,
    net::{Inputs, Network, Output},
    nn::{
        lora::Lora,
        params::{Role, Roles},
    },
    task::{Adaptable as _, Denoise, Distill, Distilled, Draws, Losses, Noised, Samples, Task},
};
use microdit_encoders::ClipEmbedder;
use std::ops::Range;

/// The task of a stage.
// A run has a handful of these: their size on the stack does not matter, and a box would be in everyone's way.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum StageTask<B: DitBackend> {
    /// The network learns to denoise.
    Denoise(Denoise<B, Network<B>>),
    /// It learns from a teacher to draw in one step.
    Distill(Distill<B, Network<B>, ClipEmbedder<B>>),
}

/// A batch that is prepared for a [`StageTask`].
// As above.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Prepared<B: DitBackend> {
    /// Samples with their noise.
    Denoise(Noised<B>),
    /// What a student makes images of.
    Distill(Distilled<B>),
}

/// A batch that did not come from the task it is given to.
const STRANGE: &str = "the batch is prepared for another task";

impl Stage {
    /// What the stage trains, with initial weights drawn from `seed`: those of [its files](Self::weights) and of the stage before are
    /// put in by the trainer. Networks that its losses need besides are opened.
    ///
    /// # Errors
    /// Sizes that are not valid, a precision the device does not compute in, adapters of layers that the network does not have, and
    /// networks of losses that are not there or do not fit.
    pub fn task<B: DitBackend>(
        &self,
        seed: u64,
        device: &B::Device,
    ) -> Result<StageTask<B>, TrainError> {
        match (self.drawing_task(seed, device)?, self.clip()) {
            (StageTask::Distill(student), Some(clip)) => {
                let term = (clip.term(self.steps), self.embedder(clip, device)?);
                Ok(StageTask::Distill(student.with_clip(Some(term))?))
            }
            (task, _) => Ok(task),
        }
    }

    /// The same without what losses need besides: to draw with its network.
    pub(crate) fn drawing_task<B: DitBackend>(
        &self,
        seed: u64,
        device: &B::Device,
    ) -> Result<StageTask<B>, TrainError> {
        let network = self.model.init(seed, device)?;
        let adapters = self.lora.as_ref();
        let adapters = adapters.map(|lora| lora.init(&network, seed, device));
        let adapters = adapters.transpose().map_err(self.lora_error("lora"))?;
        let Some(distill) = &self.distill else {
            let task = self.denoise().init(network)?;
            return Ok(StageTask::Denoise(match adapters {
                Some(lora) => task.with_lora(lora, self.lora_alone),
                None => task,
            }));
        };
        let teacher = distill.teacher_storage.keep(network.clone());
        let task = distill.config(self).init(network, teacher, seed, device);
        let task = task.map_err(self.lora_error("distill.critic"))?;
        let task = task.with_clip(None)?;
        Ok(StageTask::Distill(match adapters {
            Some(lora) => task.with_lora(lora, self.lora_alone),
            None => task,
        }))
    }

    /// What is wrong with the adapters at `key`.
    fn lora_error(
        &self,
        key: &'static str,
    ) -> impl Fn(microdit::nn::lora::LoraConfigError) -> TrainError {
        let stage = self.name.clone();
        move |error| TrainError::Lora {
            stage: stage.clone(),
            key,
            error,
        }
    }
}

impl<B: DitBackend> Roles for StageTask<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match self {
            Self::Denoise(task) => task.role(path, rank),
            Self::Distill(task) => task.role(path, rank),
        }
    }
}

impl<B: DitBackend> Task<B> for StageTask<B> {
    type Denoiser = Network<B>;
    type Prepared = Prepared<B>;

    fn denoiser(&self) -> &Network<B> {
        match self {
            Self::Denoise(task) => task.denoiser(),
            Self::Distill(task) => task.denoiser(),
        }
    }

    fn adapters(&self) -> Option<&Lora<B>> {
        match self {
            Self::Denoise(task) => task.adapters(),
            Self::Distill(task) => task.adapters(),
        }
    }

    fn predictor(&self, prepared: &Prepared<B>) -> Network<B> {
        match (self, prepared) {
            (Self::Denoise(task), Prepared::Denoise(noised)) => task.predictor(noised),
            (Self::Distill(task), Prepared::Distill(distilled)) => task.predictor(distilled),
            _ => panic!("{STRANGE}"),
        }
    }

    fn prepare(
        &self,
        batch: &impl Samples<B>,
        samples: Range<usize>,
        draws: &Draws,
    ) -> Prepared<B> {
        match self {
            Self::Denoise(task) => Prepared::Denoise(task.prepare(batch, samples, draws)),
            Self::Distill(task) => Prepared::Distill(task.prepare(batch, samples, draws)),
        }
    }

    fn inputs(&self, prepared: &Prepared<B>) -> Inputs<B> {
        match (self, prepared) {
            (Self::Denoise(task), Prepared::Denoise(noised)) => task.inputs(noised),
            (Self::Distill(task), Prepared::Distill(distilled)) => task.inputs(distilled),
            _ => panic!("{STRANGE}"),
        }
    }

    fn losses(&self, prepared: &Prepared<B>, output: &Output<B>) -> Losses<B> {
        match (self, prepared) {
            (Self::Denoise(task), Prepared::Denoise(noised)) => task.losses(noised, output),
            (Self::Distill(task), Prepared::Distill(distilled)) => task.losses(distilled, output),
            _ => panic!("{STRANGE}"),
        }
    }

    fn updates(&self, path: &[&str], step: u64) -> bool {
        match self {
            Self::Denoise(task) => task.updates(path, step),
            Self::Distill(task) => task.updates(path, step),
        }
    }

    fn is_frozen(&self, path: &[&str]) -> bool {
        match self {
            Self::Denoise(task) => task.is_frozen(path),
            Self::Distill(task) => task.is_frozen(path),
        }
    }

    fn is_result(&self, path: &[&str]) -> bool {
        match self {
            Self::Denoise(task) => task.is_result(path),
            Self::Distill(task) => task.is_result(path),
        }
    }

    fn times(&self, samples: Range<usize>, draws: &Draws) -> Vec<f64> {
        match self {
            Self::Denoise(task) => task.times(samples, draws),
            Self::Distill(task) => task.times(samples, draws),
        }
    }
}
