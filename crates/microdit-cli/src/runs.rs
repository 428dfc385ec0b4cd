//! `microdit runs`: the runs in a directory.

use crate::{advice::OrAdvise, say};
use microdit_eval::Table;
use microdit_train::run::{RunDir, last_metrics};
use miette::{IntoDiagnostic, WrapErr, miette};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What makes the first run.
const FIRST: &str = "microdit train quickstart --run runs/quickstart";

/// List runs: state, step, loss, time, cost and newest pictures.
#[derive(clap::Args)]
pub(crate) struct RunsCommand {
    /// Directory of run directories
    #[arg(default_value = "runs")]
    folder: PathBuf,
}

impl RunsCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        if !self.folder.exists() {
            return Err(miette!(
                help = format!("name the directory of your runs, or begin one: {FIRST}"),
                "there is no directory {}",
                self.folder.display()
            ));
        }
        let unreadable = || format!("{} cannot be read", self.folder.display());
        let entries = fs::read_dir(&self.folder);
        let entries = entries.into_diagnostic().wrap_err_with(unreadable)?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.into_diagnostic().wrap_err_with(unreadable)?.path();
            if path.join("recipe.ron").is_file() {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            say!("no runs in {}; begin one: {FIRST}", self.folder.display());
            return Ok(());
        }
        paths.sort();
        let header = [
            "run", "state", "step", "loss", "hours", "dollars", "pictures",
        ];
        let mut table = Table::new(header.map(str::to_owned).into());
        for path in paths {
            table.push(row(&path)?);
        }
        say!("{}", table.to_string().trim_end());
        Ok(())
    }
}

/// The cells of a run.
fn row(path: &Path) -> miette::Result<Vec<String>> {
    let run = RunDir::follow(path);
    let name = path.file_name().unwrap_or_default();
    let finished = run.finished_after();
    let state = match (run.is_busy().or_advise()?, finished) {
        (true, _) => "training",
        (false, Some(_)) => "finished",
        (false, None) => "stopped",
    };
    let last = last_metrics(path).or_advise()?;
    let number = |key: &str, digits: usize| {
        let value = last.as_ref().and_then(|last| last.get(key)?.as_f64());
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let step = finished.map_or_else(|| number("step", 0), |step| step.to_string());
    let cells = [
        name.to_string_lossy().into_owned(),
        state.to_owned(),
        step,
        number("loss", 4),
        number("hours", 2),
        number("usd", 2),
        newest_pictures(path).unwrap_or_else(|| "-".to_owned()),
    ];
    Ok(cells.into())
}

/// The grid that was drawn last.
fn newest_pictures(path: &Path) -> Option<String> {
    let entries = fs::read_dir(path).ok()?.flatten();
    let grids = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_grid = name.starts_with("samples") && name.ends_with(".png");
        is_grid.then_some((entry.metadata().ok()?.modified().ok()?, entry.path()))
    });
    let (_, newest) = grids.max()?;
    Some(newest.display().to_string())
}
