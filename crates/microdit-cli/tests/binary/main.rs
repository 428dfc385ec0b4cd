//! The real binary, from recipe to picture.

mod bad_input;
mod common;
mod convert;
mod datasets;
mod encoders;
mod fetch;
mod flags;
mod full_size;
mod hostile_recipes;
mod latents;
mod pictures;
mod printed;
mod readme;
mod recipes;
mod resume;
mod train_and_draw;
mod values;
