//! Captioned images, as collected, into shards for training or precomputation.

use crate::{
    ahead::read_ahead,
    error::DataError,
    files::file_name,
    folder::Folder,
    index::{DatasetIndex, ShardReport},
    key::{Unique, of_key, of_path},
    left_out::{LeftOut, reasons},
    parallel::unless_it_panics,
    prepare::{DatasetCard, Layout, Refused},
    sample::Sample,
    shapes::Shapes,
    shards::{Members, Shards},
    writer::ShardWriter,
};
use microdit::rng::{Purpose, Stream};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// How shards are written.
#[derive(Clone, Copy, Debug)]
pub struct PrepareConfig<'a> {
    /// Directory or shards of the collected images.
    pub source: &'a str,
    /// Table of captions, if it is not found automatically.
    pub captions: Option<&'a Path>,
    /// Bytes after which a new shard begins.
    pub shard_bytes: u64,
    /// Samples after which to stop.
    pub limit: Option<u64>,
    /// Share of the samples that may be damaged, in 0..=1; those the card filters out do not count.
    pub max_damage: f64,
    /// The part of the samples that is taken; all of them if absent.
    pub fraction: Option<Fraction>,
}

/// A part of the samples of a source, for a first try. Each is taken or passed over by a draw of its own, so that a larger share
/// of the same seed has all that a smaller one has, whatever else the source holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction {
    /// The share, in 0..=1.
    pub share: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Fraction {
    /// Whether the sample `key` of `origin` belongs to it.
    fn has(&self, origin: &str, key: &str) -> bool {
        let name = format!("{origin}/{key}");
        let drawn = Stream::named(self.seed, Purpose::Fraction, &name).uniform(1);
        f64::from(drawn[0]) < self.share
    }
}

/// What was prepared.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The index, as it was written; it says what it lacks.
    pub index: DatasetIndex,
    /// Samples that were left out, because they are damaged or not wanted.
    pub left_out: LeftOut,
    /// Samples that the fraction passed over.
    pub passed: u64,
    /// Whether it was stopped before the last sample.
    pub stopped: bool,
}

/// Writes the shards of the dataset `card` describes into `out`, a new directory, and an index at the end. What cannot be
/// read of the source is named in the index; all else is written. `stop` ends the call with the shard at hand, which is
/// finished; `progress` is told the samples seen.
///
/// # Errors
/// Sources that are not there, files that cannot be written, a directory that is in use, too many damaged samples, or
/// nothing to write, and then no directory is left.
pub fn prepare(
    card: &DatasetCard,
    config: &PrepareConfig<'_>,
    out: &Path,
    stop: &AtomicBool,
    mut progress: impl FnMut(u64),
) -> Result<Prepared, DataError> {
    let name = Path::new(&card.name);
    card.validate()
        .map_err(|message| DataError::unreadable(name, &message))?;
    let used = out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(DataError::InUse(out.to_owned()));
    }
    // A table of captions may be a pipe, or lie on a disk that hangs.
    let (card_of_it, place) = (card.clone(), config.source.to_owned());
    let captions = config.captions.map(Path::to_owned);
    let open = move |send: &mut dyn FnMut(_) -> bool| {
        send(Collected::open(&card_of_it, &place, captions.as_deref()))
    };
    let mut source = Err(DataError::Interrupted);
    read_ahead(stop, open, |opened| {
        source = opened;
        Ok(true)
    })?;
    let source = source?;
    let new = !out.exists();
    std::fs::create_dir_all(out).map_err(DataError::io(out))?;
    let mut sink = Sink {
        card,
        out,
        config,
        keys: Unique::default(),
        progress: &mut progress,
        seen: 0,
        passed: 0,
        writer: None,
        rejected: BTreeMap::new(),
        left_out: LeftOut::default(),
        damaged: LeftOut::default(),
        reports: Vec::new(),
        lacks: Vec::new(),
    };
    let result = source.into_sink(&mut sink, stop);
    let result = result.and_then(|()| sink.finish(stop.load(Ordering::Relaxed)));
    if new {
        // Removed only if it is empty.
        let _ = std::fs::remove_dir(out);
    }
    result
}

/// Where samples come from.
enum Collected {
    Shards(Shards, Members),
    Folder(Folder),
    Drawn(Shapes, u64),
}

impl Collected {
    fn open(card: &DatasetCard, source: &str, captions: Option<&Path>) -> Result<Self, DataError> {
        Ok(match &card.layout {
            Layout::Shards => {
                let members = card.members();
                Self::Shards(Shards::open(source, members.clone())?, members)
            }
            Layout::Folder(columns) => {
                let root = Path::new(source);
                Self::Folder(Folder::open(root, captions, columns.clone())?)
            }
            Layout::Shapes { size, count } => Self::Drawn(Shapes { size: *size }, *count),
        })
    }

    /// Hands all samples to `sink` until that has enough, or `stop` is set.
    fn into_sink(self, sink: &mut Sink<'_>, stop: &AtomicBool) -> Result<(), DataError> {
        match self {
            Self::Shards(shards, members) => {
                for shard in shards.in_turn() {
                    let (reader, name) = (shard.clone(), shard.name());
                    let members = members.clone();
                    let read = move |send: &mut dyn FnMut(_) -> bool| {
                        let take = |key: &str, sample| send((key.to_owned(), sample));
                        reader.for_each(&members, take)
                    };
                    match read_ahead(stop, read, |sample| sink.take(&name, sample))? {
                        None => break,
                        // The rest is out of reach, not damaged.
                        Some(Err(error @ DataError::Remote(_))) => return Err(error),
                        Some(Err(error)) => sink.lacks.push(format!("{name}: {}", error.reason())),
                        Some(Ok(())) => {}
                    }
                }
            }
            Self::Folder(folder) => {
                let name = file_name(Path::new(sink.config.source));
                let read = move |send: &mut dyn FnMut(_) -> bool| {
                    folder.for_each(|key, sample| Ok(send((key.to_owned(), sample))))
                };
                let read = read_ahead(stop, read, |sample| sink.take(&name, sample))?;
                if let Some(Err(error)) = read {
                    // A directory that cannot be read at all is an error as it stands.
                    if sink.seen == 0 {
                        return Err(error);
                    }
                    sink.lacks.push(error.to_string());
                }
            }
            Self::Drawn(shapes, count) => {
                for i in 0..count {
                    let sample = shapes.sample(0, i);
                    let wanted = sink.take("shapes", (sample.key.clone(), Ok(sample)))?;
                    if !wanted || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What samples go through on their way into shards.
struct Sink<'a> {
    card: &'a DatasetCard,
    out: &'a Path,
    config: &'a PrepareConfig<'a>,
    keys: Unique,
    progress: &'a mut dyn FnMut(u64),
    /// Samples met, without those passed over.
    seen: u64,
    passed: u64,
    writer: Option<ShardWriter>,
    /// Of the current shard.
    rejected: BTreeMap<String, u64>,
    left_out: LeftOut,
    /// Those that are damaged.
    damaged: LeftOut,
    reports: Vec<ShardReport>,
    /// What could not be read.
    lacks: Vec<String>,
}

impl Sink<'_> {
    /// Takes a sample of `origin`; whether more are wanted.
    fn take(
        &mut self,
        origin: &str,
        (key, sample): (String, Result<Sample, String>),
    ) -> Result<bool, DataError> {
        if self.config.limit.is_some_and(|limit| self.seen >= limit) {
            return Ok(false);
        }
        let fraction = self.config.fraction;
        if fraction.is_some_and(|fraction| !fraction.has(origin, &key)) {
            self.passed += 1;
            return Ok(true);
        }
        self.seen += 1;
        (self.progress)(self.seen);
        let admitted = sample.map_err(Refused::from).and_then(|sample| {
            let admitted = unless_it_panics(|| self.card.admit(sample));
            // A panic in a decoder costs only that image.
            let panicked = || "an image that cannot be decoded: its decoder panicked".to_owned();
            admitted.ok_or_else(panicked)?
        });
        let (captions, (extension, file)) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.leave_out(origin, &key, &refused);
                let share = self.config.max_damage;
                return Ok(self.damaged.within(share, self.seen, true).is_ok());
            }
        };
        if self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.bytes() >= self.config.shard_bytes)
        {
            self.close()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            closed => {
                let path = self.out.join(format!("{:06}.tar", self.reports.len()));
                closed.insert(ShardWriter::create(&path)?)
            }
        };
        let key = match self.card.layout {
            // The member's own ending is the rest of the path.
            Layout::Folder(_) => of_path(strip_extension(&key, extension)),
            Layout::Shards | Layout::Shapes { .. } => of_key(&key),
        };
        let captions = captions.iter();
        let captions = captions.map(|(name, text)| (name.as_str(), text.as_bytes()));
        let picture = (extension, file.as_slice());
        let members: Vec<_> = std::iter::once(picture).chain(captions).collect();
        writer.add(&self.keys.give(key), &members)?;
        Ok(true)
    }

    fn leave_out(&mut self, origin: &str, key: &str, refused: &Refused) {
        let Refused { reason, damaged } = refused;
        self.left_out.note(origin, key, reason);
        if *damaged {
            self.damaged.note(origin, key, reason);
        }
        let kind = reason.split(": ").next().unwrap_or(reason);
        *self.rejected.entry(kind.to_owned()).or_default() += 1;
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(writer) = self.writer.take() {
            let rejected = std::mem::take(&mut self.rejected);
            self.reports.push(writer.finish(rejected)?);
        }
        Ok(())
    }

    fn finish(mut self, stopped: bool) -> Result<Prepared, DataError> {
        self.close()?;
        if self.reports.is_empty() && !stopped {
            let mut why = Vec::new();
            if self.left_out.total() > 0 {
                why.push(reasons(&self.left_out.counts));
            }
            if self.passed > 0 {
                why.push(format!("{} were passed over by the fraction", self.passed));
            }
            why.extend(self.lacks);
            return Err(DataError::NothingWritten {
                seen: self.seen,
                reasons: why.join("; "),
            });
        }
        let damage = self
            .damaged
            .within(self.config.max_damage, self.seen, false);
        if stopped {
            let seen = self.seen;
            let lack = format!("work was broken off after {seen} samples of the source");
            self.lacks.push(lack);
        }
        self.lacks
            .extend(damage.as_ref().err().map(DataError::to_string));
        let card = serde_json::to_value(self.card).expect("keys are texts");
        let mut index = DatasetIndex::new(self.reports, card);
        index.lacks = self.lacks;
        // Those after the last shard too.
        index.rejected.clone_from(&self.left_out.counts);
        if !index.shards.is_empty() {
            index.write(self.out)?;
        }
        damage?;
        Ok(Prepared {
            index,
            left_out: self.left_out,
            passed: self.passed,
            stopped,
        })
    }
}

/// The path without that extension, if it has it.
fn strip_extension<'a>(path: &'a str, extension: &str) -> &'a str {
    let stem = path
        .strip_suffix(extension)
        .and_then(|stem| stem.strip_suffix('.'));
    stem.unwrap_or(path)
}
