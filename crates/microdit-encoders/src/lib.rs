//! The frozen networks around the denoiser, from published weights - image autoencoders, text encoders and networks whose features
//! pictures are judged by - and, for runs without any download, their built-in stand-ins.

mod clip_embedder;
mod codec;
mod config_file;
mod contact_sheet;
mod cut;
pub mod features;
mod hashed_words;
pub mod hub;
mod layers;
pub mod pipeline_files;
mod pixels;
mod png;
pub mod text;
mod transformer;
pub mod vae;
mod weights;

pub use self::png::{PictureFormat, read_labels, save_picture};
pub use clip_embedder::{ClipEmbedder, ClipEmbedderSizes, write_random};
pub use codec::{Codec, Conditioner, Trimmed};
pub use contact_sheet::{ContactSheet, contact_sheet};
pub use cut::Cut;
pub use hashed_words::HashedWords;
pub use pixels::PixelCodec;
pub use weights::{At, Weights};
