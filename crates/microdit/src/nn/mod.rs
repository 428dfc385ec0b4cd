//! Layers, initial weights, and the names and roles of parameters: what networks are built of.

pub mod attention;
mod conv;
pub mod feed_forward;
pub mod group_norm;
pub mod init;
mod linear;
pub mod lora;
pub mod moe;
pub mod norm;
pub mod params;
mod precision;
mod sizes;
mod storage;

pub use conv::Conv2d;
pub use linear::Linear;
pub use precision::Precision;
pub use sizes::{BlockConfig, Dense, MoeConfig, Router};
pub use storage::Storage;
