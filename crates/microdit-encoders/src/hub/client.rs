//! Requests to the hub; its token is sent nowhere else.
//!
//! Built on an HTTP client and not on the crate `hf-hub`: its version 0.5 hands the token to the host a download is redirected
//! to, takes any text of the server as a file name and waits forever; 1.0 brings an asynchronous runtime and a second client.

use super::cache::{BRANCH, is_hexadecimal};
use microdit::hub_env;
use std::time::Duration;
use ureq::{
    Agent, Body, SendBody,
    http::{Response, Uri, header, header::HeaderMap, uri::Authority},
};

/// Redirects of one request at most.
const MAX_REDIRECTS: usize = 5;

/// Bytes of the largest file that is downloaded.
const MAX_SIZE: u64 = 1 << 40;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the hub may think about what it was sent: it checks large files before it answers.
const THOUGHT: Duration = Duration::from_secs(600);

/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 1 << 20;

/// How a request writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    Post,
    Put,
}

/// An answer to a request that writes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The storage's mark of what it has received.
    pub(super) etag: Option<String>,
    pub(super) text: String,
}

/// A request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub refuses, or its response is unusable: retrying is pointless.
    Final(String),
    /// The connection broke or timed out.
    Broken(String),
}

/// What the hub says about a file.
#[derive(Debug, PartialEq)]
pub(super) struct Described {
    /// SHA-256 of a large file, git's SHA-1 of a small one, or a mirror's own mark.
    pub(super) checksum: String,
    pub(super) commit: String,
    pub(super) size: u64,
}

/// A hub or a mirror of it.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// The hub that `HF_ENDPOINT` names, read with `HF_TOKEN` or the token in the cache. `HF_HUB_DOWNLOAD_TIMEOUT` is how many
    /// seconds it may be silent.
    pub(super) fn from_env() -> Self {
        let patience = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok();
        let patience = patience.and_then(|text| text.parse().ok());
        let patience = patience.map_or(PATIENCE, |seconds: u16| {
            Duration::from_secs(seconds.max(1).into())
        });
        let config = Agent::config_builder()
            .user_agent(concat!("microdit/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed here, because every host must be checked.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_send_request(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience));
        Self {
            agent: config.build().into(),
            endpoint: hub_env::endpoint(),
            token: hub_env::token(),
        }
    }

    /// What the hub says about a file.
    pub(super) fn describe(&self, repository: &str, file: &str) -> Result<Described, Failure> {
        let (response, told) = self.get(repository, file, "bytes=0-0")?;
        let size = size(&response)?;
        if size > MAX_SIZE {
            return Err(Failure::Final(format!(
                "it would have {size} bytes; at most {MAX_SIZE} are downloaded"
            )));
        }
        let name = |what: &str, value: Option<String>| match value {
            Some(value) if is_hexadecimal(&value) => Ok(value),
            Some(value) => Err(Failure::Final(format!(
                "the server's {what} is `{}`; expected a hexadecimal number",
                value.chars().take(100).collect::<String>()
            ))),
            None => Err(Failure::Final(format!("the server gives no {what} for it"))),
        };
        Ok(Described {
            checksum: name("checksum (ETag)", told.checksum)?.to_ascii_lowercase(),
            commit: name("commit (X-Repo-Commit)", told.commit)?,
            size,
        })
    }

    /// The content of a file of `size` bytes from `begin`, and whether it begins at 0 instead.
    pub(super) fn content(
        &self,
        repository: &str,
        file: &str,
        begin: u64,
        size: u64,
    ) -> Result<(Body, bool), Failure> {
        let (response, _) = self.get(repository, file, &format!("bytes={begin}-"))?;
        let range = text(response.headers(), "content-range");
        let from_start = response.status().as_u16() == 200;
        let expected = format!("bytes {begin}-{}/{size}", size.saturating_sub(1));
        if !from_start && range.as_deref() != Some(&expected) {
            let range = range.unwrap_or_default();
            return Err(Failure::Broken(format!(
                "the server sends `{range}`; expected `{expected}`"
            )));
        }
        Ok((response.into_body(), from_start))
    }

    /// The hub's own address of `path`.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// Whether there is a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Sends `body` to `address`, which is the hub's own or one that it named; the token goes to the hub alone. Redirects are not
    /// followed: mirrors that only read answer by one.
    pub(super) fn send(
        &self,
        write: Write,
        address: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
    ) -> Result<Answer, Failure> {
        let (uri, hub) = (parse(address)?, parse(&self.endpoint)?);
        if hub.scheme_str() == Some("https") && uri.scheme_str() != Some("https") {
            return Err(Failure::Final(format!(
                "it is to be sent to {uri}, which anybody on the way can read"
            )));
        }
        let request = match write {
            Write::Post => self.agent.post(&uri),
            Write::Put => self.agent.put(&uri),
        };
        let mut request = request
            .config()
            .timeout_recv_response(Some(THOUGHT))
            .build();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let at_hub = origin(&uri) == origin(&hub);
        if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut response = request.send(body).map_err(failed)?;
        let status = response.status().as_u16();
        if status == 429 || status >= 500 {
            return Err(Failure::Broken(format!("http status: {status}")));
        }
        let etag = text(response.headers(), "etag");
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        Ok(Answer {
            status,
            etag,
            text: body.read_to_string().map_err(failed)?,
        })
    }

    /// Requests a file, following redirects; also returns what the hub itself says about it.
    fn get(
        &self,
        repository: &str,
        file: &str,
        range: &str,
    ) -> Result<(Response<Body>, Told), Failure> {
        let path: Vec<String> = file.split('/').map(hub_env::encode).collect();
        let path = path.join("/");
        let uri = format!("{}/{repository}/resolve/{BRANCH}/{path}", self.endpoint);
        let mut uri = parse(&uri)?;
        let hub = origin(&uri);
        let mut told = Told::default();
        for _ in 0..=MAX_REDIRECTS {
            let at_hub = origin(&uri) == hub;
            let mut request = self.agent.get(&uri).header(header::RANGE, range);
            // A compressed response has no ranges of the file.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(failed)?;
            if at_hub {
                told.listen(response.headers());
            }
            let status = response.status();
            if status.is_redirection() {
                let location = text(response.headers(), "location").unwrap_or_default();
                uri = redirected(&uri, &location)?;
                continue;
            }
            let empty = status.as_u16() == 416 && size(&response).is_ok_and(|size| size == 0);
            return match status.as_u16() {
                200 | 206 => Ok((response, told)),
                _ if empty => Ok((response, told)),
                429 | 500.. => Err(Failure::Broken(format!("http status: {status}"))),
                _ => Err(Failure::Final(format!("http status: {status}"))),
            };
        }
        Err(Failure::Final(format!(
            "it is redirected more than {MAX_REDIRECTS} times"
        )))
    }
}

/// What the hub itself says about a file; other hosts may call it anything.
#[derive(Default)]
struct Told {
    checksum: Option<String>,
    commit: Option<String>,
}

impl Told {
    fn listen(&mut self, headers: &HeaderMap) {
        let linked = text(headers, "x-linked-etag");
        // The hub's own for a small file, that of the storage for a large one.
        if let Some(mark) = linked.or_else(|| text(headers, "etag")) {
            let mark = mark.trim_start_matches("W/").trim_matches('"').to_owned();
            self.checksum.get_or_insert(mark);
        }
        if let Some(commit) = text(headers, "x-repo-commit") {
            self.commit.get_or_insert(commit);
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Bytes of the whole file.
fn size(response: &Response<Body>) -> Result<u64, Failure> {
    let range = text(response.headers(), "content-range");
    let whole = match &range {
        Some(range) => range.rsplit_once('/').map(|(_, size)| size.to_owned()),
        None => text(response.headers(), "content-length"),
    };
    whole
        .and_then(|size| size.parse().ok())
        .ok_or_else(|| Failure::Final("the server does not tell its size".into()))
}

fn failed(error: ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Final(error.to_string()),
        _ => Failure::Broken(error.to_string()),
    }
}

fn parse(uri: &str) -> Result<Uri, Failure> {
    let invalid = || Failure::Final(format!("`{uri}` is not an address"));
    let parsed: Uri = uri.parse().map_err(|_| invalid())?;
    match (parsed.scheme_str(), parsed.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(parsed),
        _ => Err(invalid()),
    }
}

/// Scheme, host and port: what a token is for.
fn origin(uri: &Uri) -> (String, String, Option<u16>) {
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        _ => Some(80),
    });
    (scheme, host, port)
}

/// Where a response from `uri` redirects to.
fn redirected(uri: &Uri, location: &str) -> Result<Uri, Failure> {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", Authority::as_str);
    let target = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        return Err(Failure::Final(format!(
            "it is redirected to `{location}`, which is not an address"
        )));
    };
    let target = parse(&target)?;
    if scheme == "https" && target.scheme_str() != Some("https") {
        return Err(Failure::Final(format!(
            "it is redirected to {target}, which anybody on the way can read and replace"
        )));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_addresses_and_never_to_plain_text() {
        let from = parse("https://hub.example/a/b?c").unwrap();
        for (location, target) in [
            ("/d?e=1", Some("https://hub.example/d?e=1")),
            ("//other.example/d", Some("https://other.example/d")),
            (
                "https://other.example:8443/d",
                Some("https://other.example:8443/d"),
            ),
            ("http://hub.example/d", None),
            ("file:///etc/passwd", None),
            ("ftp://other.example/", None),
            ("d", None),
            ("", None),
        ] {
            let found = redirected(&from, location).ok().map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), target, "{location}");
        }
        let same = |a: &str, b: &str| origin(&parse(a).unwrap()) == origin(&parse(b).unwrap());
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://hub.example.org/",
        ] {
            assert!(!same("https://hub.example/", other), "{other}");
        }
    }
}
