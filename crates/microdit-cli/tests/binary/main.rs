//! The real binary, from recipe to picture.

mod bad_input;
mod changed;
mod common;
mod convert;
mod crash_points;
mod datasets;
mod encoders;
mod fetch;
mod flags;
mod full_size;
mod hostile_recipes;
mod kept;
mod latents;
mod pictures;
mod printed;
mod reading;
mod readme;
mod recipes;
mod records;
mod resume;
mod signals;
mod strace;
mod tiny;
mod train_and_draw;
mod values;
