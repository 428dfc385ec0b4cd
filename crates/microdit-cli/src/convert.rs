//! `microdit convert`: checkpoints and weights of the reference, imported or written in another form.

use crate::{
    advice::OrAdvise,
    device::{Device, on_device},
    output,
    recipe::recipe_path,
    say,
    source::Predicted,
};
use burn::tensor::DType;
use burn_autodiff::Autodiff;
use clap::ValueEnum;
use microdit::{
    DitBackend,
    weights::{LdmNames, StateDict, TrainerCheckpoint, WeightSet, WeightsFile},
};
use microdit_encoders::{
    hub::locate,
    pipeline_files::{Layout, PipelineFiles, Taken},
};
use microdit_train::{
    Recipe, recipe::Stage, run::RunDir, sampling::unet_of_files, stage_start::take_over,
};
use miette::{WrapErr, miette};
use std::path::{Path, PathBuf};

/// Import a checkpoint of the reference's trainer as a run, or write weights in another form.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("goal").required(true))]
pub(crate) struct Convert {
    /// Checkpoint of the trainer (.pt), a file of weights (.pt, .ckpt, .safetensors), or with --to a pipeline
    checkpoint: PathBuf,
    /// Run directory to create; `microdit train RECIPE --run DIR --resume` continues it
    #[arg(long, group = "goal", requires = "recipe")]
    run: Option<PathBuf>,
    /// Recipe of that run: a file, or the name of a bundled one
    #[arg(long, value_parser = recipe_path())]
    recipe: Option<PathBuf>,
    /// Replace a value of the recipe; may be given several times
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Which of several state dicts in the checkpoint: the keys that lead to it, joined by dots
    #[arg(long, requires = "out")]
    key: Option<String>,
    /// Write values that are NaN or infinite as they are
    #[arg(long, requires = "out")]
    allow_non_finite: bool,
    /// File of weights to write (.safetensors, which PyTorch loads), or with --to diffusers a directory to create
    #[arg(long, group = "goal")]
    out: Option<PathBuf>,
    /// Type of the numbers in that file
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Layout to write a pipeline of the Stable Diffusion family in. The checkpoint is then a directory as diffusers writes it, a single
    /// file in the names of latent diffusion, or a name such as sd-1.5
    #[arg(long, value_enum, requires = "out")]
    to: Option<To>,
    /// Of a single file of latent diffusion with two sets of weights, write the average alone, under the network's own name (called
    /// pruned and EMA-only)
    #[arg(long, requires = "out")]
    ema_only: bool,
    /// What the network predicts: single files of version 2 do not say it
    #[arg(long, value_enum, requires = "to")]
    prediction: Option<Predicted>,
}

/// Layouts of a pipeline.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// A directory, which --out names, as diffusers writes it
    Diffusers,
    /// One .safetensors file of all networks, in the names of latent diffusion
    Ldm,
    /// The U-Net's weights in one .safetensors file that describes itself; it names the pipeline as that of its encoders
    Microdit,
}

/// The types weights are written in.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub(crate) fn of_tensors(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl Convert {
    pub(crate) fn run(mut self) -> miette::Result<()> {
        if let Some(to) = self.to {
            let out = self.out.take().unwrap_or_default();
            return self.pipeline(to, &out);
        }
        if let Some(out) = &self.out {
            output::file(out)?;
            let file = WeightsFile::open_at(&self.checkpoint, self.key.as_deref());
            let file = file.or_advise()?;
            for note in file.notes() {
                say!("{note}");
            }
            let description = file.description().or_advise()?;
            let weights = match self.ema_only {
                true => pruned(file)?,
                false => StateDict::take(file, &self.checkpoint).or_advise()?,
            };
            // A checkpoint of our own names parameters by their paths in the task.
            let weights = match weights.is_of_task() {
                true => weights.into_reference(),
                false => weights,
            };
            self.check(&weights)?;
            let written =
                weights.write_safetensors(out, self.dtype.of_tensors(), description.as_ref());
            written.or_advise()?;
            let tensors = weights.len() + weights.buffers();
            say!("{tensors} tensors: {}", out.display());
        }
        match (&self.run, &self.recipe) {
            (Some(run), Some(recipe)) => {
                let recipe = Recipe::load(recipe, &self.overrides).or_advise()?;
                on_device!(Device::Cpu, Inner => self.take_over::<Inner>(&recipe, run))
            }
            _ => Ok(()),
        }
    }

    /// Writes a pipeline in another layout.
    fn pipeline(&self, to: To, out: &Path) -> miette::Result<()> {
        match to {
            To::Diffusers if out.exists() => {
                return Err(miette!(
                    "{} is there already; give a directory to create",
                    out.display()
                ));
            }
            To::Diffusers => output::folder(out)?,
            To::Ldm | To::Microdit => output::file(out)?,
        }
        let taken = Taken {
            set: match self.ema_only {
                true => WeightSet::Average,
                false => WeightSet::Own,
            },
            prediction: self.prediction.map(Predicted::prediction),
        };
        let path = locate(&self.checkpoint).or_advise()?;
        let files = PipelineFiles::open(&path, &taken).or_advise()?;
        for note in &files.notes {
            say!("{note}");
        }
        let dtype = self.dtype.of_tensors();
        let layout = match to {
            To::Diffusers => Layout::Diffusers,
            To::Ldm => Layout::Ldm,
            To::Microdit => {
                let (weights, description) = unet_of_files(files, &self.checkpoint).or_advise()?;
                self.check(&weights)?;
                weights
                    .write_safetensors(out, dtype, Some(&description))
                    .or_advise()?;
                say!("{} tensors: {}", weights.len(), out.display());
                return Ok(());
            }
        };
        files
            .write(layout, out, dtype, self.allow_non_finite)
            .or_advise()?;
        say!("{}", out.display());
        Ok(())
    }

    /// Refuses weights that are not finite, unless they are allowed.
    fn check(&self, weights: &StateDict) -> miette::Result<()> {
        match self.allow_non_finite {
            true => Ok(()),
            false => weights
                .check_finite()
                .or_advise()
                .wrap_err("not converted; --allow-non-finite writes such values as they are"),
        }
    }

    fn take_over<B: DitBackend>(&self, recipe: &Recipe, run: &Path) -> miette::Result<()> {
        let checkpoint = TrainerCheckpoint::read(&self.checkpoint).or_advise()?;
        if !checkpoint.unread.is_empty() {
            say!("left unread: {}", checkpoint.unread.join(", "));
        }
        let state = take_over(
            recipe,
            checkpoint,
            &Stage::task::<Autodiff<B>>,
            &Default::default(),
        );
        let state = state.or_advise()?;
        let progress = state.progress.clone();
        let run = RunDir::enter(run, false).or_advise()?;
        run.begin(recipe).or_advise()?;
        let kept = &recipe.run.checkpoints;
        let saved = state.save(&run.checkpoints(), kept, None);
        saved.or_advise()?;
        say!(
            "{} batches, {} samples, {} optimizer steps: {} continues in stage {} with --resume",
            progress.step,
            progress.images,
            progress.optimizer_steps,
            run.path().display(),
            recipe.stages[progress.stage].name
        );
        Ok(())
    }
}

/// A file of latent diffusion with the average of its network alone, whole numbers as they are.
fn pruned(file: WeightsFile) -> miette::Result<StateDict> {
    let path = file.origin().to_owned();
    let names = LdmNames::of(&file).ok_or_else(|| {
        miette!(
            "{}: --ema-only is for files in the names of latent diffusion (model.diffusion_model.*, model_ema.*), and this is none",
            path.display()
        )
    })?;
    let whole = file.whole_numbers();
    let file = names.pruned(file, WeightSet::Average).or_advise()?;
    say!("left out: the network's weights as trained");
    let weights = StateDict::take(file, &path).or_advise()?;
    Ok(weights.with_types(whole))
}
