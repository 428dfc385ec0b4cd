//! Reports: what runs and sweeps came to, as one page that loads nothing, and as figures.
//!
//! A [`Run`] is read from its directory, and read again as it grows: of its log only what was added, into [`Series`] of
//! bounded size, so that a page about a run of a million steps has a few megabytes and costs a few milliseconds. Recipes are
//! read by whoever knows their types, and handed over as [`RecipeFacts`].

mod charts;
mod error;
mod figure;
mod grids;
mod json_lines;
mod log;
mod number;
pub(crate) mod page;
mod run;
mod series;
mod sweep;
mod sweep_charts;
pub(crate) mod text;

pub use charts::figures as run_figures;
pub use error::ReportError;
pub use figure::{Axis, Color, Curves, Figure, Interval, Intervals, Line, PngError, Stroke};
pub use log::Log;
pub use page::{runs_page, sweep_page};
pub use run::{RecipeFacts, Run, tell_apart};
pub use series::Series;
pub use sweep::{Mean, Point, PointRun, SweepResults};
pub use sweep_charts::figures as sweep_figures;
