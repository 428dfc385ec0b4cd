//! A classifier on the disk: its weights, and a record of all they follow from.

use super::{
    Accuracy, Classifier, ClassifierConfig, ClassifierError, Dataset, Labels, Progress,
    dataset::{Part, content},
    network::ConvNet,
};
use burn::tensor::{DType, backend::AutodiffBackend};
use microdit::{DitBackend, checksum, weights::StateDict};
use microdit_data::{
    DataError,
    files::{read_json, write_json},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
};

/// Files of a classifier in its folder. The record is written last: it vouches for the weights.
const WEIGHTS: &str = "classifier.safetensors";
const RECORD: &str = "classifier.json";

/// The file that is locked while a process trains or measures one.
const LOCK: &str = "lock";

/// What a classifier is trained on and measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Shards to train on, as [`microdit_data::Shards::open`] takes them, or [`SHAPES`](crate::evaluate::SHAPES), which are generated.
    pub train: String,
    /// Shards to measure the accuracy on, or the same.
    pub held_out: String,
    /// Where labels are, in both.
    pub labels: Labels,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    origin: Origin,
    /// SHA-256 of the weights.
    weights: String,
    /// Of held-out shards, by the SHA-256 of their contents.
    accuracies: BTreeMap<String, Accuracy>,
    classes: Vec<String>,
    captions: BTreeMap<String, Option<usize>>,
}

/// What the weights of a classifier follow from: not what its accuracy is measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Origin {
    config: ClassifierConfig,
    labels: Labels,
    /// SHA-256 of the contents of the shards.
    train: String,
}

impl Record {
    /// With the accuracy on one more set of held-out shards.
    fn with(mut self, held_out: String, accuracy: Accuracy) -> Self {
        self.accuracies.insert(held_out, accuracy);
        self
    }

    fn write(&self, folder: &Path) -> Result<(), ClassifierError> {
        Ok(write_json(&folder.join(RECORD), self)?)
    }
}

impl<B: DitBackend> Classifier<B> {
    /// The classifier of a folder, if it was trained with this configuration on shards of this content; else one is trained, and
    /// put there, by one process: others that want the same wait for it. With the accuracy on the held-out pictures, which is measured once
    /// for each set of them, and the SHA-256 of the weights.
    ///
    /// # Errors
    /// Those of [`Dataset::read`] and [`fit`](Self::fit), and a folder that cannot be written.
    pub fn in_folder<AB>(
        folder: &Path,
        data: &Data,
        config: &ClassifierConfig,
        device: &B::Device,
        progress: impl FnMut(Progress),
    ) -> Result<(Self, Accuracy, String), ClassifierError>
    where
        AB: DitBackend + AutodiffBackend<InnerBackend = B, Device = B::Device>,
    {
        config.validate()?;
        let origin = Origin {
            config: config.clone(),
            labels: data.labels.clone(),
            train: content(&data.train, Part::Training)?,
        };
        let of = content(&data.held_out, Part::HeldOut)?;
        if origin.train == of {
            let message =
                "the classifier is trained on these very shards; its accuracy needs others";
            return Err(ClassifierError::shards(&data.held_out, message));
        }
        // What is complete is read without the lock, so that a folder may be one that cannot be written.
        if let Some(kept) = Self::complete(folder, &origin, &of, device)? {
            return Ok(kept);
        }
        fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let _lock = lock(&folder.join(LOCK))?;
        if let Some(kept) = Self::complete(folder, &origin, &of, device)? {
            return Ok(kept);
        }
        let held_out = Dataset::part(&data.held_out, Part::HeldOut, &data.labels, config.side)?;
        if let Some((classifier, record)) = Self::kept(folder, &origin, device)? {
            let accuracy = classifier.accuracy_on(&held_out)?;
            let weights = record.weights.clone();
            record.with(of, accuracy).write(folder)?;
            return Ok((classifier, accuracy, weights));
        }
        let train = Dataset::part(&data.train, Part::Training, &data.labels, config.side)?;
        let (classifier, accuracy) = Self::fit::<AB>(&train, &held_out, config, device, progress)?;
        let weights = classifier.write(folder, origin, of, accuracy)?;
        Ok((classifier, accuracy, weights))
    }

    /// The classifier of a folder, if it is there and its accuracy on these held-out shards is known.
    fn complete(
        folder: &Path,
        origin: &Origin,
        held_out: &str,
        device: &B::Device,
    ) -> Result<Option<(Self, Accuracy, String)>, ClassifierError> {
        let kept = Self::kept(folder, origin, device)?;
        Ok(kept.and_then(|(classifier, record)| {
            let accuracy = *record.accuracies.get(held_out)?;
            Some((classifier, accuracy, record.weights))
        }))
    }

    /// The classifier of a folder with its record, if it is there.
    fn kept(
        folder: &Path,
        origin: &Origin,
        device: &B::Device,
    ) -> Result<Option<(Self, Record)>, ClassifierError> {
        let Some(record) = record(folder, origin) else {
            return Ok(None);
        };
        let config = &origin.config;
        let network = ConvNet::new(config.widths, record.classes.len(), config.seed, device);
        let state = StateDict::read(&folder.join(WEIGHTS))?;
        let classifier = Self {
            network: state.load_into(network, device)?,
            config: config.clone(),
            classes: record.classes.clone(),
            captions: record.captions.clone(),
            device: device.clone(),
        };
        Ok(Some((classifier, record)))
    }

    /// Writes weights and record; returns the weights' checksum.
    fn write(
        &self,
        folder: &Path,
        origin: Origin,
        held_out: String,
        accuracy: Accuracy,
    ) -> Result<String, ClassifierError> {
        let path = folder.join(WEIGHTS);
        StateDict::from_module(&self.network).write_safetensors(&path, DType::F32, None)?;
        let (_, weights) = checksum::of_file(&path).map_err(DataError::io(&path))?;
        let record = Record {
            origin,
            weights: weights.clone(),
            accuracies: BTreeMap::from([(held_out, accuracy)]),
            classes: self.classes.clone(),
            captions: self.captions.clone(),
        };
        record.write(folder)?;
        Ok(weights)
    }
}

/// Waits until no other process is at work.
fn lock(path: &Path) -> Result<File, ClassifierError> {
    let locked = File::create(path).and_then(|file| file.lock().map(|()| file));
    Ok(locked.map_err(DataError::io(path))?)
}

/// The record of a folder, if it is of this origin and vouches for weights that are there.
fn record(folder: &Path, origin: &Origin) -> Option<Record> {
    let record: Record = read_json(&folder.join(RECORD)).ok()?;
    let (_, weights) = checksum::of_file(&folder.join(WEIGHTS)).ok()?;
    let places = record.captions.values().flatten();
    let sound = places
        .max()
        .is_none_or(|&place| place < record.classes.len())
        && record
            .accuracies
            .values()
            .all(|accuracy| accuracy.right <= accuracy.of);
    (sound && record.origin == *origin && record.weights == weights).then_some(record)
}

#[cfg(test)]
mod tests;
