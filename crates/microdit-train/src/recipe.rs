//! A recipe: everything a run is determined by, in one RON file.
//!
//! The keys of a stage stand at the top of the file, where they hold for every stage, or in a stage, where they hold for
//! it alone. A file may extend another one.

use crate::{
    error::TrainError,
    optim::OptimiserConfig,
    schedule::Schedule,
    tree::{Failure, Node, Origin, Value},
};
use microdit::{
    DitConfig, Masking,
    diffusion::{edm::Edm, sampler::Solver, schedule::SigmaSchedule},
    ema::EmaConfig,
};
use ron::extensions::Extensions;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What belongs to the run as a whole.
    pub run: RunConfig,
    /// What is trained, in order.
    pub stages: Vec<Stage>,
    /// The recipe as RON, with everything it extends and every `--set` worked in.
    pub source: String,
}

/// What belongs to the run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run, the first part of its default directory.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// What is drawn at the end.
    pub sampling: SamplingConfig,
    /// Steps between lines of the log.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoints: CheckpointConfig,
    /// Steps in a row without a finite gradient after which the run stops.
    #[serde(default = "ten")]
    pub max_broken_steps: u64,
    /// When the loss on held-out samples is measured; never if absent.
    #[serde(default)]
    pub evaluation: Option<EvaluationConfig>,
    /// What the run may cost.
    #[serde(default)]
    pub budget: Budget,
}

/// When the loss on held-out samples is measured, and on which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations.
    pub every: u64,
    /// Number of samples.
    pub samples: usize,
    /// Held-out shards; generated datasets need none.
    #[serde(default)]
    pub shards: Option<String>,
}

/// What a run may cost; when it is spent, the run stops with its state saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Hours of the whole machine.
    pub hours: Option<f64>,
    /// Dollars.
    pub usd: Option<f64>,
    /// Price of one device for an hour, in dollars; `usd` needs it.
    pub usd_per_gpu_hour: Option<f64>,
}

impl Budget {
    /// Price of a time on `devices`.
    pub fn usd_after(&self, seconds: f64, devices: usize) -> Option<f64> {
        Some(self.usd_per_gpu_hour? * seconds / 3600.0 * devices as f64)
    }

    /// Whether nothing is left after that time on `devices`.
    pub fn is_spent(&self, seconds: f64, devices: usize) -> bool {
        let spent = self.usd_after(seconds, devices);
        let dollars = self.usd.zip(spent).is_some_and(|(usd, spent)| spent >= usd);
        dollars || self.hours.is_some_and(|hours| seconds / 3600.0 >= hours)
    }
}

fn ten() -> u64 {
    10
}

/// When the state of a run is saved, and which states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints.
    pub every: u64,
    /// Newest checkpoints kept.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps are kept for good.
    pub milestones: Option<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 1000,
            keep: 2,
            milestones: None,
        }
    }
}

/// A part of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name in the log.
    pub name: String,
    /// Optimiser steps.
    pub steps: u64,
    /// What it takes over from the stage before.
    #[serde(default)]
    pub hand_over: HandOver,
    /// Sizes of the network; a later stage may change the resolution only.
    pub model: DitConfig,
    /// Noise distribution and preconditioning.
    pub diffusion: Edm,
    /// Where images and captions come from.
    pub data: DataConfig,
    /// How images become latents.
    pub codec: CodecConfig,
    /// How captions become vectors.
    pub captions: CaptionConfig,
    /// Which tokens are dropped.
    #[serde(default)]
    pub masking: Masking,
    /// Images in a step.
    pub batch: usize,
    /// Images computed at once; the whole batch if absent. The weights are the same for any number.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Optimiser.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// Multiplier of the learning rate over the stage's own steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Averages of the weights, counted in the stage's own steps; the first one is what is sampled from.
    #[serde(default)]
    pub ema: Vec<EmaConfig>,
}

/// What a stage takes over from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandOver {
    /// Which weights.
    pub weights: Handed,
    /// Whether the optimiser's moments come along, if its method stays the same.
    pub optimiser: bool,
}

/// Weights handed from stage to stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handed {
    /// As trained.
    #[default]
    Raw,
    /// The first average, or as trained if there is none yet.
    Ema,
}

/// Where images and captions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset.
    pub dataset: Dataset,
    /// For `WebDataset` and `Latents`: a tar, a directory of tars, or a pattern.
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
    /// Tars of pre-computed latents and caption vectors, for images of `image_size` pixels.
    Latents,
}

/// How images become latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum CodecConfig {
    /// The pixels themselves, from -1..1 times a scale.
    Pixels {
        /// The scale; 0.5 gives photographs a standard deviation near 0.25.
        scale: f32,
    },
    /// They are latents already, as the shards hold them.
    Latents,
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
    /// They are vectors already, as the shards hold them.
    Precomputed {
        /// Vectors of a caption.
        tokens: usize,
        /// Fraction of the captions replaced by zeros, for classifier-free guidance.
        drop: f64,
    },
}

impl CaptionConfig {
    /// Vectors of a caption.
    pub fn tokens(&self) -> usize {
        let (Self::HashedWords { tokens, .. } | Self::Precomputed { tokens, .. }) = self;
        *tokens
    }

    /// The same without replacing any by zeros.
    #[must_use]
    pub(crate) fn without_drop(mut self) -> Self {
        let (Self::HashedWords { drop, .. } | Self::Precomputed { drop, .. }) = &mut self;
        *drop = 0.0;
        self
    }

    /// Fraction of the captions replaced by zeros.
    pub fn drop(&self) -> f64 {
        let (Self::HashedWords { drop, .. } | Self::Precomputed { drop, .. }) = self;
        *drop
    }
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
    /// Steps of training between grids; only one at the end if absent.
    #[serde(default)]
    pub every: Option<u64>,
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

/// Keys that belong to the run; all others are a stage's.
const RUN_KEYS: [&str; 8] = [
    "name",
    "seed",
    "sampling",
    "log_every",
    "checkpoints",
    "max_broken_steps",
    "evaluation",
    "budget",
];

/// Recipes that may extend each other in a row; more are taken for a circle.
const MAX_EXTENDS: usize = 16;

impl Recipe {
    /// Reads a recipe and what it extends, and applies `path=value` overrides such as `stages.masked.steps=10` or
    /// `data.shards=train.tar`.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key or a wrong type, each with file, line and key; sizes that
    /// contradict each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let mut tree = read(path, 0)?;
        for entry in overrides {
            let missing = || (Origin::command_line(entry), "write it as path=value".into());
            let (key, value) = entry.split_once('=').ok_or_else(missing)?;
            tree.set(key, Node::parse_entry(value, entry))?;
        }
        let recipe = match Self::from_tree(tree.clone()) {
            Err(error) => Self::with_bare_strings(tree, overrides).ok_or(error)?,
            recipe => recipe?,
        };
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe if bare words of the command line are taken for strings wherever no name fits: shell quoting of
    /// strings would be a nuisance.
    fn with_bare_strings(mut tree: Node, overrides: &[String]) -> Option<Self> {
        let mut recipe = Self::from_tree(tree.clone());
        for _ in overrides {
            let Err(TrainError::Recipe { origin, .. }) = &recipe else {
                break;
            };
            let entry = overrides
                .iter()
                .find(|entry| Origin::command_line(entry).to_string() == *origin)?;
            let (key, value) = entry.split_once('=')?;
            let string = Node::parse_entry(&format!("{value:?}"), entry);
            tree.set(key, string).ok()?;
            recipe = Self::from_tree(tree.clone());
        }
        recipe.ok()
    }

    fn from_tree(mut tree: Node) -> Result<Self, TrainError> {
        let source = tree.write().0;
        let origin = tree.origin.clone();
        let stages = tree.take("stages")?;
        let mut run = Vec::new();
        for key in RUN_KEYS {
            run.extend(tree.take(key)?.map(|node| (key.to_owned(), node)));
        }
        let run = Node {
            value: Value::Struct(String::new(), run),
            origin: origin.clone(),
        };
        let stages = match stages.map(|stages| (stages.value, stages.origin)) {
            Some((Value::List(stages), _)) => stages,
            Some((_, origin)) => {
                return Err((origin, "stages are a list: [(name: ...)]".into()).into());
            }
            None => Vec::new(),
        };
        Ok(Self {
            run: typed(&run)?,
            stages: stages
                .into_iter()
                .map(|stage| typed(&tree.clone().merge(stage)))
                .collect::<Result<_, _>>()?,
            source,
        })
    }

    /// Total steps over all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// The stage whose network is drawn with.
    ///
    /// # Panics
    /// If there are no stages, which [`load`](Self::load) does not let happen.
    pub fn last_stage(&self) -> &Stage {
        self.stages.last().expect("a recipe has a stage")
    }

    /// Checks what the types do not.
    fn validate(&self) -> Result<(), TrainError> {
        let run = &self.run;
        require(
            !self.stages.is_empty(),
            "stages",
            "a run needs at least one stage",
        )?;
        require(run.log_every > 0, "log_every", "must be at least 1")?;
        require(
            run.checkpoints.every > 0,
            "checkpoints.every",
            "must be at least 1",
        )?;
        require(
            run.checkpoints.keep > 0,
            "checkpoints.keep",
            "must be at least 1",
        )?;
        require(
            run.max_broken_steps > 0,
            "max_broken_steps",
            "must be at least 1",
        )?;
        require(
            run.checkpoints.milestones != Some(0),
            "checkpoints.milestones",
            "must be at least 1",
        )?;
        require(
            run.sampling.every != Some(0),
            "sampling.every",
            "must be at least 1",
        )?;
        require(
            run.budget.usd.is_none() || run.budget.usd_per_gpu_hour.is_some(),
            "budget.usd_per_gpu_hour",
            "a budget in dollars needs the price of a device",
        )?;
        if let Some(evaluation) = &run.evaluation {
            let positive = evaluation.every > 0 && evaluation.samples > 0;
            require(
                positive,
                "evaluation",
                "every and samples must be at least 1",
            )?;
            let generated = |stage: &Stage| stage.data.dataset == Dataset::Shapes;
            require(
                evaluation.shards.is_some() || self.stages.iter().all(generated),
                "evaluation.shards",
                "name shards that are not trained on",
            )?;
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let key = |key: &str| format!("stages.{}.{key}", stage.name);
            stage.validate()?;
            let Some(before) = i.checked_sub(1).map(|i| &self.stages[i]) else {
                continue;
            };
            require(
                self.stages[..i]
                    .iter()
                    .all(|other| other.name != stage.name),
                &key("name"),
                "two stages have this name",
            )?;
            let mut same = stage.model.clone();
            same.input_size = before.model.input_size;
            same.pos_interp_scale = before.model.pos_interp_scale;
            require(
                same == before.model,
                &key("model"),
                "between stages only input_size and pos_interp_scale may change: the weights are handed on",
            )?;
        }
        Ok(())
    }
}

impl Stage {
    fn validate(&self) -> Result<(), TrainError> {
        let key = |key: &str| format!("stages.{}.{key}", self.name);
        self.model.validate()?;
        require(self.batch > 0, &key("batch"), "must be at least 1")?;
        require(
            self.micro_batch != Some(0),
            &key("micro_batch"),
            "must be at least 1",
        )?;
        if let Some((name, rule)) = self.optimiser.broken_rule() {
            return Err(problem(&key(&format!("optimiser.{name}")), &rule));
        }
        self.validate_data()?;
        require(
            self.captions.tokens() > 0,
            &key("captions.tokens"),
            "must be at least 1",
        )?;
        let drop = (0.0..=1.0).contains(&self.captions.drop());
        require(drop, &key("captions.drop"), "must be in 0..=1")?;
        let masking = key("masking");
        require(
            (0.0..1.0).contains(&self.masking.ratio()),
            &masking,
            "the ratio must be in 0..1",
        )?;
        let kept = self.masking.kept(self.model.tokens());
        require(kept > 0, &masking, "no token would be kept")?;
        let capacity = self.model.validate_capacity(kept);
        capacity.map_err(|error| problem(&masking, &format!("{kept} tokens are kept: {error}")))
    }
}

impl Stage {
    /// Data, codec and captions must speak of the same things.
    fn validate_data(&self) -> Result<(), TrainError> {
        let key = |key: &str| format!("stages.{}.{key}", self.name);
        let latents = self.data.dataset == Dataset::Latents;
        require(
            latents == (self.codec == CodecConfig::Latents),
            &key("codec"),
            "the Latents dataset goes with codec: Latents, and only with it",
        )?;
        require(
            latents == matches!(self.captions, CaptionConfig::Precomputed { .. }),
            &key("captions"),
            "the Latents dataset goes with captions: Precomputed(...), and only with it",
        )?;
        let pixels =
            self.model.in_channels == 3 && self.model.input_size == self.data.image_size as usize;
        require(
            latents || pixels,
            &key("model.input_size"),
            "with the Pixels codec, in_channels must be 3 and input_size equal data.image_size",
        )?;
        require(
            self.data.dataset == Dataset::Shapes || self.data.shards.is_some(),
            &key("data.shards"),
            "this dataset needs its shards; add --set data.shards=PATH (a tar, a directory of tars, or a pattern)",
        )
    }
}

fn require(holds: bool, key: &str, rule: &str) -> Result<(), TrainError> {
    if holds {
        Ok(())
    } else {
        Err(problem(key, &rule))
    }
}

/// A file, laid over the one it extends.
fn read(path: &Path, depth: usize) -> Result<Node, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let mut node = Node::parse(&text, &path.display().to_string())?;
    let Some(base) = node.take("extends")? else {
        return Ok(node);
    };
    if depth == MAX_EXTENDS {
        return Err((base.origin, "recipes extend each other in a circle".into()).into());
    }
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    Ok(read(&folder.join(base.as_text()?), depth + 1)?.merge(node))
}

/// Gives a tree its type; an error is told at the line its value came from.
fn typed<T: DeserializeOwned>(node: &Node) -> Result<T, TrainError> {
    let (text, origins) = node.write();
    let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME);
    options.from_str(&text).map_err(|error| {
        let line = error.span.end.line.clamp(1, origins.len());
        let message = explain(&error.code);
        (origins[line - 1].clone(), message).into()
    })
}

/// The parser's message, with the nearest known name where one is unknown.
fn explain(error: &ron::Error) -> String {
    let (ron::Error::NoSuchStructField {
        expected, found, ..
    }
    | ron::Error::NoSuchEnumVariant {
        expected, found, ..
    }) = error
    else {
        return error.to_string();
    };
    let near = expected
        .iter()
        .chain(&RUN_KEYS)
        .map(|name| (strsim::jaro_winkler(name, found), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => format!("{error}; did you mean `{name}`?"),
        None => error.to_string(),
    }
}

fn problem(origin: &str, message: &dyn std::fmt::Display) -> TrainError {
    TrainError::Recipe {
        origin: origin.to_owned(),
        message: message.to_string(),
    }
}

impl From<Failure> for TrainError {
    fn from((origin, message): Failure) -> Self {
        problem(&origin.to_string(), &message)
    }
}
