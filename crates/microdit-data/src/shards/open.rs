//! Which files a list of shards consists of.

use super::{Members, Shard, Shards, parquet, pattern};
use crate::{
    damage::Ledger,
    error::DataError,
    index::{self, DatasetIndex},
    mds::{self, MdsShard},
    remote,
    shard_file::ShardFile,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Shards that were found, and the text of the index of the directory they lie in, if they are all of it.
pub(crate) struct Listed {
    pub(crate) shards: Vec<Shard>,
    pub(crate) index: Option<Vec<u8>>,
}

impl Shards {
    /// A tar or a Parquet file, a pattern with braces such as `train-{000..009}.tar`, a directory of tars or else of Parquet files, or one
    /// of MDS shards with their `index.json`; or the URL of one of these (`https://`, `http://`, `s3://`, `gs://`, `az://`,
    /// `hf://datasets/`), in which a shard is what ends in `.tar`, `.tar.gz`, `.tgz` or `.parquet`, and files of a bucket or of the hub
    /// may also be named with `*`, `?` and `[...]`. An existing path means itself, whatever characters it contains.
    ///
    /// # Errors
    /// If that names no existing shard, or the place of a URL is out of reach.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let listed = match remote::is_url(spec) && !Path::new(spec).exists() {
            true => remote::find(spec)?,
            false => local(spec)?,
        };
        Self::of(listed, members, spec)
    }

    /// Those that were found under this name.
    pub(crate) fn of(listed: Listed, members: Members, spec: &str) -> Result<Self, DataError> {
        if let Some(absent) = listed.shards.iter().find(|shard| !shard.file().exists()) {
            return Err(DataError::NoShards(absent.path().display().to_string()));
        }
        if listed.shards.is_empty() {
            return Err(DataError::NoShards(spec.to_owned()));
        }
        let lengths = listed.shards.iter().map(|shard| shard.file().bytes());
        let ledger = Arc::new(Ledger::new(lengths.map(Result::unwrap_or_default)));
        Ok(Self {
            shards: listed.shards,
            members,
            ledger,
            index: listed.index.map(|text| (spec.into(), text.into())),
        })
    }
}

/// The shards of a path on this machine.
fn local(spec: &str) -> Result<Listed, DataError> {
    let path = Path::new(spec);
    let of = |paths: Vec<PathBuf>| {
        let files = paths.into_iter().map(ShardFile::local);
        files.map(Shard::at).collect::<Vec<_>>()
    };
    let mut shards = if path.join(mds::INDEX).is_file() {
        let shards = MdsShard::list(path)?;
        shards.into_iter().map(Shard::Mds).collect()
    } else if path.is_dir() {
        let entries = path.read_dir();
        let entries = entries.map_err(|_| DataError::NoShards(spec.to_owned()))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        of(shards_among(files, PathBuf::as_path))
    } else if path.is_file() {
        of(vec![path.to_owned()])
    } else {
        let names =
            pattern::expand(spec).map_err(|message| DataError::unreadable(path, &message))?;
        of(names.into_iter().map(PathBuf::from).collect())
    };
    let mut indices = BTreeMap::new();
    for shard in &mut shards {
        let folder = shard.path().parent().unwrap_or(Path::new("")).to_owned();
        let sums = indices.entry(folder).or_insert_with_key(|folder| {
            let text = std::fs::read(folder.join(DatasetIndex::FILE));
            text.map(|text| index::checksums(&text)).unwrap_or_default()
        });
        if let Some(sum) = sums.get(&shard.name()) {
            shard.file_mut().promise(sum);
        }
    }
    let index = path.is_dir().then(|| path.join(DatasetIndex::FILE));
    let index = index.filter(|index| index.is_file());
    let index = index.map(|index| std::fs::read(&index).map_err(DataError::io(&index)));
    Ok(Listed {
        shards,
        index: index.transpose()?,
    })
}

impl Shard {
    /// The shard that this file is, by its ending.
    pub(crate) fn at(file: ShardFile) -> Self {
        match has_extension(file.place(), parquet::EXTENSION) {
            true => Self::Parquet(file),
            false => Self::Tar(file),
        }
    }
}

/// Whether a name ends as those of shards do.
#[cfg(feature = "remote")]
pub(crate) fn is_shard(name: &str) -> bool {
    let ends = [".tar", ".tar.gz", ".tgz"];
    ends.iter().any(|end| name.ends_with(end)) || has_extension(Path::new(name), parquet::EXTENSION)
}

/// Of the files of a directory, in their order, those that are its shards: the tars, or else the Parquet files.
pub(crate) fn shards_among<T>(files: Vec<T>, path: impl Fn(&T) -> &Path) -> Vec<T> {
    let extension = match files.iter().any(|file| has_extension(path(file), "tar")) {
        true => "tar",
        false => parquet::EXTENSION,
    };
    let is_shard = |file: &T| has_extension(path(file), extension);
    files.into_iter().filter(is_shard).collect()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
