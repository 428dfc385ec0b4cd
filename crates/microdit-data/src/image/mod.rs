//! Pictures to squares of pixels, as torchvision prepares them.

mod decode;
mod format;
mod jpeg;
mod limits;
mod resize;

pub use decode::{Picture, decode, read, size};
pub(crate) use format::{READ, UNREAD, looks_like_a_picture};
pub use limits::Limits;
pub(crate) use resize::write_pixels;
pub use resize::{View, cover, pixels, resize, square, viewed};

#[cfg(test)]
mod tests;
