//! Published text-to-image pipelines of the Stable Diffusion family: which files hold which network, and what they say about
//! themselves.
//!
//! A pipeline is a directory as diffusers writes it, or a single file in the names of latent diffusion. Such a file has no
//! configurations: they follow from its tensors, so that both are described in the same words.

mod directory;
mod error;
mod single_file;
mod write;

pub use error::PipelineError;
pub use write::Layout;

use crate::{
    config_file::{find, format, parse, text},
    text::Padding,
};
use microdit::{
    diffusion::SchedulerFile,
    weights::{WeightSet, WeightsError, WeightsFile},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use single_file::SingleFile;
use std::path::{Path, PathBuf};

/// File names of weights in a directory of diffusers', in the order they are looked for.
pub(crate) const DIFFUSERS: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.fp16.json",
];

/// A network's configuration and its weights.
#[derive(Debug)]
pub struct NetworkFiles {
    /// What errors call the configuration.
    path: PathBuf,
    /// In JSON.
    config: String,
    /// The weights, in diffusers' or transformers' names.
    pub weights: WeightsFile,
}

/// A pipeline that was found, and nothing of it loaded.
///
/// ```no_run
/// use microdit_encoders::pipeline_files::{PipelineFiles, Taken};
///
/// let files = PipelineFiles::open("stable-diffusion-v1-5".as_ref(), &Taken::default())?;
/// assert_eq!(files.unet.keys()?["cross_attention_dim"], 768);
/// # Ok::<(), microdit_encoders::pipeline_files::PipelineError>(())
/// ```
#[derive(Debug)]
pub struct PipelineFiles {
    /// The network that denoises.
    pub unet: NetworkFiles,
    /// The network between images and latents.
    pub vae: NetworkFiles,
    /// The network that reads prompts.
    pub text: NetworkFiles,
    /// What prompts are padded with.
    pub padding: Padding,
    /// The diffusion, and how it is sampled.
    pub scheduler: SchedulerFile,
    /// The scheduler's configuration in diffusers' words.
    scheduler_config: Value,
    /// Which of the network's weights these are.
    pub set: WeightSet,
    /// Steps the network was trained for, where that is known.
    pub steps: Option<u64>,
    /// What was taken and what was left, in words.
    pub notes: Vec<String>,
}

/// What is taken of a pipeline where there is a choice, and what its files leave open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Which of the network's weights.
    pub set: WeightSet,
    /// What the network predicts, whatever the files say: the files of version 2 in latent diffusion's names do not say it.
    pub prediction: Option<microdit::diffusion::Prediction>,
}

impl NetworkFiles {
    /// A directory with `config.json` and one of the files of weights called `names`.
    pub(crate) fn in_directory(folder: &Path, names: &[&str]) -> Result<Self, WeightsError> {
        Self::beside(folder, &find(folder, names)?)
    }

    /// The weights at a path, and `config.json` in `folder`.
    pub(crate) fn beside(folder: &Path, weights: &Path) -> Result<Self, WeightsError> {
        let path = folder.join("config.json");
        Ok(Self {
            config: text(&path)?,
            path,
            weights: WeightsFile::open(weights)?,
        })
    }

    /// The configuration, where errors name line and column.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, WeightsError> {
        parse(&self.path, &self.config)
    }

    /// The configuration's text, and what errors call it.
    pub(crate) fn text(&self) -> (&Path, &str) {
        (&self.path, &self.config)
    }

    /// The configuration's keys and values.
    ///
    /// # Errors
    /// A configuration that is no JSON object.
    pub fn keys(&self) -> Result<Map<String, Value>, WeightsError> {
        self.parse()
    }

    /// An error about the configuration.
    #[must_use]
    pub fn unusable(&self, error: &dyn std::fmt::Display) -> WeightsError {
        format(&self.path, &error.to_string())
    }
}

impl PipelineFiles {
    /// Opens a directory as diffusers writes it (`unet`, or `flexible_unet` beside it, `vae`, `text_encoder`, `tokenizer`,
    /// `scheduler`), or a single file in the names of latent diffusion.
    ///
    /// # Errors
    /// A pipeline of another architecture, a network that is missing, a configuration that is not supported, damaged files, and an
    /// average that is asked for where there is none.
    pub fn open(path: &Path, taken: &Taken) -> Result<Self, PipelineError> {
        if path.is_dir() {
            return directory::open(path, taken);
        }
        match SingleFile::recognize(path)? {
            Some(file) => file.pipeline(taken),
            None => Err(PipelineError::Weights(format(
                path,
                "it is no pipeline: neither a directory as diffusers writes it, nor a file in the names of latent diffusion (model.diffusion_model.*, first_stage_model.*, cond_stage_model.*)",
            ))),
        }
    }
}

/// The scheduler's configuration, with another prediction if one is asked for.
fn scheduler(
    path: &Path,
    config: &mut Value,
    taken: &Taken,
) -> Result<SchedulerFile, WeightsError> {
    use microdit::diffusion::Prediction;
    if let (Some(prediction), Some(config)) = (taken.prediction, config.as_object_mut()) {
        let name = match prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        };
        config.insert("prediction_type".into(), name.into());
    }
    SchedulerFile::read(config).map_err(|error| format(path, &error.to_string()))
}

/// The autoencoder in a single file of latent diffusion; none if the file is of another kind.
pub(crate) fn vae_of_file(path: &Path) -> Result<Option<NetworkFiles>, WeightsError> {
    let file = SingleFile::recognize(path)?;
    file.map(|file| file.vae()).transpose()
}

/// The text encoder in a single file of latent diffusion, and its padding; none if the file is of another kind.
pub(crate) fn text_of_file(path: &Path) -> Result<Option<(NetworkFiles, Padding)>, WeightsError> {
    let file = SingleFile::recognize(path)?;
    file.map(|file| file.text()).transpose()
}
