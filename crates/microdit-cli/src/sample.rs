//! `microdit sample`: prompts into pictures.

use crate::{
    device::{Device, on_device},
    number::{real, whole},
    say,
};
use clap::ValueEnum;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use microdit::{DitBackend, DitConfig, diffusion::edm::Edm};
use microdit_encoders::{grid, hub::locate, save_png};
use microdit_train::{
    encoders::Encoders,
    recipe::{EncoderConfig, SamplingConfig},
    sampling::Painter,
};
use miette::{IntoDiagnostic, WrapErr};
use std::path::{Path, PathBuf};

/// Draw prompts with the weights of a run, or with published ones.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("network").required(true).args(["run", "weights"])))]
pub(crate) struct Sample {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    run: Option<PathBuf>,
    /// Weights of the network, .safetensors or .pt, or a name such as microdit-xl2
    #[arg(long, requires_all = ["vae", "text_encoder"])]
    weights: Option<PathBuf>,
    /// Architecture of --weights
    #[arg(long, value_enum, default_value = "xl-2", conflicts_with = "run")]
    model: Preset,
    /// Side of the pictures of --weights in pixels
    #[arg(long, default_value_t = 512, conflicts_with = "run", value_parser = whole(1..=65_536))]
    size: usize,
    /// Directory of the VAE, as diffusers saves it, or a name such as sdxl-vae [default: the recipe's]
    #[arg(long)]
    vae: Option<PathBuf>,
    /// Directory of the text encoder, as open_clip or transformers save it, or a name such as dfn-clip-h14 [default: the recipe's]
    #[arg(long)]
    text_encoder: Option<PathBuf>,
    /// What to draw; may be given several times [default: the recipe's prompts]
    #[arg(long)]
    prompt: Vec<String>,
    /// File of prompts, one a line
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Pictures per prompt [default: the recipe's, or 1]
    #[arg(long, value_parser = whole(SamplingConfig::COUNTS))]
    count: Option<usize>,
    /// Steps of the solver [default: the recipe's, or 30]
    #[arg(long, value_parser = whole(SamplingConfig::STEPS))]
    steps: Option<usize>,
    /// Classifier-free guidance scale; 1 is none [default: the recipe's, or 5]
    #[arg(long, value_parser = real(SamplingConfig::GUIDANCE))]
    guidance: Option<f64>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Picture to write, of all pictures; prompts are rows
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Directory to write the pictures to one by one as well
    #[arg(long)]
    singles: Option<PathBuf>,
    /// Kind of device to draw on; an NVIDIA GPU where this build and machine have one, unless given
    #[arg(long, value_enum, default_value_t = Device::best())]
    device: Device,
}

/// A published architecture.
#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    #[value(name = "xl-2")]
    Xl2,
    #[value(name = "tiny-2")]
    Tiny2,
}

/// Side of the pictures the positions of the presets are meant for.
const PRESET_SIDE: usize = 256;

impl Preset {
    /// The network for latents of `side` by `side` and pictures of `size` pixels.
    fn config(self, size: usize, side: usize, channels: usize) -> DitConfig {
        let config = match self {
            Self::Xl2 => DitConfig::xl_2(),
            Self::Tiny2 => DitConfig::tiny_2(),
        };
        config
            .with_input_size(side)
            .with_in_channels(channels)
            .with_pos_interp_scale(size as f64 / PRESET_SIDE as f64)
    }
}

impl Sample {
    pub(crate) fn run(self) -> miette::Result<()> {
        on_device!(self.device, Inner => self.run_on::<Inner>(Default::default()))
    }

    fn run_on<B: DitBackend>(self, device: B::Device) -> miette::Result<()> {
        let named = EncoderConfig {
            vae: self.vae.clone(),
            text: self.text_encoder.clone(),
        };
        let encoders = Encoders::open(&named, &device).into_diagnostic()?;
        let (painter, mut settings) = match (&self.run, &self.weights) {
            (Some(run), _) => {
                let (painter, recipe) =
                    Painter::<B>::load(run, encoders, device).into_diagnostic()?;
                (painter, recipe.run.sampling)
            }
            (None, Some(weights)) => {
                let weights = locate(weights).into_diagnostic()?;
                let painter = self.painter(&weights, &encoders, device)?;
                (painter, SamplingConfig::default())
            }
            (None, None) => unreachable!("clap requires one of them"),
        };
        if let Some(file) = &self.prompts {
            let text = std::fs::read_to_string(file)
                .into_diagnostic()
                .wrap_err_with(|| format!("{} could not be read", file.display()))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            settings.prompts = lines.map(str::to_owned).collect();
        }
        if !self.prompt.is_empty() {
            settings.prompts = self.prompt;
        }
        settings.count = self.count.unwrap_or(settings.count);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.guidance = self.guidance.unwrap_or(settings.guidance);
        settings.validate().into_diagnostic()?;
        if settings.prompts.is_empty() {
            return Err(miette::miette!(
                "nothing to draw; add --prompt \"...\" or --prompts FILE"
            ));
        }
        let images = draw(&painter, &settings, self.seed);
        save(&images, &settings, self.seed, &self.out)?;
        if let Some(folder) = &self.singles {
            save_singles(&images, &settings, self.seed, folder)?;
        }
        Ok(())
    }

    fn painter<B: DitBackend>(
        &self,
        weights: &Path,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> miette::Result<Painter<B>> {
        let vae = encoders.vae().into_diagnostic()?;
        let shrink = vae.shrinks_by();
        if self.size == 0 || !self.size.is_multiple_of(shrink) {
            return Err(miette::miette!(
                "--size {} is no multiple of the VAE's {shrink}",
                self.size
            ));
        }
        let model = self
            .model
            .config(self.size, self.size / shrink, vae.latent_channels());
        Painter::of_weights(weights, model, Edm::default(), encoders, device).into_diagnostic()
    }
}

/// Draws all prompts behind a progress bar.
pub(crate) fn draw<B: DitBackend>(
    painter: &Painter<B>,
    settings: &SamplingConfig,
    seed: u64,
) -> Vec<RgbImage> {
    let steps = Painter::<B>::batches(settings) * settings.steps;
    let style = ProgressStyle::with_template("drawing {bar:30} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps as u64).with_style(style);
    let images = painter.draw(settings, seed, || bar.inc(1));
    bar.finish_and_clear();
    images
}

/// Writes all pictures as one, a row per prompt.
pub(crate) fn save(
    images: &[RgbImage],
    settings: &SamplingConfig,
    seed: u64,
    path: &Path,
) -> miette::Result<()> {
    let page = grid(images, settings.count);
    write(&page, path, &settings.prompts.join("\n"), seed, settings)?;
    let count = images.len();
    say!("{count} pictures, one row per prompt: {}", path.display());
    Ok(())
}

fn save_singles(
    images: &[RgbImage],
    settings: &SamplingConfig,
    seed: u64,
    folder: &Path,
) -> miette::Result<()> {
    std::fs::create_dir_all(folder)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} could not be created", folder.display()))?;
    for (i, image) in images.iter().enumerate() {
        let prompt = &settings.prompts[i / settings.count];
        write(
            image,
            &folder.join(format!("{i:05}.png")),
            prompt,
            seed,
            settings,
        )?;
    }
    say!("and one by one: {}", folder.display());
    Ok(())
}

/// Writes a picture with what it takes to draw it again.
fn write(
    image: &RgbImage,
    path: &Path,
    prompt: &str,
    seed: u64,
    settings: &SamplingConfig,
) -> miette::Result<()> {
    let labels = [
        ("prompt", prompt.to_owned()),
        ("seed", seed.to_string()),
        ("steps", settings.steps.to_string()),
        ("guidance", settings.guidance.to_string()),
    ];
    save_png(image, path, &labels)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} could not be written", path.display()))
}
