//! `microdit convert`: checkpoints and weights of the reference, imported or written in another form.

use crate::{
    advice::OrAdvise,
    device::{Device, on_device},
    output,
    recipe::recipe_path,
    say,
};
use burn::tensor::DType;
use burn_autodiff::Autodiff;
use clap::ValueEnum;
use microdit::{
    DitBackend,
    weights::{StateDict, TrainerCheckpoint, WeightsFile},
};
use microdit_train::{Recipe, recipe::Stage, run::RunDir, stage_start::take_over};
use miette::WrapErr;
use std::path::{Path, PathBuf};

/// Import a checkpoint of the reference's trainer as a run, or write weights in another form.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("goal").required(true))]
pub(crate) struct Convert {
    /// Checkpoint of the trainer (.pt), or a file of weights (.pt, .safetensors)
    checkpoint: PathBuf,
    /// Run directory to create; `microdit train RECIPE --run DIR --resume` continues it
    #[arg(long, group = "goal", requires = "recipe")]
    run: Option<PathBuf>,
    /// Recipe of that run: a file, or the name of a bundled one
    #[arg(long, value_parser = recipe_path)]
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
    /// File of weights to write (.safetensors, which PyTorch loads)
    #[arg(long, group = "goal")]
    out: Option<PathBuf>,
    /// Type of the numbers in that file
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
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
    pub(crate) fn run(self) -> miette::Result<()> {
        if let Some(out) = &self.out {
            output::file(out)?;
            let file = WeightsFile::open_at(&self.checkpoint, self.key.as_deref());
            let file = file.or_advise()?;
            for note in file.notes() {
                say!("{note}");
            }
            let description = file.description().or_advise()?;
            let weights = StateDict::take(file, &self.checkpoint).or_advise()?;
            // A checkpoint of our own names parameters by their paths in the task.
            let weights = match weights.is_of_task() {
                true => weights.into_reference(),
                false => weights,
            };
            if !self.allow_non_finite {
                weights
                    .check_finite()
                    .or_advise()
                    .wrap_err("not converted; --allow-non-finite writes such values as they are")?;
            }
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
