//! Pipelines of published files: Stable Diffusion, its successors and DeciDiffusion.

use super::{
    Parts, Pipeline,
    label::{self, json},
    open::load,
    pipeline::fits,
};
use crate::{encoders::Encoders, error::TrainError, recipe::SamplingConfig};
use microdit::{
    DitBackend, UNetConfig,
    checksum::hexadecimal,
    diffusion::{DiffusionConfig, schedule::ScheduleConfig},
    net::{Network, NetworkConfig},
    weights::{CaptionSource, Description, LatentSource, StateDict, WeightSet, WeightsFile},
};
use microdit_encoders::{
    Codec, Conditioner,
    hub::Draws,
    pipeline_files::{NetworkFiles, PipelineFiles},
    text::TextEncoder,
    vae::Vae,
};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

impl<B: DitBackend> Pipeline<B, Network<B>> {
    /// The pipeline in `files`, and how it draws: `draws`, with the solver and the noise levels that
    /// the files ask for. Encoders that are given take the place of those in the files. What pictures are guided away from is an
    /// empty prompt.
    ///
    /// # Errors
    /// A configuration that is not supported, networks that do not fit each other, and weights that do not fit or are not finite.
    pub fn of_files(
        files: PipelineFiles,
        draws: &Draws,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<(Self, SamplingConfig), TrainError> {
        let config = unet_config(&files.unet)?;
        let mut weights = of_files(&files.unet.weights)?;
        let denoises: Vec<PathBuf> = files.unet.weights.files().map(Path::to_owned).collect();
        // What a part's files hold, which may be those of all parts.
        let content = |part: &NetworkFiles| -> Result<String, TrainError> {
            let same = part
                .weights
                .files()
                .eq(denoises.iter().map(PathBuf::as_path));
            let sum = match same {
                true => weights.clone(),
                false => of_files(&part.weights)?,
            };
            let config = Sha256::digest(json(&part.keys()?));
            Ok(format!(
                "{sum}, configuration {}",
                &hexadecimal(&config)[..16]
            ))
        };
        let names = encoders.names();
        let conditioner: (String, Arc<dyn Conditioner<B>>) = match &names.text {
            Some(_) => (encoders.text_content()?, encoders.text()?),
            None => {
                let label = format!("{}, {:?}", content(&files.text)?, files.padding);
                let text = TextEncoder::of(files.text, files.padding, &device)?;
                (label, Arc::new(text))
            }
        };
        let codec: (String, Arc<dyn Codec<B>>) = match &names.vae {
            Some(_) => (encoders.vae_content()?, encoders.vae()?),
            None => (content(&files.vae)?, Arc::new(Vae::of(files.vae, &device)?)),
        };
        let model = NetworkConfig::UNet(config.clone());
        // Before the largest of the networks is read.
        fits::<B>(&model, &*conditioner.1, &*codec.1)?;
        if files.set == WeightSet::Average {
            weights += ", average";
        }
        let denoiser = load(&model, unet_weights(files.unet, &config), &device)?;
        let settings = SamplingConfig {
            steps: draws.steps,
            guidance: draws.guidance,
            rescale: draws.rescale,
            negative: Some(String::new()),
            solver: files.scheduler.solver,
            schedule: Some(ScheduleConfig::Timesteps(files.scheduler.schedule)),
            ..SamplingConfig::default()
        };
        let parts = Parts {
            model,
            diffusion: DiffusionConfig::Vp(files.scheduler.diffusion),
            denoiser,
            weights,
            one_step: None,
            conditioner,
            codec,
        };
        Ok((Self::of_parts(parts, device)?, settings))
    }
}

/// The network of a pipeline in this library's layout: its weights by their paths, and what a file of them says about itself. `name` is
/// where the pipeline's encoders are found.
///
/// # Errors
/// A configuration that is not supported, and damaged files.
pub fn unet_of_files(
    files: PipelineFiles,
    name: &Path,
) -> Result<(StateDict, Description), TrainError> {
    let config = unet_config(&files.unet)?;
    let text = files.text.keys()?;
    let tokens = text
        .get("max_position_embeddings")
        .and_then(|tokens| tokens.as_u64());
    let name = name.display().to_string();
    // No recipe of ours.
    let recipe = "0".repeat(64);
    let description = Description {
        network: Some(NetworkConfig::UNet(config.clone())),
        diffusion: DiffusionConfig::Vp(files.scheduler.diffusion),
        latents: LatentSource::Encoded {
            vae: Some(name.clone()),
        },
        captions: CaptionSource::Encoded {
            tokens: tokens.map_or(77, |tokens| tokens as usize),
            text_encoder: Some(name),
            trimmed: false,
        },
        step: files.steps.unwrap_or(0),
        recipe,
        one_step: None,
    };
    let origin = files.unet.weights.origin().to_owned();
    let weights = unet_weights(files.unet, &config);
    Ok((StateDict::take(weights, &origin)?, description))
}

fn unet_config(files: &NetworkFiles) -> Result<UNetConfig, TrainError> {
    let config = UNetConfig::from_diffusers(&files.keys()?);
    Ok(config.map_err(|error| files.unusable(&error))?)
}

/// The weights under the names the network has: DeciDiffusion's blocks hold their layers in one list.
pub(crate) fn unet_weights(files: NetworkFiles, config: &UNetConfig) -> WeightsFile {
    let weights = files.weights;
    if !weights.names().any(|name| name.contains(".modules_list.")) {
        return weights;
    }
    weights.renamed(|name| config.of_decidiffusion(name))
}

/// What a label says about weights in several files: their content.
fn of_files(weights: &WeightsFile) -> Result<String, TrainError> {
    let paths: Vec<&Path> = weights.files().collect();
    if let [only] = paths[..] {
        return label::of_file(only);
    }
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(label::of_file(path)?);
    }
    let sum = hexadecimal(&hasher.finalize());
    Ok(format!("sha256:{sum}"))
}
