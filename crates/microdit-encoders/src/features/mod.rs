//! Frozen networks whose features pictures are judged by.

mod clip_config;
mod clip_image;
mod dino;
mod error;
mod inception;
mod inception_blocks;
mod network;
mod patches;
mod preparation;
mod resample;

pub use clip_image::{ClipImage, ClipImageConfig, ImagePooling, ImageStates};
pub use dino::{DinoStates, DinoV2, DinoV2Config, Positions};
pub use error::FeatureError;
pub use inception::{Inception, Resize};
pub use microdit::ops::Activation;
pub use network::{FeatureNetwork, Identity, text_tower};
pub use preparation::{Corner, Fit, Preparation};
