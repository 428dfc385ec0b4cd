//! Is what was trained any good, and did it cost less? Metrics over pictures, sweeps with verdicts, reports.
//!
//! A *picture* is what somebody can look at, a person or a frozen network: pixels of 8 bits, drawn or decoded. An *image* is what a
//! sample of a dataset and a tensor hold.

pub mod classifier;
pub mod evaluate;
mod feature_distance;
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
pub use feature_distance::{FeatureDistance, Preparing};
pub use table::Table;
