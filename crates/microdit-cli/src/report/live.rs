//! The page in a run directory, kept current while the run is trained.

use super::{facts, write};
use microdit::{TrainBackend, task::TrainTask};
use microdit_eval::report::{ReportError, Run, runs_page};
use microdit_train::{
    Recipe, TrainError,
    probe::{Numbers, Probe, View},
    run::RunDir,
};
use std::{
    fmt::Display,
    path::Path,
    time::{Duration, Instant},
};

/// The name of the page in a run directory.
pub(crate) const REPORT: &str = "report.html";

/// Least time between two pages.
const EVERY: Duration = Duration::from_secs(20);

/// The time between two pages is at least this many times what one takes.
const SHARE: u32 = 100;

/// Writes the page after lines of the log, now and then. A page that cannot be written is a warning.
pub(crate) struct LiveReport {
    run: Run,
    log_every: u64,
    /// When the last page was written, and how long that took.
    last: Option<(Instant, Duration)>,
}

impl LiveReport {
    /// About the run in `run` that trains `recipe`.
    pub(crate) fn new(run: &RunDir, recipe: &Recipe) -> Self {
        let mut reported = Run::new(run.path());
        reported.recipe = Some(facts(recipe));
        Self {
            run: reported,
            log_every: recipe.run.log_every,
            last: None,
        }
    }
}

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for LiveReport {
    fn name(&self) -> &'static str {
        "report"
    }

    fn is_due(&self, step: u64) -> bool {
        let rested = self
            .last
            .is_none_or(|(written, took)| written.elapsed() >= EVERY.max(took * SHARE));
        rested && step.is_multiple_of(self.log_every)
    }

    fn looks(&self) -> bool {
        false
    }

    /// A page is of no step: none is missed.
    fn is_done(&self, _run: &RunDir, _step: u64) -> bool {
        true
    }

    fn run(&mut self, _view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let start = Instant::now();
        let written = write_page(&mut self.run, true);
        self.last = Some((Instant::now(), start.elapsed()));
        warn(self.run.folder(), written);
        Ok(None)
    }
}

/// Writes the page of a run once more when this value is dropped: the run has ended then, well or not.
pub(crate) struct LastReport<'a> {
    run: &'a RunDir,
    recipe: &'a Recipe,
    is_due: bool,
}

impl<'a> LastReport<'a> {
    pub(crate) fn new(run: &'a RunDir, recipe: &'a Recipe, is_due: bool) -> Self {
        Self {
            run,
            recipe,
            is_due,
        }
    }

    /// Leaves the page as it is.
    pub(crate) fn cancel(&mut self) {
        self.is_due = false;
    }
}

impl Drop for LastReport<'_> {
    fn drop(&mut self) {
        if self.is_due {
            let mut report = LiveReport::new(self.run, self.recipe);
            warn(self.run.path(), write_page(&mut report.run, false));
        }
    }
}

/// Reads what is new of a run, and writes its page if its log has a line.
fn write_page(run: &mut Run, is_live: bool) -> Result<(), ReportError> {
    run.read()?;
    if run.log.is_empty() {
        return Ok(());
    }
    let page = runs_page(std::slice::from_ref(run), is_live);
    let path = run.folder().join(REPORT);
    write(&path, &page).map_err(|error| ReportError::Io { path, error })
}

fn warn(folder: &Path, written: Result<(), impl Display>) {
    if let Err(error) = written {
        tracing::warn!("no report was written in {}: {error}", folder.display());
    }
}
