//! Which files a list of shards consists of.

use super::{Members, Shard, Shards, pattern};
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
    /// A tar, a pattern with braces such as `train-{000..009}.tar`, a directory of tars, or one of MDS shards with their
    /// `index.json`; or the URL of one of these (`https://`, `http://`, `s3://`, `gs://`, `az://`, `hf://datasets/`), in which a
    /// tar is what ends in `.tar`, `.tar.gz` or `.tgz`, and files of a bucket or of the hub may also be named with `*`, `?` and
    /// `[...]`. An existing path means itself, whatever characters it contains.
    ///
    /// # Errors
    /// If that names no existing shard, or the place of a URL is out of reach.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let path = Path::new(spec);
        let mut listed = match remote::is_url(spec) && !path.exists() {
            true => remote::find(spec)?,
            false => local(spec)?,
        };
        if let Some(absent) = listed.shards.iter().find(|shard| !shard.file().exists()) {
            return Err(DataError::NoShards(absent.path().display().to_string()));
        }
        if listed.shards.is_empty() {
            return Err(DataError::NoShards(spec.to_owned()));
        }
        let lengths = listed.shards.iter().map(|shard| shard.file().bytes());
        let ledger = Arc::new(Ledger::new(lengths.map(Result::unwrap_or_default)));
        Ok(Self {
            shards: std::mem::take(&mut listed.shards),
            members,
            ledger,
            index: listed.index.map(|text| (path.to_owned(), text.into())),
        })
    }
}

/// The shards of a path on this machine.
fn local(spec: &str) -> Result<Listed, DataError> {
    let path = Path::new(spec);
    let missing = || DataError::NoShards(spec.to_owned());
    let tars = |paths: Vec<PathBuf>| {
        let files = paths.into_iter().map(ShardFile::local);
        files.map(Shard::Tar).collect::<Vec<_>>()
    };
    let mut shards = if path.join(mds::INDEX).is_file() {
        let shards = MdsShard::list(path)?;
        shards.into_iter().map(Shard::Mds).collect()
    } else if path.is_dir() {
        let entries = path.read_dir().map_err(|_| missing())?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
            .collect();
        paths.sort();
        tars(paths)
    } else if path.is_file() {
        tars(vec![path.to_owned()])
    } else {
        let names =
            pattern::expand(spec).map_err(|message| DataError::unreadable(path, &message))?;
        tars(names.into_iter().map(PathBuf::from).collect())
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
