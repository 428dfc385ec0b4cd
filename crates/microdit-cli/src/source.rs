//! The network to draw with, of a run or of a file of weights.

use crate::{
    advice::OrAdvise,
    network::{Described, Told},
};
use microdit::{DitBackend, net::Network};
use microdit_encoders::hub::locate;
use microdit_train::{
    encoders::Encoders,
    recipe::{EncoderConfig, SamplingConfig},
    run::Choice,
    sampling::Pipeline,
};
use miette::miette;
use std::path::PathBuf;

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
    /// Loads the network and what it needs to draw.
    pub(crate) fn open<B: DitBackend>(&self, device: B::Device) -> miette::Result<Opened<B>> {
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
