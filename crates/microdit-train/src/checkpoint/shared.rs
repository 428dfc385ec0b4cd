//! A checkpoint that all ranks write, each its share: whole, like any other, once its manifest is there and the checksums in it hold.
//!
//! Tensors lie in a file for each rank, `model-00001-of-00002.safetensors`, and an index beside them, as other programs split large networks.

use super::{
    Beginning, Checkpoint, MODEL, OPTIMIZER, State, ema_file, part, place, post_hoc_file,
    shelf::part_of,
    tensors::{is_frozen, save_slots, save_tensors},
};
use crate::{
    collective::{Exchange, gather_texts, together},
    error::TrainError,
    recipe::CheckpointConfig,
    sealed::{Files, has_sizes, sums},
    sharding::Sharding,
    source::DataIdentity,
};
use microdit::{TrainBackend, ema::Ema, task::TrainTask, weights::StateDict};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

/// What is added to the name of a file that is in several.
const INDEX: &str = ".index.json";

/// The name of the part of rank `rank` in the file `name`.
fn part_name(name: &str, rank: usize, world_size: usize) -> String {
    let stem = name.trim_end_matches(".safetensors");
    format!("{stem}-{:05}-of-{world_size:05}.safetensors", rank + 1)
}

/// The name of the index of the file `name`.
pub(super) fn index_of(name: &str) -> String {
    format!("{name}{INDEX}")
}

impl<B: TrainBackend, T: TrainTask<B>> State<B, T> {
    /// Writes the state, of which every rank keeps its share, as [`save`](Self::save) does; rank 0 gets the checkpoint. Where `data` is a
    /// failure, it is that of all ranks.
    ///
    /// # Errors
    /// As there, on all ranks if one of them fails, and ranks that are lost.
    pub(crate) fn save_together(
        &self,
        checkpoints: &Path,
        config: &CheckpointConfig,
        data: Result<Option<DataIdentity>, TrainError>,
        beginning: &Beginning,
        sharding: &Sharding<B::InnerBackend>,
        exchange: &Exchange<'_>,
    ) -> Result<Option<Checkpoint>, TrainError> {
        let Exchange {
            ranks, patience, ..
        } = *exchange;
        let (step, keeps) = (self.progress.step, ranks.rank() == 0);
        let begun = data.and_then(|data| {
            let part = match keeps {
                true => part(checkpoints, step)?,
                false => part_of(checkpoints, step),
            };
            Ok((part, data))
        });
        let (part, data) = together(ranks, patience, begun)?;
        let data = data.as_ref();
        let saved = || {
            let own = self.write_share(&part, sharding, [ranks.rank(), ranks.world_size()]);
            let own = together(ranks, patience, own)?;
            let own = serde_json::to_string(&own).expect("sums are plain data");
            let all = gather_texts(ranks, &own, patience)?;
            let placed = match keeps {
                true => self
                    .complete(&part, checkpoints, data, beginning, sharding, &all)
                    .and_then(|saved| saved.prune(checkpoints, config).map(|()| Some(saved))),
                false => Ok(None),
            };
            together(ranks, patience, placed)
        };
        saved().inspect_err(|error| {
            // The first error is the one to report; lost ranks may still be writing.
            if keeps && !matches!(error, TrainError::RanksLost { .. }) {
                let _ = fs::remove_dir_all(&part);
            }
        })
    }

    /// The files of weights and averages, by what they would be called in one piece.
    fn averages(&self) -> impl Iterator<Item = (String, &T::InnerModule)> {
        let emas = self.emas.iter().enumerate();
        let emas = emas.map(|(i, ema)| (ema_file(i), ema));
        let post_hoc = self.post_hoc.iter().enumerate();
        let all = emas.chain(post_hoc.map(|(i, ema)| (post_hoc_file(i), ema)));
        all.filter_map(|(name, ema)| Some((name, Ema::average(ema)?)))
    }

    /// Writes what this rank has.
    fn write_share(
        &self,
        part: &Path,
        sharding: &Sharding<B::InnerBackend>,
        [rank, world_size]: [usize; 2],
    ) -> Result<Files, TrainError> {
        if !part.is_dir() {
            return Err(TrainError::NotShared(part.to_owned()));
        }
        let step = self.progress.step;
        let mut names = Vec::new();
        let mut write = |name: &str, tensors: StateDict| {
            let name = part_name(name, rank, world_size);
            if !tensors.is_empty() {
                save_tensors(&part.join(&name), &tensors, step)?;
                names.push(name);
            }
            Ok::<_, TrainError>(())
        };
        let task = self.task.valid();
        let moved = |tensors: StateDict| tensors.only(|path| !is_frozen(&task, path));
        write(MODEL, moved(sharding.own_tensors(&task)))?;
        for (name, average) in self.averages() {
            write(&name, moved(sharding.own_tensors(average)))?;
        }
        let name = part_name(OPTIMIZER, rank, world_size);
        let path = part.join(&name);
        save_slots(&path, self.optimizer.slots(), step)?;
        if path.exists() {
            names.push(name);
        }
        sums(part, &names)
    }

    /// Adds to what all ranks have written, whose `sums` these are, the indices and the manifest, and gives the directory its name.
    fn complete(
        &self,
        part: &Path,
        checkpoints: &Path,
        data: Option<&DataIdentity>,
        beginning: &Beginning,
        sharding: &Sharding<B::InnerBackend>,
        all: &[String],
    ) -> Result<Checkpoint, TrainError> {
        let mut files = Files::new();
        for text in all {
            let own: Files = serde_json::from_str(text).expect("sums were written by a rank");
            files.extend(own);
        }
        // A manifest vouches for what is beside it.
        if !has_sizes(part, &files) {
            return Err(TrainError::NotShared(part.to_owned()));
        }
        let names = self.averages().map(|(name, _)| name);
        let names: Vec<String> = [MODEL.to_owned()].into_iter().chain(names).collect();
        let mut indices = Vec::new();
        let task = self.task.valid();
        let moved = || {
            let all = sharding.ranks().iter();
            all.filter(|(path, _)| !is_frozen(&task, path))
        };
        for name in names {
            let lies = |(path, rank): (&String, &usize)| {
                (path.clone(), part_name(&name, *rank, all.len()))
            };
            let map: BTreeMap<_, _> = moved().map(lies).collect();
            let index = index_of(&name);
            let (path, text) = (part.join(&index), json!({ "weight_map": map }).to_string());
            microdit::atomic_file::write(&path, |path| fs::write(path, &text))
                .map_err(TrainError::io(&path))?;
            indices.push(index);
        }
        files.extend(sums(part, &indices)?);
        let beginning = self.with_frozen(checkpoints, beginning)?;
        let manifest = self.seal(part, data, files, beginning)?;
        let folder = place(checkpoints, part, self.progress.step)?;
        Ok(Checkpoint::of(folder, manifest))
    }
}
