//! Is what was trained any good, and did it cost less? Metrics over pictures, sweeps with verdicts, reports.

pub mod classifier;
pub mod evaluate;
pub mod features;
pub mod measured;
pub mod metrics;
pub mod npz;
pub mod prompts;
pub mod report;
pub mod statistics;
pub mod study;
pub mod sweep;
mod table;

mod error;

pub use error::EvalError;
pub use table::Table;
