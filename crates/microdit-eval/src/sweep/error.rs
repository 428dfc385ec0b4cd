//! What can go wrong with a sweep as a whole; what goes wrong with one of its runs is recorded.

use crate::statistics::StatisticsError;
use microdit_train::TrainError;
use std::path::{Path, PathBuf};

/// A sweep that cannot begin or go on: what, where, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The definition, or a recipe it leads to, cannot be read or is not valid.
    #[error(transparent)]
    Definition(#[from] TrainError),
    /// The recipe of a point is not valid.
    #[error("point {label}: {error}")]
    Point {
        /// Its values.
        label: String,
        /// What is wrong.
        error: Box<TrainError>,
    },
    /// Two points are one.
    #[error(
        "{}: the points {one} and {other} train the same recipe; remove one of them", path.display()
    )]
    Same {
        /// File of the sweep.
        path: PathBuf,
        /// The first.
        one: String,
        /// The second.
        other: String,
    },
    /// A metric of the run's log that no probe of the recipe writes.
    #[error(
        "{}: metrics: {metric} is measured while a run is trained, and the recipe has no `evaluation: ({lacking})`", path.display()
    )]
    NoEvaluation {
        /// File of the sweep.
        path: PathBuf,
        /// Name of the metric.
        metric: String,
        /// What would be there.
        lacking: &'static str,
    },
    /// A metric that nothing measures.
    #[error(
        "{}: metrics: {metric} is measured neither while the points are trained nor by `microdit eval`; did you mean `{near}`?", path.display()
    )]
    UnknownMetric {
        /// File of the sweep.
        path: PathBuf,
        /// The name.
        metric: String,
        /// The name most like it.
        near: String,
    },
    /// A loss at noise levels of a student, which has none.
    #[error(
        "{}: metrics: {metric} is not measured at the end of a stage with `distill`: a student has no loss at a noise level", path.display()
    )]
    NoLoss {
        /// File of the sweep.
        path: PathBuf,
        /// The loss.
        metric: String,
    },
    /// No number of steps fits the budget.
    #[error("point {label}: {message}")]
    Budget {
        /// Its values.
        label: String,
        /// Why.
        message: String,
    },
    /// The time a step of a point takes could not be measured.
    #[error("point {label}: its steps could not be timed: {reason}")]
    Calibration {
        /// Its values.
        label: String,
        /// Why.
        reason: String,
    },
    /// Another process is at work in the folder.
    #[error("{}: another sweep is at work there", .0.display())]
    Busy(PathBuf),
    /// A file in the folder is not what was written.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        message: String,
    },
    /// Points that are finished are not those of the definition.
    #[error(
        "{} holds finished points that the definition no longer has:\n  {}", folder.display(), differences.join("\n  ")
    )]
    Changed {
        /// Folder of the sweep.
        folder: PathBuf,
        /// Each point, and the keys in which it differs.
        differences: Vec<String>,
    },
    /// Points that are finished were trained on other data.
    #[error(
        "{} holds points that were trained on other data than the recipe names:\n  {}", folder.display(), differences.join("\n  ")
    )]
    OtherData {
        /// Folder of the sweep.
        folder: PathBuf,
        /// Each point, with its data then and now.
        differences: Vec<String>,
    },
    /// The times that gave finished points their steps are gone.
    #[error(
        "{} holds finished points of a budget of {unit}, and no calibration.json: timed again, their steps would be others", folder.display()
    )]
    NoCalibration {
        /// Folder of the sweep.
        folder: PathBuf,
        /// Of what the budget is.
        unit: &'static str,
    },
    /// Numbers that cannot be compared.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A file or folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
}

impl SweepError {
    /// An operating system's error at `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
