//! The network to draw with, of a run or of a file of weights.

use crate::{
    advice::OrAdvise,
    network::{Described, Told},
};
use microdit::{DitBackend, net::Network, range::within};
use microdit_encoders::hub::locate;
use microdit_train::{
    encoders::Encoders,
    recipe::{EncoderConfig, SamplingConfig},
    run::Choice,
    sampling::Pipeline,
};
use miette::miette;
use std::{ops::RangeInclusive, path::PathBuf};

/// Flags that say which network draws. A command that has them groups `run` and `weights`, of which one is needed.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    pub(crate) run: Option<PathBuf>,
    /// Weights of the network, .safetensors or .pt, or a name such as microdit-xl2
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Which weights of --run: `none` for those as trained, or the number of an average, counted from 1 as the recipe lists them
    /// under `ema` [default: the first average, or as trained if there is none]
    #[arg(long, value_name = "NUMBER", conflicts_with = "weights", value_parser = choice)]
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
        match (&self.run, &self.weights) {
            (Some(run), _) => {
                let encoders = Encoders::open(&named, &device).or_advise()?;
                let (pipeline, recipe) =
                    Pipeline::<B, _>::load(run, self.ema.unwrap_or_default(), encoders, device)
                        .or_advise()?;
                Ok(Opened {
                    pipeline,
                    settings: recipe.run.sampling,
                })
            }
            (None, Some(weights)) => {
                let weights = locate(weights).or_advise()?;
                let described = Described::read(&weights, &self.told)?;
                let encoders = Encoders::open(&described.encoders(named), &device).or_advise()?;
                let surroundings = described.surroundings(&self.told, &encoders)?;
                let pipeline = Pipeline::of_weights(&weights, surroundings, &encoders, device);
                Ok(Opened {
                    pipeline: pipeline.or_advise()?,
                    settings: SamplingConfig::default(),
                })
            }
            (None, None) => Err(miette!("no network to draw with; add --run or --weights")),
        }
    }
}
