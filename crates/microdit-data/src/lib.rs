//! Captioned images: shards or a generator in, batches out.

mod loader;
mod npy;
mod sample;
mod shapes;
mod shards;

pub use loader::{Batch, Captions, Loader, LoaderConfig, Source};
pub use sample::{DataError, Image, Position, Sample};
pub use shapes::Shapes;
pub use shards::{Members, Shards};
