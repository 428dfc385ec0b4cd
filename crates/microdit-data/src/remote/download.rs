//! Objects of a store, range by range; a connection that breaks costs only what had not arrived.

use super::{config::RemoteConfig, error::RemoteError};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path,
};
use std::{
    error::Error,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    ops::Range,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Runtime, time};

/// Bytes of one request; a usual shard takes a dozen.
const CHUNK: u64 = 8 << 20;

/// Requests at a time for one object.
const AT_ONCE: usize = 8;

/// How long a pause before the next try becomes at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What waits for servers.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // The connections' own choice of cryptography; somebody else may have made it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("remote")
        .enable_all()
        .build()
        .expect("two threads can be started")
});

/// Waits for `work` on this thread.
pub(super) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

/// Why a response is of no use.
#[derive(Debug)]
pub(super) enum Fault {
    /// Asking again is pointless.
    Final(RemoteError),
    /// The server sends objects only as a whole.
    NoRanges,
    /// The connection broke, or there was none.
    Broken(String),
    /// The response is about something else than was promised.
    Differs {
        what: &'static str,
        expected: String,
        found: String,
    },
}

impl Fault {
    /// A length that is not the promised one.
    fn length(expected: u64, found: u64) -> Self {
        Self::Differs {
            what: "length",
            expected: format!("{expected} bytes"),
            found: format!("{found}"),
        }
    }

    /// The error, once the object was asked for so many times.
    pub(super) fn after(self, url: &str, tries: u32) -> RemoteError {
        let url = url.to_owned();
        match self {
            Self::Final(error) => error,
            Self::NoRanges => RemoteError::Unreachable {
                url,
                message: "the server sends no ranges".into(),
                tries,
            },
            Self::Broken(message) => RemoteError::Unreachable {
                url,
                message,
                tries,
            },
            Self::Differs {
                what,
                expected,
                found,
            } => RemoteError::Differs {
                url,
                what,
                expected,
                found,
                tries,
            },
        }
    }
}

/// What is promised about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) bytes: u64,
    pub(super) etag: Option<String>,
    /// When it was changed, in milliseconds.
    pub(super) modified: Option<i64>,
    /// SHA-256 of the content, in hexadecimal.
    pub(super) sha256: Option<String>,
}

impl Described {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        // The store says 1970 where the server does not say.
        let modified = Some(meta.last_modified.timestamp_millis());
        Self {
            bytes: meta.size,
            etag: meta.e_tag.clone(),
            modified: modified.filter(|time| *time > 0),
            sha256: None,
        }
    }

    fn check(&self, meta: &ObjectMeta) -> Result<(), Fault> {
        if meta.size != self.bytes {
            return Err(Fault::length(self.bytes, meta.size));
        }
        match (&self.etag, &meta.e_tag) {
            (Some(expected), Some(found)) if expected != found => Err(Fault::Differs {
                what: "ETag",
                expected: expected.clone(),
                found: found.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// An object that is asked for.
pub(super) struct Asked<'a> {
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) path: &'a Path,
    pub(super) url: &'a str,
    pub(super) config: &'a RemoteConfig,
}

impl Asked<'_> {
    /// What the store says about it.
    pub(super) async fn describe(&self) -> Result<Described, RemoteError> {
        let head = async || self.answer(self.store.head(self.path)).await;
        let meta = again(self.url, &self.config.at_first(), head).await?;
        Ok(Described::of(&meta))
    }

    /// All of a small object; none if there is no such object, or none that may be read.
    pub(super) async fn small(&self, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let get = async || {
            let result = self.answer(self.store.get(self.path)).await?;
            let size = result.meta.size;
            if size > most {
                return Err(Fault::Final(RemoteError::Address {
                    url: self.url.to_owned(),
                    message: format!("it has {size} bytes; expected at most {most}"),
                }));
            }
            let mut content = Vec::new();
            self.drain(result, size, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .await?;
            Ok(content)
        };
        match again(self.url, &self.config.at_first(), get).await {
            Ok(content) => Ok(Some(content)),
            Err(RemoteError::Missing { .. } | RemoteError::Denied { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands all of an object to `take`, in pieces that begin at the place given with each.
    pub(super) async fn all(
        &self,
        described: &Described,
        take: &(impl Fn(u64, &[u8]) -> io::Result<()> + Sync),
    ) -> Result<(), RemoteError> {
        let begins = (0..described.bytes).step_by(CHUNK as usize);
        let ranges = begins.map(|begin| begin..(begin + CHUNK).min(described.bytes));
        let no_ranges = AtomicBool::new(false);
        let receive = |range| async {
            match self.range(described, range, take).await {
                Err(Fault::NoRanges) => {
                    no_ranges.store(true, Ordering::Relaxed);
                    Err(Fault::NoRanges)
                }
                other => other,
            }
        };
        let received = futures_util::stream::iter(ranges)
            .map(receive)
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await;
        match received {
            Err(Fault::NoRanges) => {
                let whole = async || {
                    self.response(described, None, &mut |at, bytes| take(at, bytes))
                        .await
                };
                again(self.url, self.config, whole).await
            }
            Err(fault) => Err(fault.after(self.url, self.config.retries + 1)),
            Ok(_) => Ok(()),
        }
    }

    /// Hands a range of an object to `take`, resuming where a connection broke: every byte starts the count of tries anew.
    pub(super) async fn range(
        &self,
        described: &Described,
        range: Range<u64>,
        take: impl Fn(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let (mut at, mut breaks) = (range.start, 0);
        while at < range.end {
            let before = at;
            let left = Some(at..range.end);
            let mut keep = |place, bytes: &[u8]| {
                take(place, bytes)?;
                at = place + bytes.len() as u64;
                Ok(())
            };
            let fault = match self.response(described, left, &mut keep).await {
                Ok(()) => return Ok(()),
                Err(fault @ (Fault::Final(_) | Fault::NoRanges)) => return Err(fault),
                Err(fault) => fault,
            };
            breaks = if at > before { 0 } else { breaks };
            if breaks >= self.config.retries {
                return Err(fault);
            }
            pause(self.url, self.config.pause, breaks, &fault).await;
            breaks += 1;
        }
        Ok(())
    }

    /// Asks once, for a range or for all of it.
    async fn response(
        &self,
        described: &Described,
        range: Option<Range<u64>>,
        take: &mut impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let options = GetOptions {
            range: range.clone().map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = self.answer(self.store.get_opts(self.path, options)).await?;
        described.check(&result.meta)?;
        let range = range.unwrap_or(0..described.bytes);
        let mut at = range.start;
        self.drain(result, range.end - range.start, &mut |bytes| {
            take(at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        })
        .await
    }

    /// Hands a body of so many bytes to `take`.
    async fn drain(
        &self,
        result: object_store::GetResult,
        bytes: u64,
        take: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let mut stream = result.into_stream();
        let mut arrived = 0;
        loop {
            let so_far =
                |why: &str| Fault::Broken(format!("{why}, after {arrived} of {bytes} bytes"));
            let Ok(piece) = time::timeout(self.config.patience, stream.next()).await else {
                let seconds = self.config.patience.as_secs_f64();
                return Err(so_far(&format!("the server was silent for {seconds} s")));
            };
            let piece = match piece {
                None if arrived == bytes => return Ok(()),
                None => return Err(Fault::length(bytes, arrived)),
                Some(Err(error)) => return Err(so_far(&cause(&error))),
                Some(Ok(piece)) => piece,
            };
            arrived += piece.len() as u64;
            if arrived > bytes {
                return Err(Fault::length(bytes, arrived));
            }
            take(&piece).map_err(|error| {
                Fault::Final(RemoteError::Address {
                    url: self.url.to_owned(),
                    message: format!("it could not be written: {error}"),
                })
            })?;
        }
    }

    /// A response, in time.
    pub(super) async fn answer<T>(
        &self,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Fault> {
        match time::timeout(self.config.patience, asked).await {
            Ok(answer) => answer.map_err(|error| fault(error, self.url)),
            Err(_) => {
                let seconds = self.config.patience.as_secs_f64();
                let message = format!("the server was silent for {seconds} s");
                Err(Fault::Broken(message))
            }
        }
    }
}

/// Asks until there is an answer, or no point in asking.
pub(super) async fn again<T>(
    url: &str,
    config: &RemoteConfig,
    mut ask: impl AsyncFnMut() -> Result<T, Fault>,
) -> Result<T, RemoteError> {
    let mut breaks = 0;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(fault @ (Fault::Broken(_) | Fault::Differs { .. })) if breaks < config.retries => {
                pause(url, config.pause, breaks, &fault).await;
                breaks += 1;
            }
            Err(fault) => return Err(fault.after(url, breaks + 1)),
        }
    }
}

/// Waits before the next try, a little longer or shorter than others do.
async fn pause(url: &str, first: Duration, breaks: u32, fault: &Fault) {
    let pause = first.saturating_mul(1 << breaks.min(16)).min(LONGEST_PAUSE);
    let mut hasher = DefaultHasher::new();
    (url, std::process::id(), breaks).hash(&mut hasher);
    let pause = pause.mul_f64(0.75 + (hasher.finish() % 64) as f64 / 128.0);
    let reason = match fault {
        Fault::Broken(message) => message.clone(),
        Fault::Differs {
            what,
            expected,
            found,
        } => format!("its {what} differs: expected {expected}, found {found}"),
        Fault::Final(_) | Fault::NoRanges => String::new(),
    };
    tracing::warn!(
        "{url}: {reason}; asked again in {:.1} s",
        pause.as_secs_f64()
    );
    time::sleep(pause).await;
}

/// What a store's error means.
fn fault(error: object_store::Error, url: &str) -> Fault {
    use object_store::Error as Store;
    let url = url.to_owned();
    match error {
        Store::NotFound { .. } => Fault::Final(RemoteError::Missing { url }),
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            let message = cause(&error);
            Fault::Final(RemoteError::Denied { url, message })
        }
        Store::NotSupported { .. } => Fault::NoRanges,
        Store::InvalidPath { .. }
        | Store::NotImplemented { .. }
        | Store::UnknownConfigurationKey { .. } => {
            let message = cause(&error);
            Fault::Final(RemoteError::Address { url, message })
        }
        other => Fault::Broken(cause(&other)),
    }
}

/// What an error goes back to, on one line.
pub(super) fn cause(error: &dyn Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let text = root.to_string();
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}
