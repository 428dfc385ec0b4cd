//! Samples skipped by the loader, each named once.

use crate::shards::Incomplete;
use std::collections::HashSet;

/// How many damaged samples are named; further ones are only counted.
const MAX_NAMED: usize = 1000;

/// Samples that were left out.
#[derive(Default)]
pub(super) struct Skipped {
    count: u64,
    /// Those already named: every pass over the data meets them again.
    named: HashSet<String>,
    /// Undecodable samples since the last good one.
    pub(super) in_a_row: usize,
}

impl Skipped {
    pub(super) fn note(&mut self, what: String, lack: &str) {
        self.count += 1;
        if self.named.len() < MAX_NAMED && !self.named.contains(&what) {
            tracing::warn!("{what} {lack}; it is skipped ({} so far)", self.count);
            self.named.insert(what);
        }
    }

    pub(super) fn incomplete(&mut self, Incomplete { shard, key, lack }: Incomplete) {
        match key {
            Some(key) => self.note(format!("{shard}: sample {key}"), &format!("has {lack}")),
            None => self.note(
                format!("{shard}: its rest"),
                &format!("cannot be read: {lack}"),
            ),
        }
    }
}
