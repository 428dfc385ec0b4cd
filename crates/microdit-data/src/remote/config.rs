//! Where shards are kept, and how long a server is waited for.

use super::error::RemoteError;
use microdit::hub_env;
use std::{path::PathBuf, str::FromStr, time::Duration};

/// How data are fetched; the same for all lists of shards of a process, and no part of a recipe, since it says nothing about them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RemoteConfig {
    /// Directory that shards are kept in: `MICRODIT_CACHE`, or else `microdit` beside the hub's cache.
    pub(super) cache: PathBuf,
    /// Bytes of all shards kept there: `MICRODIT_CACHE_GIB`, 0.001 to 1,000,000, 64 unless it is set.
    pub(super) room: u64,
    /// How long a server may be silent: `MICRODIT_TIMEOUT` in seconds, 1 to 3600, 20 unless it is set.
    pub(super) patience: Duration,
    /// How often a server is asked again without having sent a new byte: `MICRODIT_RETRIES`, 0 to 100, 10 unless it is set.
    pub(super) retries: u32,
    /// Pause before it is asked for the second time, half a second; each is twice as long as the one before, up to half a minute.
    pub(super) pause: Duration,
}

/// Times a server that has not yet responded is asked again at most: a wrong address should be noticed soon.
const FIRST_RETRIES: u32 = 4;

impl RemoteConfig {
    /// The same, for a server that has not yet responded.
    pub(super) fn at_first(&self) -> Self {
        Self {
            retries: self.retries.min(FIRST_RETRIES),
            ..self.clone()
        }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// A variable out of its range; no directory for the cache.
    pub(super) fn from_env() -> Result<Self, RemoteError> {
        let cache = std::env::var_os("MICRODIT_CACHE").filter(|cache| !cache.is_empty());
        let beside = || Some(hub_env::home()?.join("microdit"));
        let cache = cache.map(PathBuf::from).or_else(beside);
        let cache = cache.ok_or(RemoteError::NoHome)?;
        let gib = number("MICRODIT_CACHE_GIB", 64.0, 1e-3, 1e6)?;
        let seconds = number("MICRODIT_TIMEOUT", 20.0, 1.0, 3600.0)?;
        Ok(Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            room: (gib * f64::from(1 << 30)) as u64,
            patience: Duration::from_secs_f64(seconds),
            retries: number("MICRODIT_RETRIES", 10, 0, 100)?,
            pause: Duration::from_millis(500),
        })
    }
}

/// The number of that name in the environment.
fn number<T: FromStr + PartialOrd + std::fmt::Display>(
    name: &'static str,
    default: T,
    least: T,
    most: T,
) -> Result<T, RemoteError> {
    let Some(text) = std::env::var_os(name).filter(|text| !text.is_empty()) else {
        return Ok(default);
    };
    let text = text.to_string_lossy();
    match text.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(RemoteError::Setting {
            name,
            found: text.into_owned(),
            expected: format!("a number from {least} to {most}"),
        }),
    }
}
