//! Captioned images: shards or a generator in, batches out.

mod loader;
mod sample;
mod shapes;
mod shards;

pub use loader::{Batch, Loader, LoaderConfig, Source};
pub use sample::{DataError, Image, Position, Sample};
pub use shapes::Shapes;
pub use shards::Shards;
