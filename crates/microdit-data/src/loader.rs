//! Prefetching: decodes and crops in the background, so that a training step does not wait for its data.

mod bucketing;
mod config;
mod decode;
mod skipped;

use crate::{
    error::DataError,
    parallel,
    sample::Position,
    stream::{Samples, Source},
};
use bucketing::Bucketing;
pub use config::LoaderConfig;
use decode::{Decoded, decode_all};
pub use skipped::Skipped;
use skipped::Tally;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// Batches decoded ahead of the one in use.
const AHEAD: usize = 2;

/// How often the stop flag is checked while no batch is ready.
const PATIENCE: Duration = Duration::from_millis(100);

/// Samples in a row that may fail to decode, beyond a pass over the data, before the data count as unusable.
const MAX_UNDECODABLE: usize = 1000;

/// Samples ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Names of the samples.
    pub keys: Vec<String>,
    /// What the captions say; empty where that is not known of precomputed ones.
    pub texts: Vec<String>,
    /// The captions as the network gets them.
    pub captions: Captions,
    /// Pixels in -1..1, or latents: `[batch, channels, height, width]`, row-major.
    pub images: Vec<f32>,
    /// Channels, height and width of each of this batch; with buckets, another batch may have others.
    pub shape: [usize; 3],
    /// Where the batch after this one begins.
    pub next: Position,
}

/// The captions of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Captions {
    /// To be encoded.
    Texts(Vec<String>),
    /// Precomputed embeddings: `[batch, tokens, channels]`, row-major.
    Vectors(Vec<f32>),
}

/// An endless supply of batches, which depend on source, seed and batch size alone.
#[derive(Debug)]
pub struct Loader {
    batches: mpsc::Receiver<Result<Batch, DataError>>,
    skipped: Arc<Mutex<Skipped>>,
}

impl Loader {
    /// Starts loading at `start`. The threads end when the loader is dropped.
    pub fn new(source: Source, config: LoaderConfig, start: &Position) -> Self {
        let (sender, batches) = mpsc::sync_channel(AHEAD);
        let skipped = Arc::default();
        let mut tally = Tally::new(Arc::clone(&skipped));
        let start = start.clone();
        thread::spawn(move || {
            let mut batches = match config.buckets {
                None => {
                    Batches::Plain(Samples::new(source, config.seed, &config.variation, &start))
                }
                Some(_) => match Bucketing::new(source, &config, &start, &mut tally) {
                    Ok(bucketing) => Batches::Bucketed(bucketing),
                    Err(error) => {
                        // The receiver may be gone.
                        let _ = sender.send(Err(error));
                        return;
                    }
                },
            };
            loop {
                let batch = match &mut batches {
                    Batches::Plain(samples) => next_batch(samples, &config, &mut tally),
                    Batches::Bucketed(bucketing) => bucketing.next_batch(&mut tally),
                };
                let failed = batch.is_err();
                // The receiver is gone, or nothing can follow.
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self { batches, skipped }
    }

    /// The next batch.
    ///
    /// # Errors
    /// Unreadable data; nothing follows an error.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        self.batches.recv().map_err(|_| DataError::Stopped)?
    }

    /// The next batch, or nothing soon after `stop` is set: a hanging disk does not delay the end of a run.
    ///
    /// # Errors
    /// Unreadable data; nothing follows an error.
    pub fn next_batch_or_stop(&mut self, stop: &AtomicBool) -> Result<Option<Batch>, DataError> {
        while !stop.load(Ordering::Relaxed) {
            match self.batches.recv_timeout(PATIENCE) {
                Ok(batch) => return batch.map(Some),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(DataError::Stopped),
            }
        }
        Ok(None)
    }

    /// What has been left out so far, if anything.
    pub fn skipped(&self) -> Option<Skipped> {
        skipped::so_far(&self.skipped)
    }
}

/// Where batches come from.
enum Batches {
    /// The next samples, whatever they are.
    Plain(Samples),
    /// Samples of one shape.
    Bucketed(Bucketing),
}

fn next_batch(
    samples: &mut Samples,
    config: &LoaderConfig,
    tally: &mut Tally,
) -> Result<Batch, DataError> {
    let mut decoded: Vec<Decoded> = Vec::new();
    while decoded.len() < config.batch {
        let mut raw = Vec::with_capacity(config.batch - decoded.len());
        for _ in decoded.len()..config.batch {
            raw.push(samples.next(&mut |lack| tally.lack(lack))?);
        }
        let all: Vec<_> = raw.iter().collect();
        let results = decode_all(&all, config, config.shape);
        for (sample, result) in raw.iter().zip(results) {
            match result {
                Ok(sample) => {
                    tally.in_a_row = 0;
                    decoded.push(sample);
                }
                Err(error) => tally.useless(sample, &error),
            }
            if let Some(damage) = &sample.damage {
                damage.within(config.max_damage)?;
            }
        }
        tally.within(samples)?;
    }
    Ok(collate(
        decoded,
        config.shape,
        config.threads,
        samples.position(),
    ))
}

fn collate(decoded: Vec<Decoded>, shape: [usize; 3], threads: usize, next: Position) -> Batch {
    let each = shape.iter().product();
    let images = gather(&decoded, each, threads, |sample, place| {
        sample.image.write(place);
    });
    // A source has captions of one kind only.
    let states: Vec<&[f32]> = decoded
        .iter()
        .filter_map(|sample| sample.states.as_deref())
        .collect();
    let vectors = states.first().map(|first| {
        gather(&states, first.len(), threads, |own, place| {
            place.copy_from_slice(own)
        })
    });
    let (keys, texts): (_, Vec<String>) = decoded
        .into_iter()
        .map(|sample| (sample.key, sample.text))
        .unzip();
    Batch {
        keys,
        captions: match vectors {
            Some(vectors) => Captions::Vectors(vectors),
            None => Captions::Texts(texts.clone()),
        },
        texts,
        images,
        shape,
        next,
    }
}

/// What `write` makes of each part, `each` values, one after the other. They are written in parallel: what costs is that their memory
/// is new.
fn gather<T: Sync>(
    parts: &[T],
    each: usize,
    threads: usize,
    write: impl Fn(&T, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut values = vec![0.0; parts.len() * each];
    let places = parts.iter().zip(values.chunks_exact_mut(each));
    let written = parallel::map(places, threads, |_, (part, place)| write(part, place));
    assert!(
        written.len() == parts.len() && written.iter().all(Option::is_some),
        "decoded samples have the shape of their batch"
    );
    values
}

#[cfg(test)]
mod tests;
