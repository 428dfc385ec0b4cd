//! Single files in the names of latent diffusion. They have no configurations; what those would say follows from the tensors'
//! shapes, and from what the two versions of Stable Diffusion have in common.

use super::{NetworkFiles, PipelineError, PipelineFiles, Taken, scheduler};
use crate::{
    config_file::format,
    text::{ClipTokenizer, Padding},
};
use microdit::{
    diffusion::{Betas, Prediction},
    weights::{LdmNames, LdmPart, TextNames, WeightSet, WeightsError, WeightsFile},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Attention heads of version 1, and channels of a head of version 2 and of the text encoders.
const HEADS: usize = 8;
const HEAD_CHANNELS: usize = 64;

/// Groups of the group norms.
const GROUPS: usize = 32;

/// What latents are multiplied by.
const SCALING: f64 = 0.18215;

/// Side in pixels of the pictures of version 2 with velocity prediction, and of all other versions.
const SIDE_OF_V: usize = 768;
const SIDE: usize = 512;

/// How far a table's number that was rounded to f16 may be off, relatively.
const ROUNDED: f64 = 1e-3;

/// Numbers of a table at most.
const MOST_TIMESTEPS: usize = 1 << 20;

/// A file of latent diffusion.
#[derive(Debug)]
pub(super) struct SingleFile {
    path: PathBuf,
    names: LdmNames,
}

impl SingleFile {
    /// The file at `path`, if its names are latent diffusion's.
    pub(super) fn recognize(path: &Path) -> Result<Option<Self>, WeightsError> {
        let names = LdmNames::of(&WeightsFile::open(path)?);
        Ok(names.map(|names| Self {
            path: path.to_owned(),
            names,
        }))
    }

    /// All of it.
    pub(super) fn pipeline(&self, taken: &Taken) -> Result<PipelineFiles, PipelineError> {
        let mut whole = WeightsFile::open(&self.path)?;
        let mut notes = whole.notes().to_vec();
        let left_out = self.names.left_out(taken.set);
        if !left_out.is_empty() {
            notes.push(format!("left out: {}", left_out.join("; ")));
        }
        let (text, padding) = self.text()?;
        let prediction = self.prediction(taken)?;
        let mut scheduler_config = self.scheduler(&mut whole, prediction)?;
        let scheduler = scheduler(&self.path, &mut scheduler_config, taken)?;
        let steps = whole.global_step();
        Ok(PipelineFiles {
            unet: self.unet(taken.set, prediction)?,
            vae: self.vae()?,
            text,
            padding,
            scheduler,
            scheduler_config,
            set: taken.set,
            steps,
            notes,
        })
    }

    fn fail(&self, message: &str) -> WeightsError {
        format(&self.path, message)
    }

    fn network(&self, config: Value, weights: WeightsFile) -> NetworkFiles {
        NetworkFiles {
            path: self.path.clone(),
            config: config.to_string(),
            weights,
        }
    }

    /// The tensors of one network, in diffusers' names.
    fn part(&self, part: LdmPart, set: WeightSet) -> Result<WeightsFile, WeightsError> {
        if !self.names.has(part) {
            let what = match part {
                LdmPart::UNet => "U-Net (model.diffusion_model.*)",
                LdmPart::Vae => "autoencoder (first_stage_model.*)",
                LdmPart::TextEncoder => {
                    "text encoder of CLIP (cond_stage_model.transformer.* or cond_stage_model.model.*)"
                }
            };
            let unknown: Vec<&str> = self.names.unknown().take(3).collect();
            let there = match unknown.is_empty() {
                true => String::new(),
                false => format!(
                    "; it has tensors of another architecture: {}, ..",
                    unknown.join(", ")
                ),
            };
            return Err(self.fail(&format!("it holds no {what}{there}")));
        }
        self.names.part(WeightsFile::open(&self.path)?, part, set)
    }

    /// The network that denoises.
    pub(super) fn unet(
        &self,
        set: WeightSet,
        prediction: Prediction,
    ) -> Result<NetworkFiles, WeightsError> {
        let weights = self.part(LdmPart::UNet, set)?;
        let at = Tensors(self, &weights);
        let levels = at.count("down_blocks")?;
        let channels: Vec<usize> = (0..levels)
            .map(|i| at.side(&format!("down_blocks.{i}.resnets.0.conv1.weight"), 0))
            .collect::<Result<_, _>>()?;
        let attends =
            |i: usize| weights.contains(&format!("down_blocks.{i}.attentions.0.norm.weight"));
        let kind = |up: &str, i| match attends(i) {
            true => format!("CrossAttn{up}Block2D"),
            false => format!("{up}Block2D"),
        };
        let first = (0..levels).find(|&i| attends(i));
        let first = first
            .ok_or_else(|| self.fail("its U-Net has no attention, and so no use for prompts"))?;
        let transformer = format!("down_blocks.{first}.attentions.0");
        let keys = format!("{transformer}.transformer_blocks.0.attn2.to_k.weight");
        let linear = weights.shape(&format!("{transformer}.proj_in.weight"));
        let linear = linear.is_some_and(|shape| shape.len() == 2);
        // Version 1 has a number of heads, version 2 heads of one size.
        let heads: Value = match linear {
            true => channels
                .iter()
                .map(|&channels| self.heads(channels))
                .collect::<Result<Value, _>>()?,
            false => HEADS.into(),
        };
        let side = match (linear, prediction) {
            (true, Prediction::V) => SIDE_OF_V,
            _ => SIDE,
        };
        let vae_levels = self.vae_levels()?;
        let config = json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": heads,
            "block_out_channels": channels,
            "cross_attention_dim": at.side(&keys, 1)?,
            "down_block_types": (0..levels).map(|i| kind("Down", i)).collect::<Vec<_>>(),
            "flip_sin_to_cos": true,
            "freq_shift": 0,
            "in_channels": at.side("conv_in.weight", 1)?,
            "layers_per_block": at.count("down_blocks.0.resnets")?,
            "norm_eps": 1e-5,
            "norm_num_groups": GROUPS,
            "out_channels": at.side("conv_out.weight", 0)?,
            "sample_size": side >> vae_levels.saturating_sub(1).min(16),
            "transformer_layers_per_block": at.count(&format!("{transformer}.transformer_blocks"))?,
            "up_block_types": (0..levels).rev().map(|i| kind("Up", i)).collect::<Vec<_>>(),
            "use_linear_projection": linear,
        });
        Ok(self.network(config, weights))
    }

    fn vae_levels(&self) -> Result<usize, WeightsError> {
        let weights = self.part(LdmPart::Vae, WeightSet::Own)?;
        Tensors(self, &weights).count("encoder.down_blocks")
    }

    /// The network between images and latents.
    pub(super) fn vae(&self) -> Result<NetworkFiles, WeightsError> {
        let weights = self.part(LdmPart::Vae, WeightSet::Own)?;
        let at = Tensors(self, &weights);
        let levels = at.count("encoder.down_blocks")?;
        let channels: Vec<usize> = (0..levels)
            .map(|i| {
                at.side(
                    &format!("encoder.down_blocks.{i}.resnets.0.conv2.weight"),
                    0,
                )
            })
            .collect::<Result<_, _>>()?;
        let config = json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": channels,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "in_channels": at.side("encoder.conv_in.weight", 1)?,
            "latent_channels": at.side("decoder.conv_in.weight", 1)?,
            "layers_per_block": at.count("encoder.down_blocks.0.resnets")?,
            "mid_block_add_attention": weights.contains("encoder.mid_block.attentions.0.to_q.weight"),
            "norm_num_groups": GROUPS,
            "out_channels": at.side("decoder.conv_out.weight", 0)?,
            "scaling_factor": SCALING,
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "use_post_quant_conv": weights.contains("post_quant_conv.weight"),
            "use_quant_conv": weights.contains("quant_conv.weight"),
        });
        Ok(self.network(config, weights))
    }

    /// The network that reads prompts, and what they are padded with.
    pub(super) fn text(&self) -> Result<(NetworkFiles, Padding), WeightsError> {
        let weights = self.part(LdmPart::TextEncoder, WeightSet::Own)?;
        let at = Tensors(self, &weights);
        let table = "text_model.embeddings.token_embedding.weight";
        let positions = "text_model.embeddings.position_embedding.weight";
        let layers = "text_model.encoder.layers";
        let width = at.side(table, 1)?;
        let (activation, padding) = match self.names.text() {
            Some(TextNames::OpenClip) => ("gelu", Padding::Zero),
            _ => ("quick_gelu", Padding::End),
        };
        let config = json!({
            "architectures": ["CLIPTextModel"],
            "bos_token_id": ClipTokenizer::START,
            "eos_token_id": ClipTokenizer::END,
            "hidden_act": activation,
            "hidden_size": width,
            "intermediate_size": at.side(&format!("{layers}.0.mlp.fc1.weight"), 0)?,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": at.side(positions, 0)?,
            "model_type": "clip_text_model",
            "num_attention_heads": self.heads(width)?,
            "num_hidden_layers": at.count(layers)?,
            "vocab_size": at.side(table, 0)?,
        });
        Ok((self.network(config, weights), padding))
    }

    /// Attention heads of so many channels together.
    fn heads(&self, channels: usize) -> Result<usize, WeightsError> {
        match channels.is_multiple_of(HEAD_CHANNELS) {
            true => Ok(channels / HEAD_CHANNELS),
            false => Err(self.fail(&format!(
                "its attention has {channels} channels, no multiple of the {HEAD_CHANNELS} that a head of Stable Diffusion has; a directory of diffusers' would say how many heads there are"
            ))),
        }
    }

    /// What the network predicts: of version 1, the noise; of version 2, what was said.
    fn prediction(&self, taken: &Taken) -> Result<Prediction, PipelineError> {
        match (taken.prediction, self.names.text()) {
            (Some(prediction), _) => Ok(prediction),
            (None, Some(TextNames::OpenClip)) => Err(PipelineError::Prediction(self.path.clone())),
            (None, _) => Ok(Prediction::Epsilon),
        }
    }

    /// The scheduler's configuration, of the file's table of betas, or Stable Diffusion's where there is none.
    fn scheduler(
        &self,
        whole: &mut WeightsFile,
        prediction: Prediction,
    ) -> Result<Value, WeightsError> {
        let stored = match whole.shape("betas") {
            Some(shape) if shape.len() == 1 && (2..=MOST_TIMESTEPS).contains(&shape[0]) => {
                whole.read("betas")?
            }
            Some(shape) => {
                let message =
                    format!("betas has shape {shape:?}; expected one number for each timestep");
                return Err(self.fail(&message));
            }
            None => None,
        };
        let stored: Option<Vec<f64>> = stored.map(|data| data.iter::<f64>().collect());
        let (name, start, end, count) = match &stored {
            None => ("scaled_linear", 0.00085, 0.012, 1000),
            Some(betas) => self.betas(betas)?,
        };
        Ok(json!({
            "_class_name": "DDIMScheduler",
            "beta_end": end,
            "beta_schedule": name,
            "beta_start": start,
            "clip_sample": false,
            "num_train_timesteps": count,
            "prediction_type": match prediction {
                Prediction::Epsilon => "epsilon",
                Prediction::V => "v_prediction",
                Prediction::Sample => "sample",
            },
            "set_alpha_to_one": false,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        }))
    }

    /// The schedule that has these betas.
    fn betas(&self, betas: &[f64]) -> Result<(&'static str, f64, f64, usize), WeightsError> {
        let (start, end) = (betas[0], betas[betas.len() - 1]);
        let known = [
            ("scaled_linear", Betas::SCALED_LINEAR, 0.00085, 0.012),
            ("linear", Betas::LINEAR, 1e-4, 0.02),
            (
                "scaled_linear",
                Betas::ScaledLinear { start, end },
                start,
                end,
            ),
            ("linear", Betas::Linear { start, end }, start, end),
        ];
        let fits = |schedule: &Betas| {
            let values = schedule.values(betas.len());
            let mut pairs = values.iter().zip(betas);
            pairs.all(|(&value, &found)| (f64::from(value) - found).abs() <= ROUNDED * found.abs())
        };
        let found = known.into_iter().find(|(_, schedule, ..)| fits(schedule));
        found
            .map(|(name, _, start, end)| (name, start, end, betas.len()))
            .ok_or_else(|| {
                self.fail(&format!(
                    "its betas, {start} to {end}, are neither evenly spaced nor squares of evenly spaced numbers"
                ))
            })
    }
}

/// Shapes of a network's tensors.
struct Tensors<'a>(&'a SingleFile, &'a WeightsFile);

impl Tensors<'_> {
    fn side(&self, name: &str, dimension: usize) -> Result<usize, WeightsError> {
        let shape = self.1.shape(name);
        let side = shape
            .as_ref()
            .and_then(|shape| shape.get(dimension).copied());
        side.ok_or_else(|| match shape {
            None => self
                .0
                .fail(&format!("it lacks what diffusers calls {name}")),
            Some(shape) => self.0.fail(&format!(
                "{name} has shape {shape:?}, which has no dimension {dimension}"
            )),
        })
    }

    /// How many there are of what is numbered from 0 behind `prefix.`, at least one.
    fn count(&self, prefix: &str) -> Result<usize, WeightsError> {
        let numbers = self.1.names().filter_map(|name| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            rest.split('.').next()?.parse::<usize>().ok()
        });
        match numbers.max() {
            // As many as there are numbers is all there can be.
            Some(last) if last < self.1.names().count() => Ok(last + 1),
            _ => Err(self
                .0
                .fail(&format!("it lacks what diffusers calls {prefix}"))),
        }
    }
}
