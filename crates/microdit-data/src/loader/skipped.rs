//! What a loader leaves out: reported when it is first found, and summed up at the end.

use super::MAX_UNDECODABLE;
use crate::{
    error::DataError,
    left_out::reasons,
    sample::Sample,
    shards::Incomplete,
    stream::{Lack, LostShard, Samples},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Damaged samples that are named; further ones are only counted.
const MAX_NAMED: usize = 1000;

/// Shards that a summary names.
const MAX_SHARDS: usize = 5;

/// What a loader has left out of all it has read, which is a little more than it has delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How often samples were left out, by reason: every pass over the data meets them again.
    pub samples: BTreeMap<String, u64>,
    /// Shards without a usable sample, and why.
    pub shards: BTreeMap<PathBuf, String>,
}

impl Skipped {
    fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.shards.is_empty()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.samples.is_empty() {
            let count: u64 = self.samples.values().sum();
            let reasons = reasons(&self.samples);
            parts.push(format!("samples were left out {count} times ({reasons})"));
        }
        if !self.shards.is_empty() {
            let named = self.shards.iter().take(MAX_SHARDS);
            let mut named: Vec<String> = named
                .map(|(path, why)| format!("{}: {why}", path.display()))
                .collect();
            if self.shards.len() > MAX_SHARDS {
                named.push("...".into());
            }
            let (count, named) = (self.shards.len(), named.join("; "));
            parts.push(format!("{count} shards were left out as a whole ({named})"));
        }
        f.write_str(&parts.join(", "))
    }
}

/// Counts what is left out and names it the first time.
#[derive(Debug, Default)]
pub(super) struct Tally {
    skipped: Arc<Mutex<Skipped>>,
    /// Those already named.
    named: HashSet<String>,
    /// Samples that could not be decoded since the last that could.
    pub(super) in_a_row: usize,
}

impl Tally {
    /// Counts into `skipped`.
    pub(super) fn new(skipped: Arc<Mutex<Skipped>>) -> Self {
        Self {
            skipped,
            ..Self::default()
        }
    }

    /// Counts a sample that was read but is of no use.
    pub(super) fn useless(&mut self, sample: &Sample, error: &str) {
        self.sample(name(sample), &format!("has no use ({error})"), error);
        sample.damage.iter().for_each(|damage| damage.count(error));
        self.in_a_row += 1;
    }

    /// Counts a sound sample that is not used in this pass.
    pub(super) fn given_up(&mut self, sample: &Sample, why: &str) {
        self.sample(name(sample), &format!("has {why}"), why);
    }

    /// Checks that not everything was of no use since the last sample that was used.
    ///
    /// # Errors
    /// If it was, for more than a pass over the data.
    pub(super) fn within(&self, samples: &Samples) -> Result<(), DataError> {
        match self.in_a_row as f64 > samples.pass() + MAX_UNDECODABLE as f64 {
            true => Err(DataError::NothingDecodes(self.in_a_row)),
            false => Ok(()),
        }
    }

    /// Counts what a shard lacks.
    pub(super) fn lack(&mut self, lack: Lack) {
        match lack {
            Lack::Part(Incomplete { shard, key, lack }) => match key {
                Some(key) => {
                    let name = format!("{shard}: sample {key}");
                    self.sample(name, &format!("has {lack}"), &lack);
                }
                None => {
                    let name = format!("{shard}: its rest");
                    self.sample(name, &format!("cannot be read: {lack}"), &lack);
                }
            },
            Lack::Shard(LostShard { path, error, .. }) => {
                let why = error.reason();
                let known = lock(&self.skipped).shards.insert(path.clone(), why.clone());
                if known.is_none() {
                    tracing::warn!("{}: {why}; the shard is skipped", path.display());
                }
            }
        }
    }

    fn sample(&mut self, what: String, lack: &str, reason: &str) {
        // What follows a colon belongs to this sample alone.
        let kind = reason.split(": ").next().unwrap_or(reason).to_owned();
        let count = {
            let mut skipped = lock(&self.skipped);
            *skipped.samples.entry(kind).or_default() += 1;
            skipped.samples.values().sum::<u64>()
        };
        if self.named.len() < MAX_NAMED && !self.named.contains(&what) {
            tracing::warn!("{what} {lack}; it is skipped ({count} so far)");
            self.named.insert(what);
        }
    }
}

/// What messages call a sample.
fn name(sample: &Sample) -> String {
    let shard = sample.damage.as_ref().map(|damage| damage.shard() + ": ");
    format!("{}sample {}", shard.unwrap_or_default(), sample.key)
}

/// What has been left out so far, if anything.
pub(super) fn so_far(skipped: &Mutex<Skipped>) -> Option<Skipped> {
    let skipped = lock(skipped).clone();
    (!skipped.is_empty()).then_some(skipped)
}

fn lock(skipped: &Mutex<Skipped>) -> MutexGuard<'_, Skipped> {
    skipped.lock().unwrap_or_else(PoisonError::into_inner)
}
