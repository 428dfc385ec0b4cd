//! What every network is: the trait, what goes in and out, and what flows through.

mod carry;
mod conditioning;
mod config;
mod denoiser;
pub mod dit;
mod limits;
mod mask;
mod network;
pub mod unet;

pub use carry::{Carry, CarryVisitor};
pub use conditioning::Conditioning;
pub use config::{ConfigError, DenoiserConfig, Flops, Tokens};
pub use denoiser::{Denoiser, Inputs, Output, Selection, TrainDenoiser};
pub use mask::{MaskStage, Masking, TokenMask};
pub use network::{Network, NetworkCarry, NetworkConfig};
