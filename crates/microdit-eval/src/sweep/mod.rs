//! Sweeps: a base recipe, what is varied over it, and seeds; trained, measured and compared at equal cost.
//!
//! A [`Definition`] is read from a file and becomes [`Point`]s, one for every combination of values and every seed. A
//! point's recipe is resolved, and the steps its [`Budget`] pays for are derived, before anything is trained; what decides
//! its results is hashed into its identity. A [`Runner`] trains each point by a process of this program in a run directory of its
//! own, so that one that fails or crashes ends alone, and records what came of it as [`Row`]s in the sweep's [`Folder`]. The
//! rows are all that is needed to go on elsewhere, and a [`Summary`] says what follows from them.

mod budget;
mod calibration;
mod child;
pub(crate) mod compared;
mod conditions;
mod data;
mod definition;
mod error;
mod folder;
mod names;
mod outcome;
mod points;
mod recorded;
mod row;
mod runner;
mod slots;
mod steps;
mod summary;
mod timing;

pub use calibration::Calibration;
pub use child::{Launcher, STOP_AT_EOF};
pub use compared::Compared;
pub use definition::{Axis, AxisValue, Budget, Definition, Metric, Setting};
pub use error::SweepError;
pub(crate) use folder::ROWS;
pub use folder::{Folder, read_rows};
pub use points::{Point, Sweep};
pub use row::{Row, Status};
pub use runner::{Event, Opened, Runner};
pub use summary::Summary;
