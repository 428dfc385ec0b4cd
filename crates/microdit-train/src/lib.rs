//! From recipe to run: the trainer, its optimizer, schedules, weights and logs.

mod activation_checkpointing;
mod batch;
mod begin;
pub mod checkpoint;
pub mod collective;
mod content;
mod description;
pub mod encoders;
mod error;
mod events;
pub mod export;
mod finished;
mod log;
pub mod optim;
mod parallel;
pub mod plan;
pub mod post_hoc;
pub mod precompute;
pub mod probe;
pub mod recipe;
mod resume;
pub mod room;
pub mod run;
pub mod sampling;
pub mod schedule;
mod sealed;
mod sharding;
mod source;
pub mod stage_start;
mod stage_task;
pub mod step;
mod step_log;
pub mod trainer;

pub use error::{EncoderKind, TrainError};
pub use recipe::Recipe;
pub use stage_task::{Prepared, StageTask};
