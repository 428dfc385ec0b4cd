//! A server, a bucket or a dataset of the hub: what it has, and how it is asked.

use super::{
    cache::Cache,
    config::RemoteConfig,
    download::{Asked, Described, Fault, again, cause, wait_for},
    error::RemoteError,
    hub,
    url::{Scheme, Url},
};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ClientConfigKey, ClientOptions, ObjectMeta, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    path::Path,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Objects that are looked for at a time.
const AT_ONCE: usize = 32;

/// Bytes of the longest index that is read.
const MAX_INDEX: u64 = 256 << 20;

/// A store, and what is known about it.
#[derive(Debug)]
pub(super) struct Site {
    url: Url,
    store: Arc<dyn ObjectStore>,
    /// What the paths of a dataset are called in the hub's store: at which commit.
    root: Option<String>,
    /// What the hub lists.
    listed: Option<BTreeMap<String, Described>>,
    pub(super) config: RemoteConfig,
    pub(super) cache: Arc<Cache>,
}

impl Site {
    /// The site of `url`; of a dataset of the hub, the files in the directory `below` and the directories below it.
    pub(super) fn new(
        url: &Url,
        below: &str,
        config: &RemoteConfig,
        cache: &Arc<Cache>,
    ) -> Result<Self, RemoteError> {
        // Connections belong to what waits for them, and so does their cryptography.
        let (store, root, listed) = wait_for(async {
            match url.scheme {
                Scheme::Hub => {
                    let dataset = hub::dataset(url, below, config).await?;
                    Ok((dataset.store, Some(dataset.root), Some(dataset.files)))
                }
                _ => Ok((store(url, config)?, None, None)),
            }
        })?;
        Ok(Self {
            url: url.clone(),
            store,
            root,
            listed,
            config: config.clone(),
            cache: Arc::clone(cache),
        })
    }

    /// The address of a path of this site.
    pub(super) fn url_of(&self, path: &str) -> String {
        self.url.of(path)
    }

    /// What an object of the cache is called: on the hub, with the commit, whatever its revision is called.
    pub(super) fn identity_of(&self, path: &str) -> String {
        match &self.root {
            Some(root) => format!("{root}/{path}"),
            None => self.url_of(path),
        }
    }

    /// The path as the store has it.
    pub(super) fn path(&self, path: &str) -> Result<Path, RemoteError> {
        let parsed = match (&self.root, self.url.scheme) {
            (Some(root), _) => Path::parse(format!("{root}/{path}")),
            (None, Scheme::Http) => Path::from_url_path(path),
            (None, _) => Path::parse(path),
        };
        parsed.map_err(|error| RemoteError::Address {
            url: self.url_of(path),
            message: cause(&error),
        })
    }

    /// How an object is asked for.
    pub(super) fn asked<'a>(&'a self, url: &'a str, path: &'a Path) -> Asked<'a> {
        Asked {
            store: &self.store,
            path,
            url,
            config: &self.config,
        }
    }

    /// What is known about these paths, all of which have to be there.
    pub(super) fn describe(&self, paths: &[String]) -> Result<Vec<Described>, RemoteError> {
        let describe = |path: String| async move {
            let url = self.url_of(&path);
            match &self.listed {
                Some(listed) => listed
                    .get(&path)
                    .cloned()
                    .ok_or(RemoteError::Missing { url }),
                None => self.asked(&url, &self.path(&path)?).describe().await,
            }
        };
        let described = futures_util::stream::iter(paths.to_vec())
            .map(describe)
            .buffered(AT_ONCE);
        wait_for(described.try_collect())
    }

    /// The content of an index, if there is one.
    pub(super) fn index(&self, path: &str) -> Result<Option<Vec<u8>>, RemoteError> {
        if self
            .listed
            .as_ref()
            .is_some_and(|listed| !listed.contains_key(path))
        {
            return Ok(None);
        }
        let url = self.url_of(path);
        wait_for(self.asked(&url, &self.path(path)?).small(MAX_INDEX))
    }

    /// The paths in a directory, with those below it if it is `deep`, in their order; none if the site is a web server, which
    /// has no lists.
    pub(super) fn list(
        &self,
        folder: &str,
        deep: bool,
    ) -> Result<Option<Vec<(String, Described)>>, RemoteError> {
        let mut found: Vec<(String, Described)> = match (&self.listed, self.url.scheme) {
            (Some(listed), _) => listed
                .iter()
                .map(|(path, described)| (path.clone(), described.clone()))
                .collect(),
            (None, Scheme::Http) => return Ok(None),
            (None, _) => {
                let metas = wait_for(self.listing(folder, deep))?;
                let named = |meta: &ObjectMeta| (meta.location.to_string(), Described::of(meta));
                metas.iter().map(named).collect()
            }
        };
        let inside = |path: &str| {
            let below = match folder {
                "" => Some(path),
                _ => path
                    .strip_prefix(folder)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            below.is_some_and(|below| deep || !below.contains('/'))
        };
        found.retain(|(path, _)| inside(path));
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Some(found))
    }

    async fn listing(&self, folder: &str, deep: bool) -> Result<Vec<ObjectMeta>, RemoteError> {
        let (url, path) = (self.url_of(folder), self.path(folder)?);
        let prefix = (!folder.is_empty()).then_some(&path);
        let asked = self.asked(&url, &path);
        let list = async || -> Result<Vec<ObjectMeta>, Fault> {
            if !deep {
                let listed = self.store.list_with_delimiter(prefix);
                return Ok(asked.answer(listed).await?.objects);
            }
            let (mut listed, mut found) = (self.store.list(prefix), Vec::new());
            while let Some(meta) = asked.answer(listed.try_next()).await? {
                found.push(meta);
            }
            Ok(found)
        };
        again(&url, &self.config.at_first(), list).await
    }
}

/// The store of a server or bucket, with the credentials and settings that its own environment variables give.
fn store(url: &Url, config: &RemoteConfig) -> Result<Arc<dyn ObjectStore>, RemoteError> {
    let invalid = |error: object_store::Error| RemoteError::Address {
        url: url.origin.clone(),
        message: cause(&error),
    };
    let retry = once();
    // A whole object may take long; silence is watched for here.
    let long = ("timeout", format!("{} seconds", 24 * 3600));
    let connect = (
        "connect_timeout",
        format!("{} seconds", config.patience.as_secs().max(1)),
    );
    let settings = [long, connect].map(|(key, value)| {
        let key: ClientConfigKey = key.parse().expect("the store knows these settings");
        (key, value)
    });
    Ok(match url.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env()
                .with_url(&url.origin)
                .with_retry(retry);
            for (key, value) in settings {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            Arc::new(builder.build().map_err(invalid)?)
        }
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_url(&url.origin)
                .with_retry(retry);
            for (key, value) in settings {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Arc::new(builder.build().map_err(invalid)?)
        }
        Scheme::Az => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_url(&url.origin)
                .with_retry(retry);
            for (key, value) in settings {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Arc::new(builder.build().map_err(invalid)?)
        }
        Scheme::Http | Scheme::Hub => {
            let store = web(&url.origin, config, Default::default()).map_err(invalid)?;
            Arc::new(store)
        }
    })
}

/// The store of a web server, which is sent these headers.
pub(super) fn web(
    origin: &str,
    config: &RemoteConfig,
    headers: reqwest::header::HeaderMap,
) -> object_store::Result<impl ObjectStore> {
    let options = ClientOptions::new()
        // Who gives a plain address wants it; from an encrypted one none leads to a plain one.
        .with_allow_http(origin.to_ascii_lowercase().starts_with("http://"))
        .with_default_headers(headers)
        .with_timeout_disabled()
        .with_connect_timeout(config.patience);
    HttpBuilder::new()
        .with_url(origin)
        .with_client_options(options)
        .with_retry(once())
        .build()
}

/// No second try by the store itself: it would know neither what arrived before nor what was promised.
fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        retry_timeout: Duration::MAX,
        ..RetryConfig::default()
    }
}
