//! Micro-budget text-to-image diffusion transformers on [burn]: the network, the masking and the diffusion mathematics
//! of "Stretching Each Dollar" (MicroDiT, arXiv 2407.15811), each piece usable on its own.
//!
//! ```
//! use burn_flex::Flex;
//! use microdit::{
//!     DitConfig, Masking,
//!     net::Denoiser,
//!     task::{DenoiseConfig, Draws, HostBatch, Task},
//! };
//!
//! // A small network over 8 x 8 latents, and a batch of two latents with captions of five vectors.
//! let config = DitConfig::tiny_2().with_input_size(8).with_dim(32).with_depth(2).with_head_dim(16)
//!     .with_multiple_of(16).with_caption_channels(12).with_mixer(None).with_moe(None);
//! let device = Default::default();
//! let batch = HostBatch {
//!     latents: vec![0.5; 2 * 4 * 8 * 8],
//!     shape: [4, 8, 8],
//!     captions: vec![1.0; 2 * 5 * 12],
//!     caption: [5, 12],
//! };
//!
//! // The training loss with three quarters of the tokens dropped.
//! let task = DenoiseConfig { masking: Masking::Deferred { ratio: 0.75 }, ..Default::default() }
//!     .init(config.init::<Flex>(0, &device)?)?;
//! let noised = task.prepare(&batch.on::<Flex>(&device), 0..2, &Draws::of_step(0, 0));
//! let output = task.denoiser().predict(task.inputs(&noised));
//! assert_eq!(task.losses(&noised, &output).total().dims(), [2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod atomic_file;
pub mod checksum;
pub mod diffusion;
pub mod ema;
pub mod hub_env;
pub mod net;
pub mod nn;
pub mod ops;
pub mod picture;
pub mod post_hoc_ema;
pub mod printable;
pub mod range;
pub mod rng;
pub mod task;
pub mod weights;
pub mod worker_pool;

pub use net::{
    ConfigError, MaskStage, Masking, TokenMask,
    dit::{Condition, DecoderConfig, Dit, DitConfig, FinalLayer, MixerConfig, WidthScale},
    unet::{LevelConfig, MidConfig, UNet, UNetConfig},
};
pub use nn::{BlockConfig, Conv2d, Dense, Linear, MoeConfig, Precision, Router};
pub use ops::{DitBackend, TrainBackend};

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
