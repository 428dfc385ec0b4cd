//! Micro-budget text-to-image diffusion transformers on [burn]: the network, the masking and the diffusion mathematics
//! of "Stretching Each Dollar" (MicroDiT, arXiv 2407.15811), each piece usable on its own.
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::Flex;
//! use microdit::{DitConfig, Masking, TokenMask, diffusion::{Diffusion, Edm}};
//!
//! // A small network over 8 x 8 latents, and a batch of two latents with captions of five vectors.
//! let config = DitConfig::tiny_2().with_input_size(8).with_dim(32).with_depth(2).with_head_dim(16)
//!     .with_multiple_of(16).with_caption_channels(12).with_mixer(None).with_moe(None);
//! let device = Default::default();
//! let dit = config.init::<Flex>(0, &device)?;
//! let latents = Tensor::<Flex, 4>::ones([2, 4, 8, 8], &device);
//! let noise = Tensor::<Flex, 4>::ones([2, 4, 8, 8], &device);
//! let captions = Tensor::<Flex, 3>::ones([2, 5, 12], &device);
//!
//! // The training loss with three quarters of the tokens dropped.
//! let mask = TokenMask::draw(Masking::Deferred { ratio: 0.75 }, config.tokens(), 0, 0, 0..2, &device);
//! let edm = Edm::default();
//! let loss = edm.loss(latents, noise, &edm.rows(&[0.5, 2.0]), config.patch_size, mask.as_ref(), |x, t| {
//!     dit.forward_tokens(x, t, captions, mask.as_ref())
//! });
//! assert_eq!(loss.dims(), [2]);
//! # Ok::<(), microdit::ConfigError>(())
//! ```

pub mod attention;
mod awake;
pub mod block;
mod config;
pub mod diffusion;
mod dit;
pub mod ema;
pub mod embed;
pub mod feed_forward;
pub mod flops;
mod flow;
pub mod init;
mod linear;
mod mask;
pub mod memory;
pub mod mixer;
pub mod moe;
pub mod norm;
pub mod ops;
mod precision;
pub mod printable;
pub mod range;
pub mod rng;
mod validate;
pub mod weights;
mod whole;
mod width;

pub use awake::Awake;
pub use config::{BlockConfig, DitConfig, MixerConfig, MoeConfig};
pub use dit::{Conditioning, Dit, FinalLayer};
pub use flow::Flow;
pub use linear::Linear;
pub use mask::{MaskStage, Masking, TokenMask};
pub use ops::DitBackend;
pub use precision::Precision;
pub use validate::ConfigError;
pub use whole::{is_part, write_whole};
pub use width::WidthScale;

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
