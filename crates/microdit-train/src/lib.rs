//! From recipe to run: the trainer, its optimiser, schedules, checkpoints and logs.

pub mod optim;
pub mod schedule;
