//! What network a file of weights holds: as the file says, or, where it says nothing, as the command line does.

use crate::{advice::OrAdvise, number::whole};
use clap::ValueEnum;
use microdit::{
    DitBackend, DitConfig,
    diffusion::DiffusionConfig,
    net::NetworkConfig,
    weights::{CaptionSource, Description, LatentSource, WeightsFile},
};
use microdit_train::{
    encoders::Encoders,
    recipe::{EncoderConfig, dialect},
    sampling::Surroundings,
};
use miette::miette;
use std::path::Path;

/// Image side in pixels that the positions of the presets are meant for.
const PRESET_SIDE: usize = 256;

/// Image side in pixels of a preset where --size is absent.
const SIDE: usize = 512;

/// How a diffusion is written, in messages.
const EXAMPLE: &str = "\"Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)\"";

/// Flags that describe --weights where the file does not.
#[derive(clap::Args)]
pub(crate) struct Told {
    /// Architecture of --weights; needed only if the file does not describe itself
    #[arg(long, value_enum, conflicts_with = "run")]
    model: Option<Preset>,
    /// Diffusion that --weights were trained with, as in a recipe, such as "Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)";
    /// needed only if the file does not describe itself
    #[arg(long, value_name = "DIFFUSION", conflicts_with = "run", value_parser = diffusion)]
    diffusion: Option<DiffusionConfig>,
    /// Image side of --weights in pixels [default: the file's, or 512]
    #[arg(long, conflicts_with = "run", value_parser = whole(1..=65_536))]
    size: Option<usize>,
}

/// A published architecture.
#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    #[value(name = "xl-2")]
    Xl2,
    #[value(name = "tiny-2")]
    Tiny2,
}

impl Preset {
    fn config(self) -> DitConfig {
        match self {
            Self::Xl2 => DitConfig::xl_2(),
            Self::Tiny2 => DitConfig::tiny_2(),
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether `config` is this architecture, for whatever latents.
    fn is(self, config: &DitConfig) -> bool {
        let same = self
            .config()
            .with_input_size(config.input_size)
            .with_in_channels(config.in_channels)
            .with_pos_interp_scale(config.pos_interp_scale)
            .with_precision(config.precision);
        same == *config
    }
}

/// A file of weights, and what it says of itself.
pub(crate) struct Described<'a> {
    path: &'a Path,
    description: Option<Description>,
}

impl<'a> Described<'a> {
    /// Reads what the file at `path` says, and checks that the command line says what it does not.
    pub(crate) fn read(path: &'a Path, told: &Told) -> miette::Result<Self> {
        let file = WeightsFile::open(path).or_advise()?;
        let described = Self {
            path,
            description: file.description().or_advise()?,
        };
        described.require(told)?;
        Ok(described)
    }

    fn network(&self) -> Option<&NetworkConfig> {
        self.description.as_ref()?.network.as_ref()
    }

    /// Encoders that the command line does not name, as the file names them.
    pub(crate) fn encoders(&self, named: EncoderConfig) -> EncoderConfig {
        let Some(description) = &self.description else {
            return named;
        };
        let vae = match &description.latents {
            LatentSource::Encoded { vae } => vae.as_ref(),
            LatentSource::Pixels { .. } => None,
        };
        let text = match &description.captions {
            CaptionSource::Encoded { text_encoder, .. } => text_encoder.as_ref(),
            CaptionSource::HashedWords { .. } => None,
        };
        EncoderConfig {
            vae: named.vae.or_else(|| vae.map(Into::into)),
            text: named.text.or_else(|| text.map(Into::into)),
        }
    }

    /// What its network draws by. The command line is asked only for what the file does not say, and does not contradict it.
    pub(crate) fn surroundings<B: DitBackend>(
        &self,
        told: &Told,
        encoders: &Encoders<B>,
    ) -> miette::Result<Surroundings> {
        let description = self.description.as_ref();
        let (latents, captions) = match description {
            Some(Description {
                latents, captions, ..
            }) => (latents.clone(), captions.clone()),
            None => (
                LatentSource::Encoded { vae: None },
                CaptionSource::Encoded {
                    tokens: encoders.text().or_advise()?.tokens(),
                    text_encoder: None,
                },
            ),
        };
        let (shrink, channels) = match latents {
            LatentSource::Pixels { .. } => (1, 3),
            LatentSource::Encoded { .. } => {
                let vae = encoders.vae().or_advise()?;
                (vae.shrinks_by(), vae.latent_channels())
            }
        };
        let model = match (self.network(), told.model) {
            (Some(NetworkConfig::Dit(config)), preset) => {
                self.agrees(told, config, preset, shrink)?;
                config.clone()
            }
            (None, Some(preset)) => {
                preset_for(preset, told.size.unwrap_or(SIDE), shrink, channels)?
            }
            (None, None) => unreachable!("reading the file requires it"),
        };
        let diffusion = match (
            description.map(|description| description.diffusion),
            told.diffusion,
        ) {
            (Some(own), Some(told)) if own != told => {
                return Err(miette!(
                    "--diffusion is {told:?}, and {} was trained with {own:?}; leave --diffusion away",
                    self.path.display()
                ));
            }
            (Some(diffusion), _) | (None, Some(diffusion)) => diffusion,
            (None, None) => unreachable!("reading the file requires it"),
        };
        Ok(Surroundings {
            model,
            diffusion,
            latents,
            captions,
        })
    }

    /// Checks that the command line says what the file does not.
    fn require(&self, told: &Told) -> miette::Result<()> {
        let mut missing = Vec::new();
        if self.network().is_none() && told.model.is_none() {
            missing.push(("its network", "--model xl-2 or --model tiny-2".to_owned()));
        }
        if self.description.is_none() && told.diffusion.is_none() {
            missing.push((
                "the diffusion it was trained with",
                format!("--diffusion {EXAMPLE}"),
            ));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let (what, flags): (Vec<&str>, Vec<String>) = missing.into_iter().unzip();
        Err(miette!(
            "{} does not say what is {}; add {}",
            self.path.display(),
            what.join(" and "),
            flags.join(" and ")
        ))
    }

    /// Checks that the command line does not contradict the file's own network.
    fn agrees(
        &self,
        told: &Told,
        config: &DitConfig,
        preset: Option<Preset>,
        shrink: usize,
    ) -> miette::Result<()> {
        let path = self.path.display();
        if let Some(preset) = preset.filter(|preset| !preset.is(config)) {
            let (dim, depth) = (config.dim, config.depth);
            return Err(miette!(
                "--model is {}, and {path} says that its network is another one (dim {dim}, depth {depth}); leave --model away",
                preset.name()
            ));
        }
        let side = config.input_size.saturating_mul(shrink);
        match told.size.filter(|&size| size != side) {
            Some(size) => Err(miette!(
                "--size is {size}, and {path} says that its pictures have {side} pixels; leave --size away, or draw others with \
                 --width and --height"
            )),
            None => Ok(()),
        }
    }
}

/// The network for images of `size` x `size` pixels and latents of so many channels.
fn preset_for(
    preset: Preset,
    size: usize,
    shrink: usize,
    channels: usize,
) -> miette::Result<DitConfig> {
    if !size.is_multiple_of(shrink) {
        return Err(miette!(
            "--size {size} is no multiple of the VAE's {shrink}"
        ));
    }
    Ok(preset
        .config()
        .with_input_size(size / shrink)
        .with_in_channels(channels)
        .with_pos_interp_scale(size as f64 / PRESET_SIDE as f64))
}

fn diffusion(text: &str) -> Result<DiffusionConfig, String> {
    let diffusion: DiffusionConfig = dialect()
        .from_str(text)
        .map_err(|error| format!("{error}; it is written as in a recipe, such as {EXAMPLE}"))?;
    match diffusion.validate() {
        Ok(()) => Ok(diffusion),
        Err(error) => Err(error.to_string()),
    }
}
