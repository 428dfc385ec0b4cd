//! What stands around the network: frozen networks from published weights - image autoencoders and text encoders -
//! and, for runs without any download, their built-in stand-ins.

mod cut;
mod grid;
mod hashed_words;
pub mod hub;
mod labelled;
mod layers;
mod pixels;
pub mod text;
pub mod vae;
mod weights;

pub use cut::Cut;
pub use grid::{Sheet, grid};
pub use hashed_words::HashedWords;
pub use labelled::{PictureFormat, read_labels, save_picture};
pub use pixels::PixelCodec;
pub use weights::{At, Weights};
