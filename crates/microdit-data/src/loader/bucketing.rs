//! Batches of one shape out of pictures of many: samples wait in the queue of their bucket until it has as many as a batch.
//!
//! What waits is a function of the samples drawn so far alone. A position therefore says which of the last draws still wait, and
//! from where they are drawn again.

use super::{
    Batch, LoaderConfig, collate,
    decode::{Decoded, bucket_of, decode_all, panicked},
    skipped::Tally,
};
use crate::{
    error::DataError,
    sample::{Pending, Position, Sample},
    stream::{Samples, Source},
};
use std::collections::VecDeque;

/// Batches' worth of draws after which a sample that still waits is given up: buckets that hardly ever fill would have a resumed run
/// read all the data again.
const PATIENCE: u64 = 256;

/// The reason for that, as it is counted.
const GIVEN_UP: &str = "a shape so rare that its bucket did not fill";

/// A sample that waits.
struct Waiting {
    /// Its number among all that were drawn.
    number: u64,
    /// Where it was drawn.
    from: Position,
    sample: Sample,
    /// What it was decoded to, if it had to wait again for the place of a damaged one.
    decoded: Option<Decoded>,
}

/// Samples by the buckets of `config`.
pub(super) struct Bucketing {
    samples: Samples,
    queues: Vec<VecDeque<Waiting>>,
    config: LoaderConfig,
}

impl Bucketing {
    /// From `start` on, once what waited there is drawn again.
    ///
    /// # Errors
    /// Unreadable data.
    pub(super) fn new(
        source: Source,
        config: &LoaderConfig,
        start: &Position,
        tally: &mut Tally,
    ) -> Result<Self, DataError> {
        let from = start
            .pending
            .as_ref()
            .map_or(start, |pending| &pending.from);
        let mut own = Self {
            samples: Samples::new(source, config.seed, &config.variation, from),
            queues: config.sizes().iter().map(|_| VecDeque::new()).collect(),
            config: config.clone(),
        };
        if let Some(pending) = &start.pending {
            while own.samples.drawn() < start.drawn {
                let number = own.samples.drawn();
                own.draw(tally, pending.drawn.binary_search(&number).is_ok())?;
            }
        }
        Ok(own)
    }

    /// The next batch.
    ///
    /// # Errors
    /// Unreadable data, and too much damage.
    pub(super) fn next_batch(&mut self, tally: &mut Tally) -> Result<Batch, DataError> {
        let size = self.config.batch;
        loop {
            let full = self.queues.iter().position(|queue| queue.len() >= size);
            let Some(bucket) = full else {
                self.draw(tally, true)?;
                self.give_up(tally);
                continue;
            };
            if let Some(batch) = self.decode(bucket, tally)? {
                return Ok(batch);
            }
        }
    }

    /// Draws a sample, and has it wait if it is `wanted` and has a bucket.
    fn draw(&mut self, tally: &mut Tally, wanted: bool) -> Result<(), DataError> {
        let from = self.samples.position();
        let number = from.drawn;
        let sample = self.samples.next(&mut |lack| tally.lack(lack))?;
        if !wanted {
            return Ok(());
        }
        match bucket_of(&sample, &self.config) {
            Ok(bucket) => {
                // Its shard may lack others.
                self.damage_within(&sample)?;
                self.queues[bucket].push_back(Waiting {
                    number,
                    from,
                    sample,
                    decoded: None,
                });
                Ok(())
            }
            Err(error) => self.useless(&sample, &error, tally),
        }
    }

    /// Counts a sample that is of no use.
    fn useless(&self, sample: &Sample, error: &str, tally: &mut Tally) -> Result<(), DataError> {
        tally.useless(sample, error);
        tally.within(&self.samples)?;
        self.damage_within(sample)
    }

    /// Checks that not too much of the list of shards of a sample is damaged.
    fn damage_within(&self, sample: &Sample) -> Result<(), DataError> {
        match &sample.damage {
            Some(damage) => damage.within(self.config.max_damage),
            None => Ok(()),
        }
    }

    /// The batch at the front of a queue that is long enough; none if some of its samples cannot be decoded, which then wait no
    /// longer.
    fn decode(&mut self, bucket: usize, tally: &mut Tally) -> Result<Option<Batch>, DataError> {
        let shape = self.config.shape_of(bucket);
        let first: Vec<Waiting> = self.queues[bucket].drain(..self.config.batch).collect();
        let raw = first.iter().filter(|waiting| waiting.decoded.is_none());
        let raw: Vec<&Sample> = raw.map(|waiting| &waiting.sample).collect();
        let mut results = decode_all(&raw, &self.config, shape).into_iter();
        let mut sound = Vec::with_capacity(first.len());
        for mut waiting in first {
            if waiting.decoded.is_none() {
                match results.next().unwrap_or_else(panicked) {
                    Ok(decoded) => {
                        tally.in_a_row = 0;
                        waiting.decoded = Some(decoded);
                    }
                    Err(error) => {
                        self.useless(&waiting.sample, &error, tally)?;
                        continue;
                    }
                }
            }
            sound.push(waiting);
        }
        if sound.len() == self.config.batch {
            let decoded = sound.into_iter().filter_map(|waiting| waiting.decoded);
            let decoded: Vec<Decoded> = decoded.collect();
            let (threads, next) = (self.config.threads, self.position());
            return Ok(Some(collate(decoded, shape, threads, next)));
        }
        for waiting in sound.into_iter().rev() {
            self.queues[bucket].push_front(waiting);
        }
        Ok(None)
    }

    /// Gives up what has waited for too long.
    fn give_up(&mut self, tally: &mut Tally) {
        let patience = PATIENCE * self.config.batch as u64;
        let least = self.samples.drawn().saturating_sub(patience);
        for queue in &mut self.queues {
            while queue.front().is_some_and(|waiting| waiting.number < least) {
                if let Some(waiting) = queue.pop_front() {
                    tally.given_up(&waiting.sample, GIVEN_UP);
                }
            }
        }
    }

    /// Where the next sample comes from, and which of those before it still wait.
    fn position(&self) -> Position {
        let waiting = self.queues.iter().flatten();
        let first = waiting.clone().min_by_key(|waiting| waiting.number);
        let pending = first.map(|first| {
            let mut drawn: Vec<u64> = waiting.map(|waiting| waiting.number).collect();
            drawn.sort_unstable();
            Box::new(Pending {
                from: first.from.clone(),
                drawn,
            })
        });
        Position {
            pending,
            ..self.samples.position()
        }
    }
}
