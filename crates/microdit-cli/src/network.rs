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
    #[arg(long, value_enum, conflicts_with_all = ["run", "pipeline"])]
    model: Option<Preset>,
    /// Diffusion that --weights were trained with, as in a recipe, such as "Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)";
    /// needed only if the file does not describe itself
    #[arg(long, value_name = "DIFFUSION", conflicts_with_all = ["run", "pipeline"], value_parser = diffusion)]
    diffusion: Option<DiffusionConfig>,
    /// Image side of --weights in pixels [default: the file's, or 512]
    #[arg(long, conflicts_with_all = ["run", "pipeline"], value_parser = whole(1..=65_536))]
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

    /// Whether `network` is this architecture, for whatever latents.
    fn is(self, network: &NetworkConfig) -> bool {
        let [channels, ..] = network.latent();
        let own = self.config().with_in_channels(channels);
        NetworkConfig::Dit(own).takes_weights_of(network)
    }
}

/// A file of weights, and what it says about itself.
pub(crate) struct Described<'a> {
    path: &'a Path,
    description: Option<Description>,
    network: Network,
    diffusion: DiffusionConfig,
}

/// What is known about a network's sizes.
enum Network {
    /// What the file says.
    Own(Box<NetworkConfig>),
    /// The architecture the command line names.
    Preset(Preset),
}

impl<'a> Described<'a> {
    /// Reads what the file at `path` says; the command line says what it does not, and does not contradict it.
    pub(crate) fn read(path: &'a Path, told: &Told) -> miette::Result<Self> {
        let file = WeightsFile::open(path).or_advise()?;
        let description = file.description().or_advise()?;
        let own = description.as_ref();
        let network = match own.and_then(|own| own.network.clone()) {
            Some(network) => Some(Network::Own(network.into())),
            None => told.model.map(Network::Preset),
        };
        let diffusion = own.map(|own| own.diffusion).or(told.diffusion);
        let (no_network, no_diffusion) = (network.is_none(), diffusion.is_none());
        let (Some(network), Some(diffusion)) = (network, diffusion) else {
            return Err(incomplete(path, no_network, no_diffusion));
        };
        if let Some(told) = told.diffusion.filter(|told| *told != diffusion) {
            return Err(miette!(
                "--diffusion is {told:?}, and {} was trained with {diffusion:?}; leave out --diffusion",
                path.display()
            ));
        }
        Ok(Self {
            path,
            description,
            network,
            diffusion,
        })
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

    /// What its network needs to draw.
    pub(crate) fn surroundings<B: DitBackend>(
        &self,
        told: &Told,
        encoders: &Encoders<B>,
    ) -> miette::Result<Surroundings> {
        let (latents, captions) = match &self.description {
            Some(own) => (own.latents.clone(), own.captions.clone()),
            None => (
                LatentSource::Encoded { vae: None },
                CaptionSource::Encoded {
                    tokens: encoders.text().or_advise()?.tokens(),
                    text_encoder: None,
                    trimmed: false,
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
        let model = match &self.network {
            Network::Own(network) => {
                self.agrees(told, network, shrink)?;
                (**network).clone()
            }
            Network::Preset(preset) => {
                let size = told.size.unwrap_or(SIDE);
                NetworkConfig::Dit(preset_for(*preset, size, shrink, channels)?)
            }
        };
        Ok(Surroundings {
            model,
            diffusion: self.diffusion,
            latents,
            captions,
            one_step: self.description.as_ref().and_then(|own| own.one_step),
        })
    }

    /// Checks that the command line does not contradict the file's own network.
    fn agrees(&self, told: &Told, network: &NetworkConfig, shrink: usize) -> miette::Result<()> {
        let path = self.path.display();
        if let Some(preset) = told.model.filter(|preset| !preset.is(network)) {
            return Err(miette!(
                "--model is {}, and {path} says that its network is another one, of {} parameters; leave out --model",
                preset.name(),
                network.parameters()
            ));
        }
        let [_, side, _] = network.latent();
        let side = side.saturating_mul(shrink);
        match told.size.filter(|&size| size != side) {
            Some(size) => Err(miette!(
                "--size is {size}, and {path} says that its pictures have {side} pixels; leave out --size, or draw others with \
                 --width and --height"
            )),
            None => Ok(()),
        }
    }
}

/// What neither the file at `path` nor the command line says.
fn incomplete(path: &Path, network: bool, diffusion: bool) -> miette::Report {
    let parts = [
        (
            network,
            "its network",
            "--model xl-2 or --model tiny-2".to_owned(),
        ),
        (
            diffusion,
            "the diffusion it was trained with",
            format!("--diffusion {EXAMPLE}"),
        ),
    ];
    let missing = parts.into_iter().filter(|(missing, ..)| *missing);
    let (what, flags): (Vec<&str>, Vec<String>) =
        missing.map(|(_, what, flag)| (what, flag)).unzip();
    miette!(
        "{} does not describe {}; add {}",
        path.display(),
        what.join(" and "),
        flags.join(" and ")
    )
}

/// The network for images of `size` x `size` pixels and latents of `channels` channels.
fn preset_for(
    preset: Preset,
    size: usize,
    shrink: usize,
    channels: usize,
) -> miette::Result<DitConfig> {
    if !size.is_multiple_of(shrink) {
        return Err(miette!(
            "--size {size} is not a multiple of the VAE's {shrink}"
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
