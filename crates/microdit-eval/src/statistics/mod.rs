//! What may be said about numbers that vary: with the seed of a run, or with the pictures that happened to be drawn.
//!
//! Two things vary, and each has its own answer. Between **runs**, the seed: [`Paired`] compares two ways of training seed by
//! seed, [`holm()`] pays for asking many questions at once, and a [`Verdict`] says in one line what follows. Within one run,
//! the **pictures**: [`jackknife()`] leaves some of them out at a time.

mod direction;
mod error;
mod holm;
mod jackknife;
mod paired;
mod power;
mod rounded;
mod scatter;
mod student;
mod verdict;
mod wilson;

pub use direction::Direction;
pub use error::StatisticsError;
pub use holm::holm;
pub use jackknife::{Groups, Jackknife, jackknife};
pub use paired::{BySeed, Labelled, Paired};
pub use power::{POWER, power, smallest_detectable};
pub use rounded::rounded;
pub use scatter::{Scatter, size};
pub use student::{cdf, quantile, two_sided};
pub use verdict::{Comparison, Verdict, verdicts};
pub use wilson::{wilson, wilson_of};

/// The share of false alarms that is accepted, and one minus the confidence of every interval.
pub const SIGNIFICANCE: f64 = 0.05;
