//! From recipe to run: the trainer, its optimiser, schedules, weights and logs.

pub mod encode;
mod error;
pub mod optim;
pub mod recipe;
pub mod run;
pub mod sampling;
pub mod schedule;
pub mod trainer;

pub use error::TrainError;
pub use recipe::Recipe;
