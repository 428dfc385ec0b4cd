//! Samples that are left out of the batches, each named once.

use crate::shards::Incomplete;
use std::collections::HashSet;

/// Damaged samples that are named; further ones are only counted.
const MAX_NAMED: usize = 1000;

/// Samples that were left out.
#[derive(Default)]
pub(super) struct Skipped {
    count: u64,
    /// Those that were named already: every pass over the data meets them again.
    named: HashSet<String>,
    /// Samples that could not be decoded since the last that could.
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
