//! Where the bytes of a shard lie: in a file, or in a store from which they come when they are needed.

use crate::{
    error::DataError,
    files::file_name,
    remote::{Object, RemoteError},
};
use microdit::checksum::hexadecimal;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file on this machine, or an object in a store that becomes one, in the cache, when it is opened.
#[derive(Clone, Debug)]
pub struct ShardFile {
    place: Place,
    /// What an index beside it says of its content.
    sha256: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Place {
    Path(PathBuf),
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "without the feature there are no objects")
    )]
    Object(Arc<Object>),
}

impl ShardFile {
    /// The file at `path`.
    pub(crate) fn local(path: PathBuf) -> Self {
        Self {
            place: Place::Path(path),
            sha256: None,
        }
    }

    /// An object in a store.
    #[cfg(feature = "remote")]
    pub(crate) fn remote(object: Object) -> Self {
        Self {
            sha256: object.sha256().map(Arc::from),
            place: Place::Object(Arc::new(object)),
        }
    }

    /// Notes that an index says it has this checksum.
    pub(crate) fn promise(&mut self, sha256: &str) {
        self.sha256 = Some(sha256.into());
    }

    /// SHA-256 of its content, in hexadecimal, if an index beside it or its store says so.
    pub fn indexed_sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Its path, or its URL in the form of one: for messages, and to tell it from others.
    pub fn place(&self) -> &Path {
        match &self.place {
            Place::Path(path) => path,
            Place::Object(object) => object.url(),
        }
    }

    /// The last part of its path.
    pub fn name(&self) -> String {
        file_name(self.place())
    }

    /// Whether there is a file; objects were found in their store.
    pub(crate) fn exists(&self) -> bool {
        match &self.place {
            Place::Path(path) => path.is_file(),
            Place::Object(_) => true,
        }
    }

    /// Its length.
    ///
    /// # Errors
    /// A file that is not there.
    pub fn bytes(&self) -> Result<u64, DataError> {
        match &self.place {
            Place::Path(path) => {
                let facts = path.metadata().map_err(DataError::io(path))?;
                Ok(facts.len())
            }
            Place::Object(object) => Ok(object.bytes()),
        }
    }

    /// Opens it, once all of it is here and intact. The file can be read to its end even if the cache drops it meanwhile.
    ///
    /// # Errors
    /// A file that cannot be opened, a store that is out of reach, an object that arrives damaged.
    pub fn open(&self) -> Result<File, DataError> {
        match &self.place {
            Place::Path(path) => File::open(path).map_err(DataError::io(path)),
            Place::Object(object) => Ok(object.open()?),
        }
    }

    /// Begins to bring it here, in the background. What goes wrong is said when it is opened.
    pub fn prefetch(&self) {
        if let Place::Object(object) = &self.place {
            object.prefetch();
        }
    }

    /// The bytes in these ranges, which end with the file; only they are brought here, if nothing of it is yet.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn pieces(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, DataError> {
        match &self.place {
            Place::Path(path) => {
                let read = || pieces(&mut File::open(path)?, ranges);
                read().map_err(DataError::io(path))
            }
            Place::Object(object) => Ok(object.pieces(ranges)?),
        }
    }

    /// Length and SHA-256 of its content, in lower-case hexadecimal.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn checksum(&self) -> Result<(u64, String), DataError> {
        let mut digest = Sha256::new();
        let bytes =
            io::copy(&mut self.open()?, &mut digest).map_err(DataError::io(self.place()))?;
        Ok((bytes, hexadecimal(&digest.finalize())))
    }
}

impl From<RemoteError> for DataError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

/// The bytes of a file in these ranges, as far as it has them.
pub(crate) fn pieces(file: &mut File, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
    let piece = |range: &Range<u64>| {
        file.seek(SeekFrom::Start(range.start))?;
        let mut piece = Vec::new();
        let length = range.end.saturating_sub(range.start);
        Read::by_ref(file).take(length).read_to_end(&mut piece)?;
        Ok(piece)
    };
    ranges.iter().map(piece).collect()
}
