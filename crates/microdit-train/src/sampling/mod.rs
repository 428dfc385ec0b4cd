//! Prompts in, pictures out.

mod denoise;
mod drawing;
mod init;
mod label;
mod open;
mod pipeline;
mod prompts;
mod published;
mod surroundings;

pub use drawing::{Drawing, Drawn, Naming, Order};
pub use init::STRENGTHS;
pub use label::Label;
pub(crate) use open::adapted;
pub use pipeline::{Parts, Pipeline};
pub use prompts::{read_prompts, warn_of_long_prompts};
pub use published::unet_of_files;
pub(crate) use published::unet_weights;
pub use surroundings::{Named, Surroundings};
