//! What there is without the feature `remote`: an error that names it.

use super::error::RemoteError;
use crate::shards::Listed;
use std::{fs::File, ops::Range, path::Path};

/// There are none.
#[derive(Debug)]
pub(crate) enum Object {}

impl Object {
    pub(crate) fn url(&self) -> &Path {
        match *self {}
    }

    pub(crate) fn bytes(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn open(&self) -> Result<File, RemoteError> {
        match *self {}
    }

    pub(crate) fn prefetch(&self) {
        match *self {}
    }

    pub(crate) fn pieces(&self, _ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, RemoteError> {
        match *self {}
    }
}

/// Nothing is found.
pub(crate) fn find(url: &str) -> Result<Listed, RemoteError> {
    Err(RemoteError::NotBuilt { url: url.into() })
}
