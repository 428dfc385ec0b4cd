//! Addresses of shards.

#[cfg(feature = "remote")]
use super::error::RemoteError;

/// Whether this is a URL and not a path.
pub(crate) fn is_url(spec: &str) -> bool {
    let scheme = spec.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        // One letter is a drive.
        scheme.len() > 1
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

/// What is asked by which means.
#[cfg(feature = "remote")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    S3,
    Gs,
    Az,
    Hub,
}

/// A URL taken apart.
#[cfg(feature = "remote")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Server, bucket, or dataset of the hub with its revision, if it names one: `https://HOST`, `s3://BUCKET`,
    /// `hf://datasets/OWNER/NAME@REVISION`.
    pub(super) origin: String,
    /// Path below it, without a slash at either end.
    pub(super) path: String,
}

#[cfg(feature = "remote")]
impl Url {
    pub(super) fn parse(url: &str) -> Result<Self, RemoteError> {
        let invalid = |message: &str| RemoteError::Address {
            // What follows may be a secret.
            url: url.split(['?', '#']).next().unwrap_or(url).to_owned(),
            message: message.to_owned(),
        };
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Scheme::Http,
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "hf" => Scheme::Hub,
            _ => {
                return Err(invalid(
                    "an unknown kind of URL; expected one that begins with https://, http://, s3://, gs://, az:// or hf://",
                ));
            }
        };
        let (origin, path) = match scheme {
            Scheme::Hub => dataset(rest).ok_or_else(|| {
                invalid("expected hf://datasets/OWNER/NAME/PATH, with @REVISION after NAME unless it is main")
            })?,
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        if origin.is_empty() {
            return Err(invalid("it names no server or bucket"));
        }
        if scheme == Scheme::Http {
            if origin.contains('@') {
                return Err(RemoteError::Address {
                    url: format!("https://{}", origin.rsplit('@').next().unwrap_or_default()),
                    message:
                        "a name and password in a URL end up in records and logs; expected none"
                            .into(),
                });
            }
            if path.contains(['?', '#']) {
                return Err(invalid(
                    "what follows ? or # would end up in records and logs; expected a URL without",
                ));
            }
        }
        Ok(Self {
            scheme,
            origin: url[..url.len() - rest.len() + origin.len()].to_owned(),
            path: path.trim_matches('/').to_owned(),
        })
    }

    /// The address of another path of the same origin.
    pub(super) fn of(&self, path: &str) -> String {
        format!("{}/{path}", self.origin)
    }
}

/// `datasets/OWNER/NAME[@REVISION]`, and what follows.
#[cfg(feature = "remote")]
fn dataset(rest: &str) -> Option<(&str, &str)> {
    let mut slashes = rest.match_indices('/').map(|(at, _)| at);
    let (kind, owner) = (slashes.next()?, slashes.next()?);
    let name = &rest[owner + 1..];
    // Revisions such as refs/convert/parquet have slashes of their own.
    let parts = match name.split('/').next()?.split_once('@') {
        Some((_, "refs")) => 3,
        _ => 1,
    };
    let length = match name.match_indices('/').nth(parts - 1) {
        Some((at, _)) => at,
        None => name.len(),
    };
    let (origin, path) = rest.split_at(owner + 1 + length);
    let whole = &rest[..kind] == "datasets" && owner > kind + 1 && length > 0;
    whole.then(|| (origin, path.trim_start_matches('/')))
}

#[cfg(all(test, feature = "remote"))]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for url in [
            "s3://bucket/a.tar",
            "https://host/{0..9}.tar",
            "HTTP://host",
            "foo+bar://x",
        ] {
            assert!(is_url(url), "{url}");
        }
        for path in [
            "a/b.tar",
            "c://a.tar",
            "://a",
            "s3:/a",
            "1s://a",
            "a b://c",
            "/s3://a",
        ] {
            assert!(!is_url(path), "{path}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, origin, path) in [
            ("https://host:8/a/b.tar", "https://host:8", "a/b.tar"),
            ("s3://bucket", "s3://bucket", ""),
            ("az://container@account/a/", "az://container@account", "a"),
            ("hf://datasets/o/n/d/0.tar", "hf://datasets/o/n", "d/0.tar"),
            (
                "hf://datasets/o/n@v1/0.tar",
                "hf://datasets/o/n@v1",
                "0.tar",
            ),
            (
                "hf://datasets/o/n@refs/convert/parquet/d/0.parquet",
                "hf://datasets/o/n@refs/convert/parquet",
                "d/0.parquet",
            ),
            ("hf://datasets/o/n", "hf://datasets/o/n", ""),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!(
                (parsed.origin.as_str(), parsed.path.as_str()),
                (origin, path)
            );
        }
        for (url, expected) in [
            ("ftp://host/a.tar", "begins with https://"),
            ("s3:///a.tar", "no server or bucket"),
            ("hf://models/o/n/a.tar", "hf://datasets/OWNER/NAME"),
            ("hf://datasets/n", "hf://datasets/OWNER/NAME"),
            ("https://host/a.tar?X-Amz-Signature=secret", "without"),
            ("https://name:secret@host/a.tar", "expected none"),
        ] {
            let error = Url::parse(url).unwrap_err().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
