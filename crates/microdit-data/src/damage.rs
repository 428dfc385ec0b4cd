//! Damage to a list of shards, judged against all its samples: one bad shard costs that shard, and only a list that is bad
//! as a whole stops a run.

use crate::{error::DataError, left_out::reasons};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts by reason.
type Counts = BTreeMap<String, usize>;

/// What is known about the damage to a list of shards.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Of all shards of the list.
    bytes: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    shards: BTreeMap<PathBuf, Reading>,
    /// Of these shards.
    bytes: u64,
    samples: usize,
    damaged: usize,
}

/// Of the readings of a shard, the one that found the most damage: a resumed run may decode a part of a shard only.
#[derive(Debug, Default)]
struct Reading {
    samples: usize,
    damaged: usize,
    reasons: Counts,
}

impl Ledger {
    /// Of shards of these lengths.
    pub(crate) fn new(lengths: impl IntoIterator<Item = u64>) -> Self {
        Self {
            bytes: lengths.into_iter().sum(),
            known: Mutex::default(),
        }
    }

    /// Samples of the list, by the bytes of the shards read so far; exact once all were read, 0 before the first.
    pub(crate) fn samples(&self) -> f64 {
        self.expected(&self.lock())
    }

    fn expected(&self, known: &Known) -> f64 {
        match known.bytes {
            0 => known.samples as f64,
            read => known.samples as f64 * (self.bytes.max(read) as f64 / read as f64),
        }
    }

    /// Keeps what a reading found, if it found more than those before.
    fn keep(&self, shard: &Path, bytes: u64, samples: usize, counts: &Counts) {
        let damaged: usize = counts.values().sum();
        let mut known = self.lock();
        let before = known.shards.get(shard);
        if before.is_some_and(|before| before.damaged >= damaged) {
            return;
        }
        let reading = Reading {
            samples,
            damaged,
            reasons: counts.clone(),
        };
        known.samples += samples;
        known.damaged += damaged;
        match known.shards.insert(shard.to_owned(), reading) {
            Some(before) => {
                known.samples -= before.samples;
                known.damaged -= before.damaged;
            }
            None => known.bytes += bytes,
        }
    }

    /// Checks that at most that share of the list is damaged.
    ///
    /// # Errors
    /// If it is more.
    fn within(&self, share: f64) -> Result<(), DataError> {
        let known = self.lock();
        let expected = self.expected(&known);
        if known.damaged as f64 <= share * expected {
            return Ok(());
        }
        let worst = known.shards.iter().max_by_key(|(_, found)| found.damaged);
        let shard = worst.map(|(path, _)| path.clone()).unwrap_or_default();
        let mut all = Counts::new();
        for (reason, count) in known.shards.values().flat_map(|found| &found.reasons) {
            *all.entry(reason.clone()).or_default() += count;
        }
        Err(DataError::TooDamaged {
            shard,
            damaged: known.damaged,
            of: match known.bytes < self.bytes {
                true => format!("about {expected:.0}"),
                false => known.samples.to_string(),
            },
            reasons: reasons(&all),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one reading of a shard finds damaged.
#[derive(Debug)]
pub struct Damage {
    ledger: Arc<Ledger>,
    shard: PathBuf,
    bytes: u64,
    samples: usize,
    counts: Mutex<Counts>,
}

impl Damage {
    /// Of a shard at this place, of so many bytes and samples, some of which are known to be damaged, and why.
    pub(crate) fn new<'a>(
        ledger: &Arc<Ledger>,
        shard: &Path,
        bytes: u64,
        samples: usize,
        lacks: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let damage = Self {
            ledger: Arc::clone(ledger),
            shard: shard.to_owned(),
            bytes,
            samples,
            counts: Mutex::default(),
        };
        lacks.into_iter().for_each(|lack| damage.count(lack));
        damage
    }

    /// The file name of the shard.
    pub(crate) fn shard(&self) -> String {
        let name = self.shard.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Counts one more.
    pub(crate) fn count(&self, lack: &str) {
        let kind = lack.split(": ").next().unwrap_or(lack).to_owned();
        *self.lock().entry(kind).or_default() += 1;
    }

    /// Checks that at most that share of the shard's list is damaged, as far as it was read.
    ///
    /// # Errors
    /// If it is more.
    pub(crate) fn within(&self, share: f64) -> Result<(), DataError> {
        self.ledger
            .keep(&self.shard, self.bytes, self.samples, &self.lock());
        self.ledger.within(share)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger of shards with so many bytes.
    fn ledger<const N: usize>(lengths: [u64; N]) -> (Arc<Ledger>, [PathBuf; N]) {
        let paths = std::array::from_fn(|i| PathBuf::from(format!("{i}.tar")));
        (Arc::new(Ledger::new(lengths)), paths)
    }

    #[test]
    fn damage_is_judged_against_the_whole_list() {
        let (ledger, paths) = ledger([100, 300]);
        assert_eq!(ledger.samples(), 0.0);
        // Nine of ten samples of the first shard, which holds a quarter of the bytes: 9 of about 40.
        let first = Damage::new(&ledger, &paths[0], 100, 10, ["no image"; 9]);
        assert!(first.within(9.0 / 40.0).is_ok());
        let error = first.within(8.9 / 40.0).unwrap_err().to_string();
        assert!(error.contains("9 of about 40 samples"), "{error}");
        // The second shard turns out to hold 50.
        let second = Damage::new(&ledger, &paths[1], 300, 50, []);
        assert!(second.within(9.0 / 60.0).is_ok());
        let error = second.within(8.9 / 60.0).unwrap_err().to_string();
        assert!(
            error.starts_with("9 of 60 samples are damaged") && error.contains("0.tar: 9 no image"),
            "{error}"
        );
    }

    #[test]
    fn readings_of_one_shard_are_not_added_up() {
        let (ledger, paths) = ledger([100]);
        for damaged in [1, 3, 2, 3] {
            let reading = Damage::new(&ledger, &paths[0], 100, 10, vec!["no caption"; damaged]);
            assert!(reading.within(0.3).is_ok());
            reading.count("its decoder panicked");
            if damaged < 3 {
                assert!(reading.within(0.3).is_ok());
            }
        }
        let reading = Damage::new(&ledger, &paths[0], 100, 10, ["no caption"; 3]);
        reading.count("a bad image: cut off");
        let error = reading.within(0.3).unwrap_err().to_string();
        assert!(
            error.contains("4 of 10") && error.contains("3 no caption, 1 a bad image"),
            "{error}"
        );
    }
}
