//! Which objects a URL stands for.

use super::{
    cache::Cache, config::RemoteConfig, download::Described, error::RemoteError, object::Object,
    site::Site, url::Url,
};
use crate::{
    error::DataError,
    index::{self, DatasetIndex},
    mds::{self, MdsShard},
    shard_file::ShardFile,
    shards::{Listed, Shard, expand, is_shard, shards_among},
};
use glob::{MatchOptions, Pattern};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
};

/// How stars match: not across directories, unless there are two.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The shards of a URL: a tar or a Parquet file, a pattern with braces or, where a site has lists, with `*`, `?`, `[...]` and `**`; or a directory
/// of MDS shards with their `index.json`, of tars, or of Parquet files.
pub(crate) fn find(spec: &str) -> Result<Listed, DataError> {
    // One for the process: what it has found intact it does not read again.
    static CACHE: OnceLock<Arc<Cache>> = OnceLock::new();
    let config = RemoteConfig::from_env()?;
    let cache = CACHE.get_or_init(|| Arc::new(Cache::new(&config)));
    find_as(spec, &config, cache)
}

/// The same, fetched as `config` says into `cache`.
pub(super) fn find_as(
    spec: &str,
    config: &RemoteConfig,
    cache: &Arc<Cache>,
) -> Result<Listed, DataError> {
    let address = |message: String| RemoteError::Address {
        url: spec.to_owned(),
        message,
    };
    let names = expand(spec).map_err(address)?;
    let urls = names
        .iter()
        .map(|name| Url::parse(name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut sites = Sites {
        config,
        cache: Arc::clone(cache),
        below: common_folder(&urls),
        known: BTreeMap::new(),
    };
    if let [url] = &urls[..]
        && !is_shard(&url.path)
        && !is_glob(&url.path)
    {
        return folder(&sites.site(url)?, &url.path);
    }
    let mut objects: Vec<(Arc<Site>, String, Option<Described>)> = Vec::new();
    for url in &urls {
        let site = sites.site(url)?;
        if !is_glob(&url.path) {
            objects.push((site, url.path.clone(), None));
            continue;
        }
        let found = matches(&site, &url.path)?;
        let found = found
            .into_iter()
            .map(|(path, described)| (Arc::clone(&site), path, Some(described)));
        objects.extend(found);
    }
    if objects.is_empty() {
        return Err(RemoteError::Missing {
            url: spec.to_owned(),
        }
        .into());
    }
    describe_all(&mut objects)?;
    let mut indices = BTreeMap::new();
    let mut shards = Vec::with_capacity(objects.len());
    for (site, path, described) in objects {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let place = site.url_of(folder);
        if !indices.contains_key(&place) {
            let text = site.index(&join(folder, DatasetIndex::FILE))?;
            let sums = text.map(|text| index::checksums(&text)).unwrap_or_default();
            indices.insert(place.clone(), sums);
        }
        let name = path.rsplit('/').next().unwrap_or(&path);
        let sum = indices[&place].get(name).map(String::as_str);
        if let Some(described) = described {
            let object = Object::new(&site, &path, described)?.with_sha256(sum);
            shards.push(Shard::at(ShardFile::remote(object)));
        }
    }
    Ok(Listed {
        shards,
        index: None,
    })
}

/// Asks about those of which nothing is known.
fn describe_all(objects: &mut [(Arc<Site>, String, Option<Described>)]) -> Result<(), RemoteError> {
    let mut unknown: Vec<usize> = (0..objects.len())
        .filter(|&i| objects[i].2.is_none())
        .collect();
    while let Some(&first) = unknown.first() {
        let site = Arc::clone(&objects[first].0);
        let (same, others) = unknown
            .into_iter()
            .partition(|&i| Arc::ptr_eq(&objects[i].0, &site));
        let same: Vec<usize> = same;
        let paths: Vec<String> = same.iter().map(|&i| objects[i].1.clone()).collect();
        for (i, described) in same.into_iter().zip(site.describe(&paths)?) {
            objects[i].2 = Some(described);
        }
        unknown = others;
    }
    Ok(())
}

/// The sites of a list of shards; most have one.
struct Sites<'a> {
    config: &'a RemoteConfig,
    cache: Arc<Cache>,
    below: String,
    known: BTreeMap<String, Arc<Site>>,
}

impl Sites<'_> {
    fn site(&mut self, url: &Url) -> Result<Arc<Site>, RemoteError> {
        if let Some(site) = self.known.get(&url.origin) {
            return Ok(Arc::clone(site));
        }
        let site = Arc::new(Site::new(url, &self.below, self.config, &self.cache)?);
        self.known.insert(url.origin.clone(), Arc::clone(&site));
        Ok(site)
    }
}

/// The shards in a directory.
fn folder(site: &Arc<Site>, path: &str) -> Result<Listed, DataError> {
    let index_path = join(path, mds::INDEX);
    if let Some(text) = site.index(&index_path)? {
        let url = site.url_of(&index_path);
        let shards = mds_shards(site, path, &text)?
            .map_err(|message| DataError::unreadable(Path::new(&url), &message))?;
        return Ok(Listed {
            shards,
            index: None,
        });
    }
    let index_path = join(path, DatasetIndex::FILE);
    let index = site.index(&index_path)?;
    let sums = index.as_deref().map(index::checksums).unwrap_or_default();
    let files = match site.list(path, false)? {
        Some(listed) => shards_among(listed, |(path, _)| Path::new(path)),
        // What a web server has is in the index alone.
        None if sums.is_empty() => {
            return Err(RemoteError::Address {
                url: site.url_of(path),
                message: format!(
                    "a web server does not list its files, and there is no {} or {}; expected a URL that ends in .tar or .parquet, such as \
                     {}/{{000000..000009}}.tar",
                    mds::INDEX,
                    DatasetIndex::FILE,
                    site.url_of(path)
                ),
            }
            .into());
        }
        None => {
            let names = sums.keys().filter(|name| is_plain(name));
            let paths: Vec<String> = names.map(|name| join(path, name)).collect();
            let described = site.describe(&paths)?;
            paths.into_iter().zip(described).collect::<Vec<_>>()
        }
    };
    if files.is_empty() {
        return Err(DataError::NoShards(site.url_of(path)));
    }
    let shard = |(path, described): (String, Described)| {
        let name = path.rsplit('/').next().unwrap_or(&path);
        let sum = sums.get(name).map(String::as_str);
        let object = Object::new(site, &path, described)?.with_sha256(sum);
        Ok(Shard::at(ShardFile::remote(object)))
    };
    Ok(Listed {
        shards: files
            .into_iter()
            .map(shard)
            .collect::<Result<_, RemoteError>>()?,
        index,
    })
}

/// The MDS shards of an index, or what is wrong with it.
fn mds_shards(
    site: &Arc<Site>,
    folder: &str,
    text: &[u8],
) -> Result<Result<Vec<Shard>, String>, RemoteError> {
    let text = String::from_utf8_lossy(text);
    let entries = match MdsShard::entries(&text) {
        Ok(entries) => entries,
        Err(message) => return Ok(Err(message)),
    };
    let paths: Vec<String> = entries
        .iter()
        .map(|entry| join(folder, entry.file()))
        .collect();
    let described = site.describe(&paths)?;
    let mut shards = Vec::with_capacity(paths.len());
    for ((entry, path), described) in entries.into_iter().zip(&paths).zip(described) {
        let file = ShardFile::remote(Object::new(site, path, described)?);
        shards.push(Shard::Mds(MdsShard::new(file, entry)));
    }
    Ok(Ok(shards))
}

/// The paths of a site that a pattern with stars stands for.
fn matches(site: &Site, pattern: &str) -> Result<Vec<(String, Described)>, RemoteError> {
    let invalid = |message: String| RemoteError::Address {
        url: site.url_of(pattern),
        message,
    };
    let parsed = Pattern::new(pattern).map_err(|error| invalid(error.to_string()))?;
    let folder = literal_folder(pattern);
    let deep = pattern[folder.len()..]
        .trim_start_matches('/')
        .contains('/');
    let Some(mut found) = site.list(folder, deep)? else {
        return Err(invalid(
            "a web server does not list its files; expected names, or braces such as {000..009}"
                .into(),
        ));
    };
    found.retain(|(path, _)| parsed.matches_with(path, MATCH));
    Ok(found)
}

/// The directory that all paths share.
fn common_folder(urls: &[Url]) -> String {
    let mut folders = urls
        .iter()
        .map(|url| match is_shard(&url.path) || is_glob(&url.path) {
            true => literal_folder(&url.path),
            false => &url.path,
        });
    let mut common: Vec<&str> = folders.next().unwrap_or_default().split('/').collect();
    for folder in folders {
        let same = common
            .iter()
            .zip(folder.split('/'))
            .take_while(|(a, b)| *a == b)
            .count();
        common.truncate(same);
    }
    common.join("/")
}

/// The directory before the first star of a pattern, or of a file.
fn literal_folder(pattern: &str) -> &str {
    let literal = pattern
        .find(is_star)
        .map_or(pattern, |star| &pattern[..star]);
    literal.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_star(c: char) -> bool {
    matches!(c, '*' | '?' | '[')
}

fn is_glob(path: &str) -> bool {
    path.contains(is_star)
}

/// Whether a name stays in its directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_pattern_is_what_all_its_names_share() {
        let folder = |urls: &[&str]| {
            let urls: Vec<Url> = urls.iter().map(|url| Url::parse(url).unwrap()).collect();
            common_folder(&urls)
        };
        assert_eq!(folder(&["s3://b/x/y/0.tar", "s3://b/x/z/0.tar"]), "x");
        assert_eq!(folder(&["s3://b/x/y-*/0.tar"]), "x");
        assert_eq!(folder(&["s3://b/x/**/0.tar"]), "x");
        assert_eq!(folder(&["s3://b/x/y"]), "x/y");
        assert_eq!(folder(&["s3://b/0.tar"]), "");
    }
}
