//! `microdit report`: a page about runs or a sweep.

mod live;

pub(crate) use live::{LastReport, LiveReport, REPORT};

use crate::{advice::OrAdvise, output, say};
use microdit::atomic_file;
use microdit_eval::report::{
    Figure, RecipeFacts, ReportError, Run, SweepResults, run_figures, runs_page, sweep_figures,
    sweep_page, tell_apart,
};
use microdit_eval::sweep::Folder;
use microdit_train::{Recipe, plan::flop_per_image};
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Runs of a sweep that are shown side by side: as many as curves have colors.
const MOST_RUNS: usize = 10;

/// Write a page about runs or a sweep: one file, to be opened in a browser, that loads nothing.
#[derive(clap::Args)]
pub(crate) struct ReportCommand {
    /// Run directories, or the directory of one sweep
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Page to write
    #[arg(long, default_value = REPORT)]
    out: PathBuf,
    /// Directory for the figures, each as SVG and PNG
    #[arg(long)]
    plots: Option<PathBuf>,
}

impl ReportCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        output::file(&self.out)?;
        if let Some(folder) = &self.plots {
            output::folder(folder)?;
        }
        let (page, figures) = match &self.paths[..] {
            [folder] if SweepResults::is_at(folder) => {
                let sweep = SweepResults::read(folder).or_advise()?;
                let first = first_runs(folder, &sweep);
                (sweep_page(&sweep, &first), sweep_figures(&sweep))
            }
            folders => {
                if let Some(sweep) = folders.iter().find(|folder| SweepResults::is_at(folder)) {
                    return Err(miette!(
                        help = "give a sweep alone, or the run directories in it",
                        "{} is a sweep, which has a page of its own",
                        sweep.display()
                    ));
                }
                let mut runs = folders
                    .iter()
                    .map(|folder| read(folder))
                    .collect::<Result<Vec<Run>, _>>()
                    .or_advise()?;
                tell_apart(&mut runs);
                (runs_page(&runs, false), run_figures(&runs))
            }
        };
        write(&self.out, &page).or_advise()?;
        say!("{}", self.out.display());
        if let Some(folder) = &self.plots {
            plot(folder, &figures)?;
            say!(
                "{} figures, each as SVG and PNG: {}",
                figures.len(),
                folder.display()
            );
        }
        Ok(())
    }
}

/// The runs of a sweep that are shown side by side: of each of its first points the first seed's, where its directory is there.
fn first_runs(folder: &Path, sweep: &SweepResults) -> Vec<Run> {
    let runs = sweep.first_runs(MOST_RUNS).filter_map(|(label, run)| {
        // It is the name of a directory here, and no path.
        let is_name = run.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let place = Folder::run_in(folder, &run.id);
        if !is_name || !Run::is_at(&place) {
            return None;
        }
        match read(&place) {
            Ok(mut run) => {
                run.label = label.to_owned();
                run.keep_newest_grid();
                Some(run)
            }
            Err(error) => {
                tracing::warn!("the page does without a run: {error}");
                None
            }
        }
    });
    runs.collect()
}

/// The run in `folder`, with what its recipe says if that can be read.
fn read(folder: &Path) -> Result<Run, ReportError> {
    let mut run = Run::open(folder)?;
    run.read()?;
    let path = folder.join("recipe.ron");
    if path.is_file() {
        match Recipe::load(&path, &[]) {
            Ok(recipe) => run.recipe = Some(facts(&recipe)),
            Err(error) => tracing::warn!("the page does without the values of a recipe: {error}"),
        }
    }
    Ok(run)
}

/// What a report needs of a recipe.
pub(crate) fn facts(recipe: &Recipe) -> RecipeFacts {
    let stages = recipe.stages.iter();
    RecipeFacts {
        name: recipe.run.name.clone(),
        steps: recipe.steps(),
        values: recipe.values(),
        flop_per_image: stages
            .map(|stage| (stage.name.clone(), flop_per_image(stage)))
            .collect(),
        held_out: held_out(recipe),
        prompts: recipe.run.sampling.prompts.clone(),
    }
}

/// What the meaning of its held-out losses depends on, with the name of the held-out shards: they may lie elsewhere by now.
fn held_out(recipe: &Recipe) -> Option<BTreeMap<String, String>> {
    let mut conditions = recipe.held_out_conditions()?;
    let shards = recipe
        .run
        .evaluation
        .iter()
        .find_map(|config| config.shards.as_ref());
    if let Some(name) = shards.and_then(|shards| Path::new(shards).file_name()) {
        let name = name.to_string_lossy().into_owned();
        conditions.insert("evaluation.shards".into(), name);
    }
    Some(conditions)
}

/// Writes a page whole or not at all.
fn write(path: &Path, page: &str) -> io::Result<()> {
    atomic_file::write(path, |path| fs::write(path, page))
}

/// Writes figures into `folder`, which is created.
fn plot(folder: &Path, figures: &[Figure]) -> miette::Result<()> {
    let written = |path: &Path, bytes: &[u8]| {
        atomic_file::write(path, |path| fs::write(path, bytes))
            .into_diagnostic()
            .wrap_err_with(|| format!("{} could not be written", path.display()))
    };
    fs::create_dir_all(folder)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} could not be created", folder.display()))?;
    for figure in figures {
        let path = folder.join(&figure.name);
        written(&with_extension(&path, "svg"), figure.to_svg().as_bytes())?;
        written(&with_extension(&path, "png"), &figure.to_png().or_advise()?)?;
    }
    Ok(())
}

/// `PATH.EXTENSION`: what follows a dot in a figure's name is no extension.
fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}
