//! Captioned images to latents and caption states, once and for all: what a long training run reads.

mod config;
mod encode;
mod error;
mod files;
mod identity;
mod index;
mod progress;
mod record;
mod run;
mod settings;

pub use config::PrecomputeConfig;
pub use encode::Precompute;
pub use error::PrecomputeError;
pub use identity::EncoderIdentity;
pub use index::index;
pub use progress::Precomputed;
