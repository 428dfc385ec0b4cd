//! Shards in buckets, on web servers and on the Hugging Face hub, by their URLs.
//!
//! A shard is fetched into a cache of bounded size when it is opened, or a little before. Nobody sees a part of one: its length,
//! its ETag and, where an index or the hub gives one, its checksum have to agree with what was promised.

mod error;
mod url;

#[cfg(not(feature = "remote"))]
mod absent;
#[cfg(feature = "remote")]
mod cache;
#[cfg(feature = "remote")]
mod config;
#[cfg(feature = "remote")]
mod download;
#[cfg(feature = "remote")]
mod find;
#[cfg(feature = "remote")]
mod hub;
#[cfg(feature = "remote")]
mod object;
#[cfg(feature = "remote")]
mod site;
#[cfg(all(test, feature = "remote"))]
mod tests;

pub use error::RemoteError;
pub(crate) use url::is_url;

#[cfg(not(feature = "remote"))]
pub(crate) use absent::{Object, find};
#[cfg(feature = "remote")]
pub(crate) use {find::find, object::Object};
