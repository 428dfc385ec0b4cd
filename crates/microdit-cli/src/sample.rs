//! `microdit sample`: prompts into pictures.

use crate::{
    advice::OrAdvise,
    bar::Bar,
    device::{Device, kind, on_device},
    number::{real, whole},
    output, say,
    signal::{Stopped, stop_soon_on_signal},
    source::{Opened, Source},
};
use microdit::{
    DitBackend,
    diffusion::Guidance,
    net::{Denoiser, Network},
};
use microdit_encoders::{PictureFormat, hub::locate};
use microdit_train::{
    recipe::SamplingConfig,
    sampling::{Drawing, Drawn, Naming, Order, Pipeline, STRENGTHS, read_prompts},
};
use miette::miette;
use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// Where all pictures go on one sheet, unless told otherwise.
const SHEET: &str = "samples.png";

/// Share of the steps that an image to begin with leaves to draw, unless told otherwise.
const STRENGTH: f64 = 0.6;

/// Draw prompts with the weights of a run, or with published ones.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("network").required(true).args(["run", "weights", "pipeline"])))]
pub(crate) struct Sample {
    #[command(flatten)]
    source: Source,
    /// What to draw; may be given several times [default: the recipe's prompts]
    #[arg(long, conflicts_with = "prompts")]
    prompt: Vec<String>,
    /// File of prompts, one per line, in UTF-8, or in UTF-16 with a byte-order mark; - is the standard input
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Pictures per prompt [default: the recipe's, or 1]
    #[arg(long, value_parser = whole(SamplingConfig::COUNTS))]
    count: Option<usize>,
    /// Steps of the solver [default: the recipe's, or 30]
    #[arg(long, value_parser = whole(SamplingConfig::STEPS))]
    steps: Option<usize>,
    /// Classifier-free guidance scale; 1 is none [default: the recipe's, or 5]
    #[arg(long, value_parser = real(Guidance::SCALES))]
    guidance: Option<f64>,
    /// What pictures are guided away from, in place of no prompt at all
    #[arg(long)]
    negative: Option<String>,
    /// Weights of a network of the same sizes to guide away from, in place of no prompt: one that was trained for less
    #[arg(long, conflicts_with = "negative")]
    guide: Option<PathBuf>,
    /// Replace a value of the recipe's `sampling`, such as solver=Ddim(eta:0.5), churn.s_churn=40 or rescale=0.7; may be given
    /// several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Width of the pictures in pixels [default: the network's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    width: Option<u32>,
    /// Height of the pictures in pixels [default: the network's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    height: Option<u32>,
    /// Image to begin with, resized to cover the pictures and cut off where its shape is another (image-to-image)
    #[arg(long, value_name = "IMAGE")]
    init: Option<PathBuf>,
    /// Picture that is white where --init is redrawn; the rest is kept (inpainting)
    #[arg(long, requires = "init")]
    mask: Option<PathBuf>,
    /// Share of the steps that --init leaves to draw: 0 leaves it as it is, 1 only its outlines, or with --mask nothing of what is
    /// redrawn [default: 0.6, or 1 with --mask]
    #[arg(long, requires = "init", value_parser = real(STRENGTHS))]
    strength: Option<f64>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Place of the first picture, the others follow; seed and place determine a picture's noise, and its label names both
    #[arg(long, default_value_t = 0)]
    place: u64,
    /// Contact sheet to write, one row per prompt: .png, which records how it was drawn, .jpg (quality 95) or .webp (lossless)
    /// [default: samples.png]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Directory to write the pictures to one by one as well, as they are drawn; those that are there are not drawn again
    #[arg(long)]
    singles: Option<PathBuf>,
    /// Replace pictures in --singles that were drawn differently
    #[arg(long, requires = "singles")]
    overwrite: bool,
    /// Kind of device to draw on; an NVIDIA GPU where this build and machine have one, unless given
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
}

impl Sample {
    pub(crate) fn run(self) -> miette::Result<()> {
        on_device!(self.device, Inner => self.run_on::<Inner>(Default::default()))
    }

    fn run_on<B: DitBackend>(self, device: B::Device) -> miette::Result<()> {
        output::picture(self.out.as_deref().unwrap_or(Path::new(SHEET)))?;
        if let Some(singles) = &self.singles {
            output::folder(singles)?;
        }
        let prompts = match &self.prompts {
            Some(file) => read_prompts(file).or_advise()?,
            None => self.prompt.clone(),
        };
        let Opened {
            pipeline,
            mut settings,
            ..
        } = self.source.open::<B>(device)?;
        let pipeline = self.directed(pipeline)?;
        settings = settings.with(&self.overrides).or_advise()?;
        if !prompts.is_empty() {
            settings.prompts = prompts;
        }
        settings.negative = self.negative.clone().or(settings.negative);
        settings.count = self.count.unwrap_or(settings.count);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.guidance = self.guidance.unwrap_or(settings.guidance);
        settings.validate().or_advise()?;
        if settings.prompts.is_empty() {
            return Err(miette!(
                "nothing to draw; add --prompt \"...\" or --prompts FILE"
            ));
        }
        let mut order = Order {
            settings: &settings,
            seed: self.seed,
            place: self.place,
            sheet: self.out.as_deref(),
            singles: self.singles.as_deref(),
            naming: Naming::Place,
            overwrite: self.overwrite,
        };
        if order.sheet.is_none() {
            let sheet = Path::new(SHEET);
            match order.sheet_fits(pipeline.size(), sheet) {
                Err(reason) if order.singles.is_some() => say!("no sheet: {reason}"),
                fits => {
                    fits.or_advise()?;
                    order.sheet = Some(sheet);
                }
            }
        }
        pipeline.warn_of_cuts(&settings.prompts);
        let stop = stop_soon_on_signal(match order.singles {
            Some(_) => "stopping; what is drawn is kept",
            None => "stopping; nothing is kept without --singles",
        })?;
        let drawing = Drawing::new(&pipeline, order).or_advise()?;
        let started = Instant::now();
        let drawn = draw(&drawing, &stop)?;
        describe(&order, &drawn, started.elapsed())
    }

    /// The pipeline with what the command line says about pictures besides how they are drawn.
    fn directed<B: DitBackend>(
        &self,
        mut pipeline: Pipeline<B, Network<B>>,
    ) -> miette::Result<Pipeline<B, Network<B>>> {
        if self.width.is_some() || self.height.is_some() {
            let [width, height] = pipeline.size();
            let size = [self.width.unwrap_or(width), self.height.unwrap_or(height)];
            pipeline = pipeline.with_size(size).or_advise()?;
        }
        if let Some(init) = &self.init {
            let usual = if self.mask.is_some() { 1.0 } else { STRENGTH };
            let strength = self.strength.unwrap_or(usual);
            pipeline = pipeline.with_init(init, strength).or_advise()?;
        }
        if let Some(mask) = &self.mask {
            pipeline = pipeline.with_mask(mask).or_advise()?;
        }
        if let Some(guide) = &self.guide {
            let guide = locate(guide).or_advise()?;
            pipeline = pipeline.guided_by(&guide).or_advise()?;
        }
        Ok(pipeline)
    }
}

/// Draws, and says how far it is.
pub(crate) fn draw<B: DitBackend, D: Denoiser<B>>(
    drawing: &Drawing<'_, B, D>,
    stop: &AtomicBool,
) -> miette::Result<Drawn> {
    let mut bar = Bar::new("drawing", "solver steps");
    let mut done = 0;
    let drawn = drawing.run(stop, || {
        done += 1;
        bar.show(done, drawing.steps());
    });
    drop(bar);
    drawn.or_advise()
}

/// Says what was drawn and where it is.
fn describe(order: &Order<'_>, drawn: &Drawn, took: Duration) -> miette::Result<()> {
    let Drawn {
        drawn,
        kept,
        stopped,
    } = drawn;
    if *stopped {
        let message = match order.singles {
            Some(singles) => format!(
                "stopped: {} pictures are in {}; run the same command again to resume",
                drawn + kept,
                singles.display()
            ),
            None => "stopped: nothing was written; with --singles DIR, pictures are kept as they \
                     are drawn and the same command resumes"
                .into(),
        };
        return Err(Stopped(message).into());
    }
    if let Some(sheet) = order.sheet {
        let count = drawn + kept;
        let pictures = match count {
            1 => "1 picture".to_owned(),
            count => format!("{count} pictures, one row per prompt"),
        };
        say!(
            "{pictures}: {}{}",
            sheet.display(),
            match PictureFormat::of(sheet) {
                Some(PictureFormat::Png) => "",
                _ => " (without a label of how they were drawn, which only .png holds)",
            }
        );
    }
    if *drawn > 0 {
        say!("{:.3} s a picture", took.as_secs_f64() / *drawn as f64);
    }
    if let Some(singles) = order.singles {
        say!(
            "and one by one: {} ({drawn} drawn, {kept} were there)",
            singles.display()
        );
    }
    Ok(())
}
