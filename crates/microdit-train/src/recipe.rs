//! A recipe: everything a run is determined by, in one RON file.

use crate::{error::TrainError, optim::AdamWConfig, schedule::Schedule};
use microdit::{
    ConfigError, DitConfig, Masking,
    diffusion::{edm::Edm, sampler::Solver, schedule::SigmaSchedule},
    ema::EmaConfig,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run, the first part of its default directory.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Sizes of the network.
    pub model: DitConfig,
    /// Noise distribution and preconditioning.
    pub diffusion: Edm,
    /// Where images and captions come from.
    pub data: DataConfig,
    /// How images become latents.
    pub codec: CodecConfig,
    /// How captions become vectors.
    pub captions: CaptionConfig,
    /// Images in a step.
    pub batch: usize,
    /// Optimiser.
    pub optimiser: AdamWConfig,
    /// Weight average used for sampling.
    #[serde(default)]
    pub ema: Option<EmaConfig>,
    /// What is trained, in order.
    pub stages: Vec<Stage>,
    /// What is drawn at the end.
    pub sampling: SamplingConfig,
    /// Steps between lines of the log.
    #[serde(default = "ten")]
    pub log_every: u64,
}

fn ten() -> u64 {
    10
}

/// A part of the run with its own mask and learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name in the log.
    pub name: String,
    /// Optimiser steps.
    pub steps: u64,
    /// Which tokens are dropped.
    pub masking: Masking,
    /// Learning rate before the schedule; the optimiser's own if absent.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Multiplier of the learning rate over the stage's own steps.
    pub schedule: Schedule,
}

/// Where images and captions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset.
    pub dataset: Dataset,
    /// For `WebDataset`: a tar, a directory of tars, or a pattern.
    #[serde(default)]
    pub shards: Option<String>,
    /// Side of the images in pixels.
    pub image_size: u32,
    /// Threads that read and decode; the data are the same for any number.
    #[serde(default = "two")]
    pub threads: usize,
}

fn two() -> usize {
    2
}

/// A kind of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dataset {
    /// Drawn on the fly: coloured shapes and sentences about them.
    Shapes,
    /// Tars of images and texts.
    WebDataset,
}

/// How images become latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum CodecConfig {
    /// The pixels themselves, from -1..1 times a scale.
    Pixels {
        /// The scale; 0.5 gives photographs a standard deviation near 0.25.
        scale: f32,
    },
}

/// How captions become vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaptionConfig {
    /// One random but fixed vector per word: a stand-in for CLIP that needs no download.
    HashedWords {
        /// Words kept, and padded to.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, for classifier-free guidance.
        drop: f64,
    },
}

/// What is drawn when training ends, and the defaults of `microdit sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// One picture, or `count` of them, each.
    pub prompts: Vec<String>,
    /// Pictures per prompt.
    #[serde(default = "one")]
    pub count: usize,
    /// Steps of the solver.
    #[serde(default = "thirty")]
    pub steps: usize,
    /// Classifier-free guidance scale; 1 is none.
    #[serde(default = "five")]
    pub guidance: f64,
    /// Solver.
    #[serde(default)]
    pub solver: Solver,
    /// Noise levels.
    #[serde(default)]
    pub sigmas: SigmaSchedule,
}

fn one() -> usize {
    1
}
fn thirty() -> usize {
    30
}
fn five() -> f64 {
    5.0
}

impl Recipe {
    /// Reads a recipe and applies `path=value` overrides.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key or a wrong type, each with file, line and key; sizes that
    /// contradict each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        let recipe: Self = ron::from_str(&text).map_err(|error| TrainError::Recipe {
            origin: format!("{}:{}", path.display(), error.span.start.line),
            message: error.code.to_string(),
        })?;
        let recipe = recipe.with_overrides(overrides)?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Total steps over all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// Replaces values by `path=value`, such as `data.shards=train.tar` or `stages.0.steps=10`.
    ///
    /// # Errors
    /// A path that is no key of the recipe, or a value of another type.
    pub fn with_overrides(self, overrides: &[String]) -> Result<Self, TrainError> {
        if overrides.is_empty() {
            return Ok(self);
        }
        let mut tree = serde_json::to_value(&self).map_err(|error| problem("recipe", &error))?;
        for entry in overrides {
            let origin = format!("--set {entry}");
            let (path, value) = entry
                .split_once('=')
                .ok_or_else(|| problem(&origin, &"write it as path=value"))?;
            let place = descend(&mut tree, path).map_err(|message| problem(&origin, &message))?;
            // A bare word is a string: shell quoting of strings would be a nuisance.
            *place = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
        }
        serde_json::from_value(tree)
            .map_err(|error| problem(&format!("--set {}", overrides.join(" --set ")), &error))
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// The key, the rule and the values.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.model.validate()?;
        let require = |holds: bool, key: &str, rule: &str| {
            if holds {
                Ok(())
            } else {
                Err(problem(key, &rule))
            }
        };
        require(self.batch > 0, "batch", "must be at least 1")?;
        require(
            !self.stages.is_empty(),
            "stages",
            "a run needs at least one stage",
        )?;
        require(self.log_every > 0, "log_every", "must be at least 1")?;
        require(
            self.model.in_channels == 3 && self.model.input_size == self.data.image_size as usize,
            "model.input_size",
            "with the Pixels codec, in_channels must be 3 and input_size equal data.image_size",
        )?;
        require(
            self.data.dataset != Dataset::WebDataset || self.data.shards.is_some(),
            "data.shards",
            "a WebDataset needs its shards; add --set data.shards=PATH (a tar, a directory of tars, or a pattern)",
        )?;
        let CaptionConfig::HashedWords { tokens, drop } = self.captions;
        require(tokens > 0, "captions.tokens", "must be at least 1")?;
        require(
            (0.0..=1.0).contains(&drop),
            "captions.drop",
            "must be in 0..=1",
        )?;
        for stage in &self.stages {
            let ratio = stage.masking.ratio();
            let key = format!("stages.{}.masking", stage.name);
            require(
                (0.0..1.0).contains(&ratio),
                &key,
                "the ratio must be in 0..1",
            )?;
            let kept = stage.masking.kept(self.model.tokens());
            require(kept > 0, &key, "no token would be kept")?;
            self.model
                .validate_capacity(kept)
                .map_err(|error: ConfigError| {
                    problem(&key, &format!("{} tokens are kept: {error}", kept))
                })?;
        }
        Ok(())
    }
}

fn problem(origin: &str, message: &dyn std::fmt::Display) -> TrainError {
    TrainError::Recipe {
        origin: origin.to_owned(),
        message: message.to_string(),
    }
}

/// The value at a dotted path; every part must exist.
fn descend<'a>(tree: &'a mut Value, path: &str) -> Result<&'a mut Value, String> {
    path.split('.').try_fold(tree, |tree, key| match tree {
        Value::Object(map) => {
            let known = map.keys().cloned().collect::<Vec<_>>().join(", ");
            map.get_mut(key)
                .ok_or_else(|| format!("no key `{key}`; there are {known}"))
        }
        Value::Array(list) => {
            let length = list.len();
            key.parse()
                .ok()
                .and_then(|index: usize| list.get_mut(index))
                .ok_or_else(|| format!("`{key}` is no index into a list of {length}"))
        }
        _ => Err(format!(
            "nothing lies below `{key}`'s parent: it is a plain value"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quickstart() -> Recipe {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        Recipe::load(&path, &[]).unwrap()
    }

    #[test]
    fn overrides_replace_values_and_name_bad_paths() {
        let set = |entry: &str| quickstart().with_overrides(&[entry.to_owned()]);
        assert_eq!(set("stages.0.steps=7").unwrap().stages[0].steps, 7);
        assert_eq!(
            set("data.shards=a.tar").unwrap().data.shards.as_deref(),
            Some("a.tar")
        );
        let message = set("data.shard=a.tar").unwrap_err().to_string();
        assert!(
            message.contains("no key `shard`") && message.contains("image_size"),
            "{message}"
        );
        assert!(set("batch=many").is_err());
    }
}
