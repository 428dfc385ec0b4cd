//! From recipe to run: the trainer, its optimiser, schedules, weights and logs.

pub mod checkpoint;
pub mod encode;
mod error;
mod evaluation;
mod events;
pub mod nodes;
mod objective;
pub mod optim;
mod parallel;
pub mod plan;
pub mod recipe;
pub mod run;
pub mod sampling;
pub mod schedule;
mod source;
pub mod takeover;
pub mod trainer;
mod tree;

pub use error::TrainError;
pub use recipe::Recipe;
