//! Which files a list of shards consists of.

use super::{Members, Shard, Shards, parquet, pattern};
use crate::{
    damage::Ledger,
    error::DataError,
    mds::{self, MdsShard},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

impl Shards {
    /// A tar or a Parquet file, a pattern with braces such as `train-{000..009}.tar`, a directory of tars or else of Parquet files, or one
    /// of MDS shards with their `index.json`. An existing path means itself, whatever characters it contains.
    ///
    /// # Errors
    /// If that names no existing shard.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let missing = || DataError::NoShards(spec.to_owned());
        let path = Path::new(spec);
        if path.join(mds::INDEX).is_file() {
            let shards = MdsShard::list(path)?;
            return Self::new(shards.into_iter().map(Shard::Mds).collect(), members, spec);
        }
        let paths: Vec<PathBuf> = if path.is_dir() {
            let entries = path.read_dir().map_err(|_| missing())?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            files.sort();
            let of = |extension| {
                files
                    .iter()
                    .filter(move |path| has_extension(path, extension))
            };
            let tars: Vec<PathBuf> = of("tar").cloned().collect();
            match tars.is_empty() {
                true => of(parquet::EXTENSION).cloned().collect(),
                false => tars,
            }
        } else if path.is_file() {
            vec![path.to_owned()]
        } else {
            let names =
                pattern::expand(spec).map_err(|message| DataError::unreadable(path, &message))?;
            names.into_iter().map(PathBuf::from).collect()
        };
        Self::new(paths.into_iter().map(Shard::at).collect(), members, spec)
    }

    fn new(shards: Vec<Shard>, members: Members, spec: &str) -> Result<Self, DataError> {
        if let Some(absent) = shards.iter().find(|shard| !shard.path().is_file()) {
            return Err(DataError::NoShards(absent.path().display().to_string()));
        }
        if shards.is_empty() {
            return Err(DataError::NoShards(spec.to_owned()));
        }
        let ledger = Arc::new(Ledger::new(shards.iter().map(Shard::path)));
        Ok(Self {
            shards,
            members,
            ledger,
        })
    }
}

impl Shard {
    /// The shard that this file is, by its ending.
    fn at(path: PathBuf) -> Self {
        match has_extension(&path, parquet::EXTENSION) {
            true => Self::Parquet(path),
            false => Self::Tar(path),
        }
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
