//! Captioned images to latents and caption states, once and for all: what a long training run reads.

mod encode;
mod record;
mod settings;

pub use record::index;

use crate::{
    ahead::read_ahead,
    identity::{EncoderIdentity, Glance},
    left_out::LeftOut,
    sample::DataError,
    shards::{Shard, Shards},
    writer::DatasetIndex,
};
use encode::Outcome;
use microdit::DitBackend;
use microdit_encoders::{text::TextEncoder, vae::Vae};
use record::Found;
use settings::Settings;
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// How latents are made.
#[derive(Clone, Debug)]
pub struct PrecomputeConfig {
    /// Sides of the square images, in pixels; a sample gets a latent for each.
    pub sizes: Vec<u32>,
    /// Images encoded at once.
    pub batch: usize,
    /// Seed of the draws from the VAE's posterior.
    pub seed: u64,
    /// The VAE and the text encoder, by which latents of others are told apart.
    pub encoders: [EncoderIdentity; 2],
    /// This process among `world`, which share the shards.
    pub rank: usize,
    /// Processes at work.
    pub world: usize,
    /// Whether shards may have been added, replaced or removed since the directory was begun.
    pub update: bool,
    /// Share of the samples that may be damaged, in 0..=1.
    pub max_damage: f64,
}

/// How far a process has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Precomputed {
    /// Samples written by this call.
    pub samples: u64,
    /// Shards of this process that were looked at.
    pub checked: usize,
    /// Shards of this process that are there.
    pub shards: usize,
    /// Shards it is responsible for.
    pub of: usize,
    /// Whether it was told to stop before the last.
    pub stopped: bool,
    /// Samples of its shards that were left out.
    pub left_out: LeftOut,
    /// Shards of pictures that could not be read to their end, and why; what came before was used.
    pub cut: Vec<String>,
    /// Shards of pictures of which nothing was made, and why.
    pub lost: Vec<String>,
    /// The index, if this process is the only one.
    pub index: Option<DatasetIndex>,
    /// Samples met in its shards.
    seen: u64,
}

impl Precomputed {
    /// Counts a shard with so many sound samples.
    fn count(&mut self, sound: u64, left_out: LeftOut) {
        self.seen += sound + left_out.total();
        self.left_out.add(&left_out);
    }

    /// Stops the work when too much was left out so far, of the shard at hand too.
    fn too_damaged(&self, share: f64, here: &LeftOut, sound: u64) -> Result<(), DataError> {
        let mut all = self.left_out.clone();
        all.add(here);
        all.within(share, self.seen + sound + here.total(), true)
    }
}

/// Networks and settings of a precomputation.
#[derive(Debug)]
pub struct Precompute<'a, B: DitBackend> {
    /// Images to latents.
    pub vae: &'a Vae<B>,
    /// Captions to states.
    pub text: &'a TextEncoder<B>,
    /// How.
    pub config: &'a PrecomputeConfig,
    /// Where.
    pub device: &'a B::Device,
}

impl<B: DitBackend> Precompute<'_, B> {
    /// Encodes the pictures of `shards` into `out`, a shard of latents for every shard of pictures, from where an earlier call
    /// left off: what is there stays, once its checksum and that of its pictures were verified. Tars hold
    /// `KEY.latent-SIZE.npy` and `KEY.caption.npy`, 16-bit floats, and `KEY.txt`; the latents are posterior samples times the
    /// scaling factor, the captions all token states, padding included. Draws depend on seed, place in the list of shards the
    /// directory was begun with, and place in the shard alone. Samples that are damaged, or whose latents are not finite, are
    /// left out; a shard that cannot be read does not stop the others. `stop` ends the call after the batch at hand;
    /// `progress` is told after every batch.
    ///
    /// # Errors
    /// Files that cannot be written, a directory begun with other settings or of other pictures, too many damaged samples.
    pub fn run(
        &self,
        shards: &Shards,
        out: &Path,
        stop: &AtomicBool,
        mut progress: impl FnMut(&Precomputed),
    ) -> Result<Precomputed, DataError> {
        let config = self.config;
        self.check_sizes()?;
        std::fs::create_dir_all(out).map_err(DataError::io(out))?;
        let mut state = Precomputed::default();
        let Some(own) = self.own(shards, out, stop)? else {
            state.stopped = true;
            return Ok(state);
        };
        state.of = own.len();
        let Some(left) = self.verify(&own, out, stop, &mut state, &mut progress)? else {
            state.stopped = true;
            return Ok(state);
        };
        for (number, shard) in left {
            let outcome = match stop.load(Ordering::Relaxed) {
                true => Outcome::Stopped,
                false => self.shard(number, shard, out, stop, &mut state, &mut progress)?,
            };
            let name = shard.name();
            match outcome {
                Outcome::Stopped => {
                    state.stopped = true;
                    return Ok(state);
                }
                Outcome::Lost(why) => state.lost.push(format!("{name}: {why}")),
                Outcome::Made(cut) => {
                    state.shards += 1;
                    state.cut.extend(cut.map(|why| format!("{name}: {why}")));
                }
            }
            progress(&state);
        }
        state
            .left_out
            .within(config.max_damage, state.seen, false)?;
        if config.world == 1 {
            state.index = Some(record::index_of_checked(out)?);
        }
        Ok(state)
    }

    fn check_sizes(&self) -> Result<(), DataError> {
        let multiple = self.vae.shrinks_by();
        for (i, &size) in self.config.sizes.iter().enumerate() {
            if size == 0 || !(size as usize).is_multiple_of(multiple) {
                return Err(DataError::Size { size, multiple });
            }
            if self.config.sizes[..i].contains(&size) {
                return Err(DataError::RepeatedSize(size));
            }
        }
        Ok(())
    }

    /// The shards of this process and their numbers, once the directory is known to be made of them; nothing if told to stop.
    fn own<'a>(
        &self,
        shards: &'a Shards,
        out: &Path,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<(usize, &'a Shard)>>, DataError> {
        let all: Vec<Shard> = shards.iter().cloned().collect();
        let look = move |send: &mut dyn FnMut(Glance) -> bool| {
            all.iter().all(|shard| send(Glance::at(shard)))
        };
        let mut sources = Vec::new();
        let looked = read_ahead(stop, look, |glance| {
            sources.push(glance);
            Ok(true)
        })?;
        if looked.is_none() {
            return Ok(None);
        }
        let config = self.config;
        let numbers = Settings::new(sources, self).settle(out, config.rank, config.update)?;
        let mut own: Vec<(usize, &Shard)> = numbers.into_iter().zip(shards.iter()).collect();
        own.retain(|(number, _)| number % config.world == config.rank);
        own.sort_by_key(|(number, _)| *number);
        Ok(Some(own))
    }

    /// Those of `own` that are still to be made; nothing if told to stop.
    fn verify<'a>(
        &self,
        own: &[(usize, &'a Shard)],
        out: &Path,
        stop: &AtomicBool,
        state: &mut Precomputed,
        progress: &mut impl FnMut(&Precomputed),
    ) -> Result<Option<Vec<(usize, &'a Shard)>>, DataError> {
        let (folder, mut left) = (out.to_owned(), Vec::new());
        let paths = own
            .iter()
            .map(|(number, shard)| (*number, shard.path().to_owned()));
        let paths: Vec<_> = paths.collect();
        let find = move |send: &mut dyn FnMut(Found) -> bool| {
            let find =
                |(number, path): &(usize, std::path::PathBuf)| record::find(&folder, *number, path);
            paths.iter().all(|place| send(find(place)))
        };
        let found = read_ahead(stop, find, |found| {
            let (number, shard) = own[state.checked];
            state.checked += 1;
            match found {
                Found::Whole(record) => {
                    let left_out = LeftOut::of(record.report.rejected);
                    state.count(record.report.samples, left_out);
                    state.shards += 1;
                    let name = &record.source.file;
                    state
                        .cut
                        .extend(record.cut.map(|why| format!("{name}: {why}")));
                }
                Found::Nothing => left.push((number, shard)),
                Found::Damaged(why) => {
                    tracing::warn!("{why}; it is made again");
                    left.push((number, shard));
                }
                Found::OtherPictures(difference) if self.config.update => {
                    tracing::warn!("{difference}; its latents are made again");
                    left.push((number, shard));
                }
                Found::OtherPictures(difference) => {
                    let path = record::path(out, number);
                    return Err(DataError::OtherSources { path, difference });
                }
                Found::Unreadable(why) => state.lost.push(why),
            }
            progress(state);
            Ok(true)
        })?;
        Ok(found.map(|_| left))
    }
}
