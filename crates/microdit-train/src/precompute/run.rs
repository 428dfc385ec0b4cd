//! All shards of this process, from where an earlier call left off.

use super::{
    encode::{Outcome, Precompute},
    error::PrecomputeError,
    files::report_path,
    identity::Glance,
    index::index_of_checked,
    progress::Precomputed,
    record::{Found, find},
    settings::Settings,
};
use microdit::{DitBackend, worker_pool};
use microdit_data::{
    BucketConfig, DataError, LeftOut, Shard, ShardFile, Shards, check_names, read_ahead,
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

impl<B: DitBackend> Precompute<'_, B> {
    /// Encodes the pictures of `shards` into `out`, a shard of latents for every shard of pictures, from where an earlier call
    /// left off: what is there stays, once its checksum and that of its pictures are verified. Tars hold
    /// `KEY.latent-SIZE.npy` and `KEY.caption.npy`, 16-bit floats, and `KEY.txt`, or of several captions `KEY.caption-NAME.npy` and
    /// `KEY.caption-NAME.txt` each, and with flips `KEY.latent-SIZE-flipped.npy`; the latents are posterior samples times the
    /// scaling factor, the captions all token states, padding included unless it is trimmed. Draws depend on seed, place in the list of shards the
    /// directory was begun with, and place in the shard alone. Samples that are damaged, or whose latents are not finite, are
    /// left out; a shard that cannot be read does not stop the others. `stop` ends the call after the current batch;
    /// `progress` is called after every batch.
    ///
    /// # Errors
    /// Files that cannot be written, a directory begun with other settings or of other pictures, too many damaged samples.
    pub fn run(
        &self,
        shards: &Shards,
        out: &Path,
        stop: &AtomicBool,
        progress: impl FnMut(&Precomputed) + Send,
    ) -> Result<Precomputed, PrecomputeError> {
        worker_pool::enter(|| self.run_in_pool(shards, out, stop, progress))
    }

    fn run_in_pool(
        &self,
        shards: &Shards,
        out: &Path,
        stop: &AtomicBool,
        mut progress: impl FnMut(&Precomputed),
    ) -> Result<Precomputed, PrecomputeError> {
        let config = self.config;
        self.check_sizes()?;
        check_names(&config.captions).map_err(PrecomputeError::Captions)?;
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
        for (i, &(number, shard)) in left.iter().enumerate() {
            if let Some((_, next)) = left.get(i + 1) {
                next.file().prefetch();
            }
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
            state.index = Some(index_of_checked(out)?);
        }
        Ok(state)
    }

    fn check_sizes(&self) -> Result<(), PrecomputeError> {
        let listed = matches!(self.config.buckets, Some(BucketConfig::Sizes(_)));
        if listed && self.config.sizes.len() > 1 {
            return Err(PrecomputeError::ListedBuckets);
        }
        let multiple = self.vae.shrinks_by();
        for (i, &size) in self.config.sizes.iter().enumerate() {
            if size == 0 || !(size as usize).is_multiple_of(multiple) {
                return Err(PrecomputeError::Size { size, multiple });
            }
            if self.config.sizes[..i].contains(&size) {
                return Err(PrecomputeError::RepeatedSize(size));
            }
            let Some(buckets) = &self.config.buckets else {
                continue;
            };
            let buckets = buckets.of(size);
            let buckets =
                buckets.map_err(|error| PrecomputeError::Buckets { side: size, error })?;
            let odd = |side: &&u32| !(**side as usize).is_multiple_of(multiple);
            if let Some(&size) = buckets.sizes().as_flattened().iter().find(odd) {
                return Err(PrecomputeError::Size { size, multiple });
            }
        }
        Ok(())
    }

    /// The shards of this process and their numbers, once the directory is known to belong to them; nothing if told to stop.
    fn own<'a>(
        &self,
        shards: &'a Shards,
        out: &Path,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<(usize, &'a Shard)>>, PrecomputeError> {
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
        let numbers = Settings::new(sources, config, self.vae, self.text).settle(
            out,
            config.rank,
            config.update,
        )?;
        let mut own: Vec<(usize, &Shard)> = numbers.into_iter().zip(shards.iter()).collect();
        own.retain(|(number, _)| number % config.world == config.rank);
        own.sort_by_key(|(number, _)| *number);
        Ok(Some(own))
    }

    /// Those of `own` that are not made yet; nothing if told to stop.
    fn verify<'a>(
        &self,
        own: &[(usize, &'a Shard)],
        out: &Path,
        stop: &AtomicBool,
        state: &mut Precomputed,
        progress: &mut impl FnMut(&Precomputed),
    ) -> Result<Option<Vec<(usize, &'a Shard)>>, PrecomputeError> {
        let (folder, mut left, mut other) = (out.to_owned(), Vec::new(), None);
        let files = own
            .iter()
            .map(|(number, shard)| (*number, shard.file().clone()));
        let files: Vec<_> = files.collect();
        let find = move |send: &mut dyn FnMut(Found) -> bool| {
            let find = |(number, file): &(usize, ShardFile)| find(&folder, *number, file);
            files.iter().all(|file| send(find(file)))
        };
        let found = read_ahead(stop, find, |found| {
            let (number, shard) = own[state.checked];
            state.checked += 1;
            match found {
                Found::Whole(record) => {
                    let left_out = LeftOut::of(record.report.rejected);
                    state.count(record.report.samples, left_out);
                    state.captions_cut += record.captions_cut;
                    state.count_states(record.caption_bytes);
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
                    let path = report_path(out, number);
                    other = Some(PrecomputeError::OtherSources { path, difference });
                    return Ok(false);
                }
                Found::Unreadable(why) => state.lost.push(why),
            }
            progress(state);
            Ok(true)
        })?;
        match other {
            Some(error) => Err(error),
            None => Ok(found.map(|_| left)),
        }
    }
}
