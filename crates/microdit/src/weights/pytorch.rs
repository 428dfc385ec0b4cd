//! PyTorch's own files (`torch.save`'s zip layout): the tensors of a state dict or of a training checkpoint.

use super::{
    StateDict, WeightsError, format_error, io_error,
    pickle::{self, Pickle, TensorRecord},
};
use burn::tensor::{DType, TensorData};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

/// Prefix of the network's tensors in a training checkpoint of the reference.
const NESTED_PREFIX: &str = "dit.";

/// What a checkpoint of the reference's trainer says of a run, in which moments are named like their parameters.
#[derive(Clone, Debug)]
pub struct TrainerCheckpoint {
    /// The network.
    pub weights: StateDict,
    /// AdamW's means of the gradients and of their squares.
    pub moments: BTreeMap<String, [TensorData; 2]>,
    /// Steps the optimiser has taken.
    pub optimiser_steps: u64,
    /// Batches trained.
    pub batches: u64,
    /// Samples trained.
    pub samples: u64,
    /// Classes of objects in the file that were left unread, and never called.
    pub unread: Vec<String>,
}

impl TrainerCheckpoint {
    /// Reads `state.model.dit.*`, `state.optimizers.*.state.dit.*` and `state.timestamp` without executing the pickle.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, with what it lacks.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let fail = |message: &str| format_error(path, message);
        let mut file = Checkpoint::open(path)?;
        let weights = StateDict::new(file.network()?, path);
        let lack = |what: &str| {
            fail(&format!(
                "it holds no {what}: it is no checkpoint of the trainer"
            ))
        };
        let state = file.pickle.root.entry("state");
        let state = state.ok_or_else(|| lack("`state`"))?;
        let optimisers = state
            .entry("optimizers")
            .map_or_else(Vec::new, |all| all.entries());
        let [(_, optimiser)] = &optimisers[..] else {
            return Err(lack("state of exactly one optimiser"));
        };
        let of_parameters = optimiser
            .entry("state")
            .map_or_else(Vec::new, |all| all.entries());
        let (mut moments, mut optimiser_steps) = (BTreeMap::new(), 0);
        for (name, entry) in of_parameters {
            let Some(name) = name.strip_prefix(NESTED_PREFIX) else {
                continue;
            };
            let mut read = |kind: &str| {
                let record = entry.entry(kind).and_then(|value| value.tensor());
                let record = record.ok_or_else(|| lack(&format!("`{kind}` of {name}")))?;
                file.read(&record, name)
            };
            let step = read("step")?.iter::<f64>().next().unwrap_or(0.0) as u64;
            optimiser_steps = optimiser_steps.max(step);
            moments.insert(name.to_owned(), [read("exp_avg")?, read("exp_avg_sq")?]);
        }
        let clock = state
            .entry("timestamp")
            .and_then(|timestamp| timestamp.entry("Timestamp"));
        let count = |key: &str| clock.as_ref().and_then(|clock| clock.entry(key)?.count());
        Ok(Self {
            weights,
            moments,
            optimiser_steps,
            batches: count("batch").ok_or_else(|| lack("number of batches"))?,
            samples: count("sample").ok_or_else(|| lack("number of samples"))?,
            unread: file.pickle.unread.into_iter().collect(),
        })
    }
}

/// The network's tensors by name.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    Checkpoint::open(path)?.network()
}

/// A checkpoint: its pickled data, and the archive that holds the tensors' memory.
struct Checkpoint {
    path: PathBuf,
    archive: zip::ZipArchive<BufReader<File>>,
    prefix: String,
    pickle: Pickle,
}

impl Checkpoint {
    /// Opens a checkpoint and reads its pickle.
    fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = File::open(path).map_err(io_error(path))?;
        Self::unpack(path, file).map_err(|message| format_error(path, &message))
    }

    fn unpack(path: &Path, file: File) -> Result<Self, String> {
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| {
            format!("no zip archive as torch.save writes since PyTorch 1.6 ({error}); save {} again with a newer PyTorch, or as safetensors", path.display())
        })?;
        let pickle = archive
            .file_names()
            .find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .map(str::to_owned)
            .ok_or("the archive holds no data.pkl: it is no torch.save file")?;
        let prefix = pickle.trim_end_matches("data.pkl").to_owned();
        if let Ok(mut order) = archive.by_name(&format!("{prefix}byteorder")) {
            let mut text = String::new();
            order
                .read_to_string(&mut text)
                .map_err(|error| error.to_string())?;
            if text.trim() != "little" {
                return Err(format!(
                    "it was written on a {}-endian machine",
                    text.trim()
                ));
            }
        }
        let bytes = read_entry(&mut archive, &pickle)?;
        let pickle = pickle::load(&bytes)?;
        Ok(Self {
            path: path.to_owned(),
            archive,
            prefix,
            pickle,
        })
    }

    /// The network's tensors by name: of the whole file, or of `state.model` with their prefix.
    fn network(&mut self) -> Result<BTreeMap<String, TensorData>, WeightsError> {
        let root = &self.pickle.root;
        let nested = root.entry("state").and_then(|state| state.entry("model"));
        let prefix = if nested.is_some() { NESTED_PREFIX } else { "" };
        let entries = nested.as_ref().unwrap_or(root).entries();
        let mut tensors = BTreeMap::new();
        for (name, value) in entries {
            if let (Some(name), Some(record)) = (name.strip_prefix(prefix), value.tensor()) {
                tensors.insert(name.to_owned(), self.read(&record, name)?);
            }
        }
        if tensors.is_empty() {
            return Err(format_error(
                &self.path,
                "it holds no tensors of a network; expected a state dict, or a checkpoint with state.model.dit.*",
            ));
        }
        Ok(tensors)
    }

    /// The values of the tensor of `name` as f32, row-major.
    fn read(&mut self, tensor: &TensorRecord, name: &str) -> Result<TensorData, WeightsError> {
        let data = self.values(tensor);
        let data = data.map_err(|error| format_error(&self.path, &format!("{name}: {error}")))?;
        Ok(data.convert_dtype(DType::F32))
    }

    /// The values of a tensor, row-major.
    fn values(&mut self, tensor: &TensorRecord) -> Result<TensorData, String> {
        let dtype = tensor.storage.dtype;
        let bytes = read_entry(
            &mut self.archive,
            &format!("{}data/{}", self.prefix, tensor.storage.key),
        )?;
        let size = dtype.size();
        let count: usize = tensor
            .shape
            .iter()
            .try_fold(1usize, |count, &side| count.checked_mul(side))
            .ok_or_else(|| format!("shape {:?} is too large", tensor.shape))?;
        // Every element comes from the storage; a count beyond it would need overlapping strides.
        if count > bytes.len() / size {
            return Err(format!(
                "shape {:?} needs more than its storage's {} bytes",
                tensor.shape,
                bytes.len()
            ));
        }
        let mut values = Vec::with_capacity(count * size);
        let mut index = vec![0usize; tensor.shape.len()];
        for _ in 0..count {
            let place = index
                .iter()
                .zip(&tensor.strides)
                .try_fold(tensor.offset, |place, (i, stride)| {
                    place.checked_add(i.checked_mul(*stride)?)
                });
            let element = place.and_then(|place| {
                let start = place.checked_mul(size)?;
                bytes.get(start..start.checked_add(size)?)
            });
            values.extend_from_slice(element.ok_or("a tensor reaches beyond its storage")?);
            for (i, side) in index.iter_mut().zip(&tensor.shape).rev() {
                *i += 1;
                if *i < *side {
                    break;
                }
                *i = 0;
            }
        }
        Ok(TensorData::from_bytes_vec(
            values,
            tensor.shape.clone(),
            dtype,
        ))
    }
}

fn read_entry(
    archive: &mut zip::ZipArchive<BufReader<File>>,
    name: &str,
) -> Result<Vec<u8>, String> {
    let mut entry = archive
        .by_name(name)
        .map_err(|error| format!("{name}: {error}"))?;
    let mut bytes = Vec::new();
    entry
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}
