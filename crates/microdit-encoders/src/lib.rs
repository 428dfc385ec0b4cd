//! What stands around the network: caption encoders and image codecs that need no download.

mod grid;
mod hashed_words;
mod pixels;

pub use grid::grid;
pub use hashed_words::HashedWords;
pub use pixels::PixelCodec;
