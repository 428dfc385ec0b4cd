//! A pipeline in the layouts that other programs read.

use super::{DIFFUSERS, NetworkFiles, PipelineFiles};
use crate::{config_file::TRANSFORMERS, text::ClipTokenizer};
use burn::tensor::DType;
use microdit::{
    atomic_file,
    weights::{LdmPart, StateDict, TextNames, WeightsError, to_ldm},
};
use serde_json::{Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// How a pipeline lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A directory as diffusers writes it.
    Diffusers,
    /// A single safetensors file in the names of latent diffusion.
    Ldm,
}

/// The class of DeciDiffusion's network.
const FLEXIBLE: &str = "FlexibleUNet2DConditionModel";

/// The version of diffusers whose keys the configurations have.
const VERSION: &str = "0.21.0";

impl PipelineFiles {
    /// Writes the pipeline to `out`, whole or not at all, with weights of float type `dtype`; unless `any_value` is set, they must be
    /// finite.
    ///
    /// # Errors
    /// Files that cannot be read or written, values that are not finite or beyond the range of `dtype`, and for
    /// [`Layout::Ldm`] networks that latent diffusion has no names for.
    pub fn write(
        self,
        layout: Layout,
        out: &Path,
        dtype: DType,
        any_value: bool,
    ) -> Result<(), WeightsError> {
        match layout {
            Layout::Diffusers => self.write_directory(out, dtype, any_value),
            Layout::Ldm => {
                let activation = self.text.keys()?.get("hidden_act").cloned();
                let text = match activation.as_ref().and_then(Value::as_str) {
                    Some("gelu") => TextNames::OpenClip,
                    _ => TextNames::Transformers,
                };
                if self.unet.keys()?.get("_class_name") == Some(&FLEXIBLE.into()) {
                    let error = "a U-Net-NAS has no names in latent diffusion; only diffusers' layout holds it";
                    return Err(self.unet.unusable(&error));
                }
                let parts = [
                    (LdmPart::UNet, self.unet.state(any_value)?),
                    (LdmPart::Vae, self.vae.state(any_value)?),
                    (LdmPart::TextEncoder, self.text.state(any_value)?),
                ];
                to_ldm(parts, text)?.write_safetensors(out, dtype, None)
            }
        }
    }

    fn write_directory(
        self,
        out: &Path,
        dtype: DType,
        any_value: bool,
    ) -> Result<(), WeightsError> {
        // Under another name until all of it is there.
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if part.exists() {
            fs::remove_dir_all(&part).map_err(io_error(&part))?;
        }
        let index = self.index()?;
        write_json(&part.join("model_index.json"), &index)?;
        let scheduler = part.join("scheduler/scheduler_config.json");
        write_json(&scheduler, &self.scheduler_config)?;
        let tokenizer = part.join("tokenizer");
        create(&tokenizer)?;
        ClipTokenizer::new()
            .save(&tokenizer, self.padding)
            .map_err(io_error(&tokenizer))?;
        for (name, files, weights) in [
            ("unet", self.unet, DIFFUSERS[0]),
            ("vae", self.vae, DIFFUSERS[0]),
            ("text_encoder", self.text, TRANSFORMERS[0]),
        ] {
            let flexible = files.keys()?.get("_class_name") == Some(&FLEXIBLE.into());
            let folder = part.join(if flexible { "flexible_unet" } else { name });
            write_json(&folder.join("config.json"), &files.keys()?.into())?;
            let state = files.state(any_value)?;
            state.write_safetensors(&folder.join(weights), dtype, None)?;
        }
        fs::rename(&part, out).map_err(io_error(out))
    }

    /// `model_index.json`.
    fn index(&self) -> Result<Value, WeightsError> {
        let unet = self.unet.keys()?;
        let extra = unet.get("in_channels") != unet.get("out_channels");
        let class = |keys: &Value, otherwise: &str| {
            keys.get("_class_name")
                .cloned()
                .unwrap_or_else(|| otherwise.into())
        };
        Ok(json!({
            "_class_name": if extra { "StableDiffusionInpaintPipeline" } else { "StableDiffusionPipeline" },
            "_diffusers_version": VERSION,
            "feature_extractor": [null, null],
            "requires_safety_checker": false,
            "safety_checker": [null, null],
            "scheduler": ["diffusers", class(&self.scheduler_config, "DDIMScheduler")],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", class(&unet.into(), "UNet2DConditionModel")],
            "vae": ["diffusers", class(&self.vae.keys()?.into(), "AutoencoderKL")],
        }))
    }
}

impl NetworkFiles {
    fn state(self, any_value: bool) -> Result<StateDict, WeightsError> {
        let origin = self.weights.origin().to_owned();
        let state = StateDict::take(self.weights, &origin)?;
        if !any_value {
            state.check_finite()?;
        }
        Ok(state)
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError + '_ {
    move |error| WeightsError::Io {
        path: path.to_owned(),
        error,
    }
}

fn create(folder: &Path) -> Result<(), WeightsError> {
    fs::create_dir_all(folder).map_err(io_error(folder))
}

fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    create(path.parent().unwrap_or(path))?;
    let text = format!("{value:#}\n");
    atomic_file::write(path, |part| fs::write(part, text)).map_err(io_error(path))
}
