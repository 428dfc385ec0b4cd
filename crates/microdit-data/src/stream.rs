//! An endless stream of samples, in an order that depends only on seed and position.

use crate::{
    error::DataError,
    parallel::unless_it_panics,
    prompts::{PromptStream, Prompts},
    sample::{Place, Position, Sample},
    shapes::Shapes,
    shards::{AHEAD, Incomplete, Shard, Shards},
    variation::Variation,
};
use microdit::rng::{Purpose, Stream};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, thread};

/// Samples that are shuffled together, undecoded.
const WINDOW: usize = 2000;

/// Where samples come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Generated on the fly.
    Shapes(Shapes),
    /// Captions alone.
    Prompts(Prompts),
    /// Read from shards.
    Shards(Shards),
    /// Drawn from several lists of shards, in proportion to their weights.
    Mix(Vec<(Shards, f64)>),
}

/// What was found and cannot be used.
pub(crate) enum Lack {
    /// A sample, or the rest of a shard.
    Part(Incomplete),
    /// A whole shard.
    Shard(LostShard),
}

/// A shard without a usable sample.
pub(crate) struct LostShard {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) error: DataError,
    /// Its place in the list.
    place: usize,
}

/// An endless stream of samples that knows its position.
pub(crate) struct Samples {
    seed: u64,
    drawn: u64,
    kind: Kind,
}

enum Kind {
    Shapes(Shapes),
    Prompts(PromptStream),
    /// Shards, and the share of the samples that comes from them or from those before.
    Shards(Vec<(ShardStream, f64)>),
}

impl Samples {
    /// The samples of `source` from `start` on, which must come from the same source and seed, varied as `variation` says.
    pub(crate) fn new(source: Source, seed: u64, variation: &Variation, start: &Position) -> Self {
        let lists = match source {
            Source::Shapes(shapes) => {
                return Self {
                    seed,
                    drawn: start.drawn,
                    kind: Kind::Shapes(shapes),
                };
            }
            Source::Prompts(prompts) => {
                return Self {
                    seed,
                    drawn: start.drawn,
                    kind: Kind::Prompts(PromptStream::new(prompts, seed, start.drawn)),
                };
            }
            Source::Shards(shards) => vec![(shards, 1.0)],
            Source::Mix(lists) => lists,
        };
        let total: f64 = lists.iter().map(|(_, weight)| weight).sum();
        let mut share = 0.0;
        let streams = lists.into_iter().enumerate().map(|(i, (shards, weight))| {
            share += weight / total;
            let place = start.sources.get(i).copied().unwrap_or_default();
            let draws = Arc::new((seed, variation.clone()));
            (ShardStream::new(shards, draws, place), share)
        });
        Self {
            seed,
            drawn: start.drawn,
            kind: Kind::Shards(streams.collect()),
        }
    }

    /// The next sample; `lack` is called with whatever is unusable on the way to it.
    ///
    /// # Errors
    /// If more than half of a list's shards have no usable sample.
    pub(crate) fn next(&mut self, lack: &mut impl FnMut(Lack)) -> Result<Sample, DataError> {
        let index = self.drawn;
        self.drawn += 1;
        match &mut self.kind {
            Kind::Shapes(shapes) => Ok(shapes.sample(self.seed, index)),
            Kind::Prompts(prompts) => Ok(prompts.sample(self.seed, index)),
            Kind::Shards(streams) => {
                let chosen = match streams.len() {
                    1 => 0,
                    count => {
                        let mut random = Stream::new(self.seed, Purpose::Mix, 0, index);
                        let point = f64::from(random.uniform(1)[0]);
                        let chosen = streams.iter().position(|(_, share)| point < *share);
                        chosen.unwrap_or(count - 1)
                    }
                };
                streams[chosen].0.next(lack)
            }
        }
    }

    /// Samples drawn so far.
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Samples of one pass over all sources, by the bytes of the shards read so far.
    pub(crate) fn pass(&self) -> f64 {
        match &self.kind {
            Kind::Shapes(_) | Kind::Prompts(_) => 0.0,
            Kind::Shards(streams) => streams.iter().map(|(list, _)| list.shards.samples()).sum(),
        }
    }

    /// Where the next sample comes from.
    pub(crate) fn position(&self) -> Position {
        let sources = match &self.kind {
            Kind::Shapes(_) | Kind::Prompts(_) => Vec::new(),
            Kind::Shards(streams) => streams.iter().map(|(stream, _)| stream.place).collect(),
        };
        Position {
            drawn: self.drawn,
            sources,
            pending: None,
        }
    }
}

/// The samples of a list of shards over and over. Every pass has its own order of shards; shards are read in windows of at
/// least `WINDOW` samples, and each window has its own order of samples. So a position is restored by reading one window.
struct ShardStream {
    shards: Arc<Shards>,
    draws: Arc<Draws>,
    /// Of the next sample.
    place: Place,
    /// What is left of the window, the next sample last.
    window: Vec<Sample>,
    /// Shards of this pass up to the end of the window.
    end: usize,
    /// The next window, which is read while this one is used up.
    ahead: Option<thread::JoinHandle<Window>>,
    /// Places in the list of the shards found to have no usable sample.
    lost: BTreeSet<usize>,
}

/// The seed, and what is drawn besides the order.
type Draws = (u64, Variation);

/// Samples that are shuffled together.
struct Window {
    samples: Vec<Sample>,
    lacks: Vec<Lack>,
    /// Why it ends before all its samples were read: they are out of reach, not damaged.
    failed: Option<DataError>,
    /// Shards of the pass up to its end.
    end: usize,
}

impl ShardStream {
    fn new(shards: Shards, draws: Arc<Draws>, place: Place) -> Self {
        Self {
            shards: Arc::new(shards),
            draws,
            place,
            window: Vec::new(),
            end: place.shard,
            ahead: None,
            lost: BTreeSet::new(),
        }
    }

    fn next(&mut self, lack: &mut impl FnMut(Lack)) -> Result<Sample, DataError> {
        loop {
            if let Some(sample) = self.window.pop() {
                self.place.sample += 1;
                return Ok(sample);
            }
            if self.end > self.place.shard {
                self.place.shard = self.end;
                self.place.sample = 0;
            }
            self.place = self.inside(self.place);
            let window = match self.ahead.take() {
                // A panic of the reading thread is reported as if it happened here.
                Some(ahead) => ahead.join().map_err(|_| DataError::Stopped)?,
                None => read_window(&self.shards, &self.draws, self.place),
            };
            for met in window.lacks {
                match met {
                    Lack::Shard(lost) => self.lose(lost, lack)?,
                    part => lack(part),
                }
            }
            if let Some(error) = window.failed {
                return Err(error);
            }
            self.window = window.samples;
            self.end = window.end;
            let left = self.window.len().saturating_sub(self.place.sample as usize);
            self.window.truncate(left);
            let next = self.inside(Place {
                epoch: self.place.epoch,
                shard: self.end,
                sample: 0,
            });
            let (shards, draws) = (self.shards.clone(), self.draws.clone());
            self.ahead = Some(thread::spawn(move || read_window(&shards, &draws, next)));
        }
    }

    /// Skips a shard, unless more than half of the list is skipped by then: so every pass over the rest has samples.
    fn lose(&mut self, shard: LostShard, lack: &mut impl FnMut(Lack)) -> Result<(), DataError> {
        self.lost.insert(shard.place);
        let (lost, shards) = (self.lost.len(), self.shards.len());
        if 2 * lost <= shards {
            lack(Lack::Shard(shard));
            return Ok(());
        }
        Err(match shards {
            1 => shard.error,
            _ => DataError::ShardsLost {
                lost,
                shards,
                last: Box::new(shard.error),
            },
        })
    }

    /// The place, or the beginning of the next pass if it lies beyond this one: because the pass is over, or because shards
    /// were taken away since the place was saved.
    fn inside(&self, place: Place) -> Place {
        if place.shard < self.shards.len() {
            return place;
        }
        Place {
            epoch: place.epoch + 1,
            ..Place::default()
        }
    }
}

/// The window that begins with the shard of `place`, the next sample last.
fn read_window(shards: &Shards, draws: &Draws, place: Place) -> Window {
    let (seed, variation) = (draws.0, &draws.1);
    let Place { epoch, shard, .. } = place;
    let mut order: Vec<(usize, &Shard)> = shards.iter().enumerate().collect();
    Stream::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
    let mut window = Window {
        samples: Vec::new(),
        lacks: Vec::new(),
        failed: None,
        end: shard,
    };
    let left = &order[shard..];
    for (i, &(place, next)) in left.iter().enumerate() {
        for (_, ahead) in left.iter().skip(i + 1).take(AHEAD) {
            ahead.file().prefetch();
        }
        let panicked = || Err(DataError::unreadable(next.path(), &"its reader panicked"));
        match unless_it_panics(|| shards.read(next)).unwrap_or_else(panicked) {
            Ok((samples, incomplete)) => {
                let varied = samples.into_iter().zip(0..).map(|(mut sample, within)| {
                    variation.apply(&mut sample, seed, epoch, [place as u64, within]);
                    sample
                });
                window.samples.extend(varied);
                window.lacks.extend(incomplete.into_iter().map(Lack::Part));
            }
            Err(error @ DataError::Remote(_)) => {
                window.failed = Some(error);
                break;
            }
            Err(error) => window.lacks.push(Lack::Shard(LostShard {
                path: next.path().to_owned(),
                error,
                place,
            })),
        }
        window.end += 1;
        if window.samples.len() >= WINDOW {
            break;
        }
    }
    let mut random = Stream::new(seed, Purpose::Shuffle, epoch, 1 + shard as u64);
    random.shuffle(&mut window.samples);
    window
}
