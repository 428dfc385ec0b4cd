//! Captioned images and latents: shards or a generator in, batches out.

mod captions;
mod folder;
pub mod image;
mod inspect;
mod loader;
mod mds;
mod npy;
mod precompute;
mod prepare;
mod sample;
mod shapes;
mod shards;
mod writer;

pub use captions::{clean_caption, clean_once};
pub use folder::{Columns, Folder};
pub use inspect::{Glimpse, Inspection, Moments, Spread, inspect};
pub use loader::{Batch, Captions, Loader, LoaderConfig, Source};
pub use mds::{MdsSample, MdsShard};
pub use precompute::{PrecomputeConfig, Precomputed, index, precompute};
pub use prepare::{DatasetCard, Filters, Layout, PrepareConfig, Store, prepare};
pub use sample::{DataError, Image, Position, Sample, Stored};
pub use shapes::Shapes;
pub use shards::{Members, Shard, Shards};
pub use writer::{DatasetIndex, ShardReport};
