//! The network to draw with, of a run or of a file of weights.

use crate::{
    advice::OrAdvise,
    network::{Described, Told},
    say,
};
use clap::ValueEnum;
use microdit::{
    DitBackend, diffusion::Prediction, net::Network, range::within, weights::WeightSet,
};
use microdit_encoders::{
    hub::{Draws, locate, published},
    pipeline_files::{PipelineFiles, Taken},
};
use microdit_train::{
    encoders::Encoders,
    export::WEIGHTS,
    recipe::{EncoderConfig, SamplingConfig},
    run::Choice,
    sampling::Pipeline,
};
use miette::miette;
use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Flags that say which network draws. A command that has them groups `run`, `weights` and `pipeline`, of which one is needed.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    pub(crate) run: Option<PathBuf>,
    /// Weights of the network, .safetensors or .pt, or a name such as microdit-xl2
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Stable Diffusion, SD-Turbo or DeciDiffusion: a directory as diffusers writes it, a single file (.safetensors or .ckpt) in the
    /// names of latent diffusion, or a name such as sd-2.1-base. Solver, noise levels and padding are those the files ask for
    #[arg(long)]
    pipeline: Option<PathBuf>,
    /// What the network of --pipeline predicts: single files of version 2 do not say it
    #[arg(long, value_enum, requires = "pipeline")]
    prediction: Option<Predicted>,
    /// Which weights of --run: `none` for those as trained, or the number of an average, counted from 1 as the recipe lists them
    /// under `ema` [default: the first average, or as trained if there is none]. Of a --pipeline in a single file with two sets of
    /// weights, their average [default: those under the network's own name]
    #[arg(long, value_name = "NUMBER", conflicts_with = "weights", value_parser = choice, num_args = 0..=1, default_missing_value = "1")]
    ema: Option<Choice>,
    /// Adapters to draw with, as peft, diffusers and kohya's trainers write them, and how strongly; may be given several times, each
    /// with a scale of its own from -100 to 100 [default scale: 1]
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = Adapters::parse)]
    lora: Vec<Adapters>,
    #[command(flatten)]
    told: Told,
    /// Directory of the VAE, as diffusers saves it, or a name such as sdxl-vae [default: the recipe's, or the one --weights name]
    #[arg(long)]
    vae: Option<PathBuf>,
    /// Directory of the text encoder, as open_clip or transformers save it, or a name such as dfn-clip-h14 [default: the recipe's, or the
    /// one --weights name]
    #[arg(long)]
    text_encoder: Option<PathBuf>,
}

/// A file of adapters, and what they are multiplied by.
#[derive(Clone, Debug)]
pub(crate) struct Adapters {
    path: PathBuf,
    strength: f64,
}

impl Adapters {
    /// Strengths that mean anything.
    const STRENGTHS: RangeInclusive<f64> = -100.0..=100.0;

    /// Reads `FILE` or `FILE:SCALE`. What is not a number is part of the name.
    fn parse(text: &str) -> Result<Self, String> {
        let split = text.rsplit_once(':');
        let scaled = split.and_then(|(path, scale)| Some((path, scale.parse::<f64>().ok()?)));
        let (path, strength) = scaled.unwrap_or((text, 1.0));
        if path.is_empty() {
            return Err("expected a file, or FILE:SCALE".into());
        }
        let inside = within("", strength, Self::STRENGTHS);
        inside.map_err(|error| format!("its scale {}", error.rule))?;
        Ok(Self {
            path: path.into(),
            strength,
        })
    }
}

/// What a network predicts, on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Predicted {
    /// The noise
    Epsilon,
    /// The velocity
    V,
}

impl Predicted {
    pub(crate) fn prediction(self) -> Prediction {
        match self {
            Self::Epsilon => Prediction::Epsilon,
            Self::V => Prediction::V,
        }
    }
}

/// A network that can draw.
pub(crate) struct Opened<B: DitBackend> {
    pub(crate) pipeline: Pipeline<B, Network<B>>,
    /// How it draws unless told otherwise.
    pub(crate) settings: SamplingConfig,
}

/// Reads `--ema`.
pub(crate) fn choice(text: &str) -> Result<Choice, String> {
    match text {
        "none" => Ok(Choice::Trained),
        number => match number.parse::<usize>() {
            Ok(number @ 1..=1000) => Ok(Choice::Average(number - 1)),
            _ => Err("expected `none`, or a number from 1 to 1000".into()),
        },
    }
}

impl Source {
    /// Loads the network, with its adapters, and what it needs to draw.
    pub(crate) fn open<B: DitBackend>(&self, device: B::Device) -> miette::Result<Opened<B>> {
        let mut opened = self.bare(device)?;
        for Adapters { path, strength } in &self.lora {
            let adapted = opened.pipeline.adapted_by(path, *strength);
            opened.pipeline = adapted.or_advise()?;
        }
        Ok(opened)
    }

    fn bare<B: DitBackend>(&self, device: B::Device) -> miette::Result<Opened<B>> {
        let named = EncoderConfig {
            vae: self.vae.clone(),
            text: self.text_encoder.clone(),
        };
        if let Some(pipeline) = &self.pipeline {
            return self.published(pipeline, &named, device);
        }
        match (&self.run, &self.weights) {
            (Some(run), _) => {
                let encoders = Encoders::open(&named, &device).or_advise()?;
                let (pipeline, recipe) =
                    Pipeline::<B, _>::load(run, self.ema.unwrap_or_default(), encoders, device)
                        .or_advise()?;
                Ok(Opened {
                    settings: pipeline.usual(recipe.run.sampling),
                    pipeline,
                })
            }
            (None, Some(weights)) => {
                let mut weights = locate(weights).or_advise()?;
                // A folder that `microdit export` wrote.
                if weights.join(WEIGHTS).is_file() {
                    weights = weights.join(WEIGHTS);
                } else if weights.join("recipe.ron").is_file() {
                    return Err(miette!(
                        help = "give a run with --run, or one of its files of weights",
                        "{} is a run",
                        weights.display()
                    ));
                }
                let described = Described::read(&weights, &self.told)?;
                let encoders = Encoders::open(&described.encoders(named), &device).or_advise()?;
                let surroundings = described.surroundings(&self.told, &encoders)?;
                let pipeline = Pipeline::of_weights(&weights, surroundings, &encoders, device);
                let pipeline = pipeline.or_advise()?;
                Ok(Opened {
                    settings: pipeline.usual(SamplingConfig::default()),
                    pipeline,
                })
            }
            (None, None) => Err(miette!(
                "no network to draw with; add --run, --weights or --pipeline"
            )),
        }
    }

    fn published<B: DitBackend>(
        &self,
        name: &Path,
        named: &EncoderConfig,
        device: B::Device,
    ) -> miette::Result<Opened<B>> {
        let taken = Taken {
            set: match self.ema {
                None | Some(Choice::Best | Choice::Trained) => WeightSet::Own,
                Some(Choice::Average(0)) => WeightSet::Average,
                Some(Choice::Average(_)) => {
                    return Err(miette!(
                        "a pipeline has one average at most; leave out the number after --ema"
                    ));
                }
            },
            prediction: self.prediction.map(Predicted::prediction),
        };
        let files = PipelineFiles::open(&locate(name).or_advise()?, &taken).or_advise()?;
        for note in &files.notes {
            say!("{note}");
        }
        // A path of that name is not the published pipeline.
        let known = published(&name.to_string_lossy()).filter(|_| !name.exists());
        let draws = known.and_then(|known| known.draws);
        let draws = draws.unwrap_or(Draws::STABLE_DIFFUSION);
        let encoders = Encoders::open(named, &device).or_advise()?;
        let opened = Pipeline::of_files(files, &draws, &encoders, device);
        let (pipeline, settings) = opened.or_advise()?;
        Ok(Opened { pipeline, settings })
    }
}
