//! Captioned images: shards or a generator in, batches out.

mod captions;
mod loader;
mod npy;
mod sample;
mod shapes;
mod shards;

pub use captions::{clean_caption, clean_once};
pub use loader::{Batch, Captions, Loader, LoaderConfig, Source};
pub use sample::{DataError, Image, Position, Sample};
pub use shapes::Shapes;
pub use shards::{Members, Shards};
