//! Pipelines over weights in files and run directories.

use super::{Pipeline, Surroundings, label, pipeline::fits};
use crate::{
    checkpoint::Checkpoint,
    encoders::Encoders,
    error::TrainError,
    recipe::{Recipe, Stage},
    run::{Choice, RunDir},
};
use microdit::{
    DitBackend,
    net::{Network, NetworkConfig},
    task::Task as _,
    weights::{LoraFile, StateDict, WeightsFile},
};
use std::path::Path;

/// The stage that the weights of `recipe` are of: that of their checkpoint, or of final weights the last.
fn stage_of<'a>(recipe: &'a Recipe, checkpoint: Option<&Checkpoint>) -> &'a Stage {
    let stage = checkpoint.and_then(|of| recipe.stages.get(of.progress().stage));
    stage.unwrap_or(recipe.last_stage())
}

/// The network with the weights in a file of `checkpoint`, where adapters or frozen parts lie apart from it; none where the file holds all
/// of it.
pub(crate) fn adapted<B: DitBackend>(
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    weights: &Path,
    device: &B::Device,
) -> Result<Option<Network<B>>, TrainError> {
    let stage = stage_of(recipe, Some(checkpoint));
    if stage.lora.is_none() && checkpoint.beginning().frozen.is_empty() {
        return Ok(None);
    }
    let task = stage.drawing_task::<B>(recipe.run.seed, device)?;
    let all = checkpoint.read(weights)?;
    Ok(Some(all.load_into(task, device)?.network()))
}

impl<B: DitBackend> Pipeline<B, Network<B>> {
    /// The same, [guided](Self::with_guide) away from a network of the same sizes with the weights at `path`.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn guided_by(self, path: &Path) -> Result<Self, TrainError> {
        let network = self.model.to_load(&self.device)?;
        let guide = StateDict::read(path)?.denoiser();
        let guide = guide.load_into(network, &self.device)?;
        Ok(self.with_guide(guide, label::of_file(path)?))
    }

    /// The same with `strength` times the adapters in the file at `path` added to its weights.
    ///
    /// # Errors
    /// A file without adapters, and adapters of layers the network does not have.
    pub fn adapted_by(mut self, path: &Path, strength: f64) -> Result<Self, TrainError> {
        let file = LoraFile::open(path)?;
        if let [first, ..] = file.left_out() {
            let count = file.left_out().len();
            tracing::warn!(
                "{}: {count} tensors are of a text encoder and left out, such as {first}",
                path.display()
            );
        }
        let lora = file.load(&self.denoiser, &self.device)?;
        self.denoiser = lora.apply(self.denoiser, strength);
        self.weights += &format!(" + {strength} x {}", label::of_file(path)?);
        Ok(self)
    }

    /// A pipeline over the weights in a file.
    ///
    /// # Errors
    /// Missing encoders, and weights or encoders that do not fit the network.
    pub fn of_weights(
        weights: &Path,
        surroundings: Surroundings,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let model = &surroundings.model;
        fits::<B>(
            model,
            &*surroundings.conditioner(encoders)?.1,
            &*surroundings.codec(encoders)?.1,
        )?;
        let denoiser = load(model, WeightsFile::open(weights)?, &device)?;
        let weights = label::of_file(weights)?;
        Self::new(surroundings, denoiser, weights, encoders, device)
    }

    /// Loads weights of a run: the final ones or, of an unfinished one, its newest checkpoint's. Encoders not given are those its recipe names. Also returns the recipe.
    ///
    /// # Errors
    /// If the directory holds no weights, or they do not fit its recipe, or its pictures need encoders that are not
    /// there.
    pub fn load(
        run: &Path,
        choice: Choice,
        encoders: Encoders<B>,
        device: B::Device,
    ) -> Result<(Self, Recipe), TrainError> {
        let (run, recipe) = RunDir::open(run)?;
        let encoders = encoders.or_open(&recipe.run.encoders, &device)?;
        let weights = run.weights_of(choice)?;
        let checkpoint = Checkpoint::beside(&weights)?;
        let of_adapters = match &checkpoint {
            Some(checkpoint) => adapted(&recipe, checkpoint, &weights, &device)?,
            None => None,
        };
        let stage = stage_of(&recipe, checkpoint.as_ref());
        let denoiser = match of_adapters {
            Some(network) => network,
            None => {
                let denoiser = stage.model.to_load(&device)?;
                let trained = StateDict::read(&weights)?.denoiser();
                trained.load_into(denoiser, &device)?
            }
        };
        let weights = label::of_file(&weights)?;
        let surroundings = Surroundings::of_stage(stage);
        let pipeline = Self::new(surroundings, denoiser, weights, &encoders, device)?;
        Ok((pipeline, recipe))
    }
}

/// A network with the weights in a file.
pub(super) fn load<B: DitBackend>(
    model: &NetworkConfig,
    file: WeightsFile,
    device: &B::Device,
) -> Result<Network<B>, TrainError> {
    let path = file.origin().to_owned();
    // Before they are allocated: a file may claim a network of any size.
    let (needed, there) = (model.parameters(), file.values());
    if there < needed {
        return Err(TrainError::TooFewWeights {
            path,
            needed,
            there,
        });
    }
    let fresh = model.to_load(device)?;
    let weights = StateDict::take(file, &path)?.denoiser();
    Ok(weights.load_into(fresh, device)?)
}
