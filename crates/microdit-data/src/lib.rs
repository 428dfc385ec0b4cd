//! Captioned images and latents: shards or a generator in, batches out.

mod captions;
mod folder;
pub mod image;
mod inspect;
mod lack;
mod loader;
mod mds;
mod npy;
mod parallel;
mod precompute;
mod prepare;
mod sample;
mod shapes;
mod shards;
mod stream;
mod text;
mod writer;

pub use captions::{clean_caption, clean_once};
pub use folder::{Columns, Folder};
pub use inspect::{Glimpse, Inspection, Moments, Spread, inspect};
pub use lack::Lack;
pub use loader::{Batch, Captions, Loader, LoaderConfig};
pub use mds::{MdsSample, MdsShard};
pub use npy::Array;
pub use precompute::{Precompute, PrecomputeConfig, Precomputed, index};
pub use prepare::{DatasetCard, Filters, Layout, PrepareConfig, Store, prepare};
pub use sample::{Damage, DataError, Image, Place, Position, Sample, Stored};
pub use shapes::Shapes;
pub use shards::{Incomplete, Members, Shard, Shards};
pub use stream::Source;
pub use text::decode_text;
pub use writer::{DatasetIndex, ShardReport};
