//! Datasets of the Hugging Face hub: what a revision consists of, and where its files are.

use super::{
    config::RemoteConfig,
    download::{Described, Fault, again, cause},
    error::RemoteError,
    site::web,
    url::Url,
};
use microdit::hub_env;
use object_store::ObjectStore;
use reqwest::{
    Client, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc};

/// Bytes of the longest response that is read.
const MAX_RESPONSE: usize = 64 << 20;

/// Pages of a list at most, of a thousand files each.
const MAX_PAGES: usize = 10_000;

/// A dataset at a commit.
pub(super) struct Dataset {
    pub(super) store: Arc<dyn ObjectStore>,
    /// What its paths begin with in the store.
    pub(super) root: String,
    /// Its files.
    pub(super) files: BTreeMap<String, Described>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The dataset of a URL, with its files in the directory `below` and the directories below that.
pub(super) async fn dataset(
    url: &Url,
    below: &str,
    config: &RemoteConfig,
) -> Result<Dataset, RemoteError> {
    let shown = match below {
        "" => url.origin.clone(),
        _ => url.of(below),
    };
    if hub_env::is_offline() {
        return Err(RemoteError::Offline { url: shown });
    }
    let endpoint = hub_env::endpoint();
    let headers = headers().map_err(|message| RemoteError::Address {
        url: shown.clone(),
        message,
    })?;
    let invalid = |error: &dyn std::error::Error| RemoteError::Address {
        url: endpoint.clone(),
        message: cause(error),
    };
    let client = Client::builder()
        .default_headers(headers.clone())
        .connect_timeout(config.patience)
        .read_timeout(config.patience)
        .https_only(endpoint.to_ascii_lowercase().starts_with("https://"))
        .build()
        .map_err(|error| invalid(&error))?;
    let name = url.origin.trim_start_matches("hf://").to_owned();
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name.to_owned(), revision.replace("%2F", "/")),
        None => (name, "main".to_owned()),
    };
    let hub = Hub {
        client,
        url: &shown,
        config: config.at_first(),
    };
    let revision = format!(
        "{endpoint}/api/{}/revision/{}",
        encode(&name),
        hub_env::encode(&revision)
    );
    let (Revision { sha }, _) = hub.ask(&revision).await?;
    if !(1..=128).contains(&sha.len()) || !sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(RemoteError::Address {
            url: shown,
            message: format!("the hub calls its commit {sha:?}; expected a hexadecimal number"),
        });
    }
    let mut tree = format!("{endpoint}/api/{}/tree/{sha}", encode(&name));
    if !below.is_empty() {
        tree += &format!("/{}", encode(below));
    }
    let mut page = Some(tree + "?recursive=true");
    let mut files = BTreeMap::new();
    for _ in 0..MAX_PAGES {
        let Some(address) = page.take() else { break };
        let (entries, next): (Vec<Entry>, _) = hub.ask(&address).await?;
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            let described = Described {
                bytes: entry.lfs.as_ref().map_or(entry.size, |lfs| lfs.size),
                // The storage the hub refers to has its own.
                etag: None,
                modified: None,
                sha256: entry.lfs.map(|lfs| lfs.oid.to_ascii_lowercase()),
            };
            files.insert(entry.path, described);
        }
        if let Some(next) = &next
            && !next.starts_with(&format!("{endpoint}/"))
        {
            return Err(RemoteError::Address {
                url: shown,
                message: format!(
                    "the hub's list continues at {next}; expected an address of {endpoint}"
                ),
            });
        }
        page = next;
    }
    let store = web(&endpoint, config, headers).map_err(|error| invalid(&error))?;
    Ok(Dataset {
        store: Arc::new(store),
        root: format!("{name}/resolve/{sha}"),
        files,
    })
}

/// The token, which goes to the hub alone: another host that it redirects to is not sent it.
fn headers() -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if let Some(token) = hub_env::token() {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| "the token (HF_TOKEN) has characters that none has".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

struct Hub<'a> {
    client: Client,
    /// The dataset, for messages.
    url: &'a str,
    config: RemoteConfig,
}

impl Hub<'_> {
    /// A response in JSON, and the address of the next page.
    async fn ask<T: DeserializeOwned>(
        &self,
        address: &str,
    ) -> Result<(T, Option<String>), RemoteError> {
        again(self.url, &self.config, async || {
            let broken = |error: reqwest::Error| Fault::Broken(cause(&error));
            let mut response = self.client.get(address).send().await.map_err(broken)?;
            self.check(&response)?;
            let next = next_page(response.headers());
            let mut text = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(broken)? {
                text.extend_from_slice(&piece);
                if text.len() > MAX_RESPONSE {
                    return Err(
                        self.invalid(format!("the hub sends more than {MAX_RESPONSE} bytes"))
                    );
                }
            }
            let parsed = serde_json::from_slice(&text);
            let parsed =
                parsed.map_err(|error| Fault::Broken(format!("the hub's response: {error}")))?;
            Ok((parsed, next))
        })
        .await
    }

    fn check(&self, response: &Response) -> Result<(), Fault> {
        let url = self.url.to_owned();
        let status = response.status();
        Err(match status {
            StatusCode::NOT_FOUND => Fault::Final(RemoteError::Missing { url }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Final(RemoteError::Denied {
                url,
                message: status.to_string(),
            }),
            _ if status.is_success() => return Ok(()),
            StatusCode::TOO_MANY_REQUESTS => Fault::Broken(status.to_string()),
            _ if status.is_server_error() => Fault::Broken(status.to_string()),
            _ => self.invalid(status.to_string()),
        })
    }

    fn invalid(&self, message: String) -> Fault {
        Fault::Final(RemoteError::Address {
            url: self.url.to_owned(),
            message,
        })
    }
}

/// The address that a `Link` header calls the next.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = next.trim().strip_prefix('<')?.split_once('>')?.0;
    Some(address.to_owned())
}

/// A path as written in addresses.
fn encode(path: &str) -> String {
    let segments: Vec<String> = path.split('/').map(hub_env::encode).collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        let link =
            "<https://hub/api?cursor=a>; rel=\"prev\", <https://hub/api?cursor=b>; rel=\"next\"";
        headers.insert(LINK, HeaderValue::from_static(link));
        assert_eq!(
            next_page(&headers).as_deref(),
            Some("https://hub/api?cursor=b")
        );
        assert_eq!(encode("a b/c"), "a%20b/c");
    }
}
