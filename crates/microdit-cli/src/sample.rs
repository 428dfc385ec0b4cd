//! `microdit sample`: prompts into a picture.

use crate::{
    device::{Device, on_device},
    say,
};
use indicatif::{ProgressBar, ProgressStyle};
use microdit::DitBackend;
use microdit_train::{
    recipe::SamplingConfig,
    sampling::{Painter, save_grid},
};
use miette::IntoDiagnostic;
use std::path::{Path, PathBuf};

/// Draw prompts with the weights of a run.
#[derive(clap::Args)]
pub(crate) struct Sample {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    run: PathBuf,
    /// What to draw; may be given several times [default: the recipe's prompts]
    #[arg(long)]
    prompt: Vec<String>,
    /// Pictures per prompt [default: the recipe's]
    #[arg(long)]
    count: Option<usize>,
    /// Steps of the solver [default: the recipe's]
    #[arg(long)]
    steps: Option<usize>,
    /// Classifier-free guidance scale; 1 is none [default: the recipe's]
    #[arg(long)]
    guidance: Option<f64>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Picture to write; prompts are rows
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Device to draw on
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
}

impl Sample {
    pub(crate) fn run(self) -> miette::Result<()> {
        on_device!(self.device, Inner => self.run_on::<Inner>(Default::default()))
    }

    fn run_on<B: DitBackend>(self, device: B::Device) -> miette::Result<()> {
        let (painter, recipe) = Painter::<B>::load(&self.run, device).into_diagnostic()?;
        let mut settings = recipe.run.sampling;
        if !self.prompt.is_empty() {
            settings.prompts = self.prompt;
        }
        settings.count = self.count.unwrap_or(settings.count);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.guidance = self.guidance.unwrap_or(settings.guidance);
        if settings.count == 0 || settings.steps == 0 {
            return Err(miette::miette!("--count and --steps must be at least 1"));
        }
        draw_grid(&painter, &settings, self.seed, &self.out)
    }
}

/// Draws and writes a grid with one row per prompt.
pub(crate) fn draw_grid<B: DitBackend>(
    painter: &Painter<B>,
    settings: &SamplingConfig,
    seed: u64,
    path: &Path,
) -> miette::Result<()> {
    let steps = Painter::<B>::batches(settings) * settings.steps;
    let style = ProgressStyle::with_template("drawing {bar:30} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps as u64).with_style(style);
    let images = painter
        .draw(settings, seed, || bar.inc(1))
        .into_diagnostic()?;
    bar.finish_and_clear();
    save_grid(&images, settings.count, path).into_diagnostic()?;
    say!(
        "{} pictures, one row per prompt: {}",
        images.len(),
        path.display()
    );
    Ok(())
}
