//! Captioned images and latents: shards or a generator in, batches out.

mod captions;
pub mod image;
mod loader;
mod mds;
mod npy;
mod sample;
mod shapes;
mod shards;

pub use captions::{clean_caption, clean_once};
pub use loader::{Batch, Captions, Loader, LoaderConfig, Source};
pub use mds::{MdsSample, MdsShard};
pub use sample::{DataError, Image, Position, Sample, Stored};
pub use shapes::Shapes;
pub use shards::{Members, Shard, Shards};
