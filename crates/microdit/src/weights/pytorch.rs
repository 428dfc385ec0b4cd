//! PyTorch's own files (`torch.save`'s zip layout): the tensors of a state dict or of a training checkpoint.

use super::{
    WeightsError, format_error, io_error,
    pickle::{self, Pickle, TensorRecord},
};
use burn::tensor::{DType, TensorData};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// Prefix of the network's tensors in a training checkpoint of the reference.
const NESTED_PREFIX: &str = "dit.";

/// The network's tensors by name.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let fail = |message: String| format_error(path, &message);
    let file = File::open(path).map_err(io_error(path))?;
    let mut checkpoint = Checkpoint::open(path, file).map_err(fail)?;
    let nested = checkpoint
        .pickle
        .root
        .entry("state")
        .and_then(|state| state.entry("model"));
    let records = match &nested {
        Some(model) => model
            .tensors()
            .into_iter()
            .filter_map(|(name, record)| {
                Some((name.strip_prefix(NESTED_PREFIX)?.to_owned(), record))
            })
            .collect(),
        None => checkpoint.pickle.root.tensors(),
    };
    if records.is_empty() {
        return Err(fail(
            "it holds no tensors of a network; expected a state dict, or a checkpoint with state.model.dit.*".into(),
        ));
    }
    records
        .into_iter()
        .map(|(name, record)| {
            let data = checkpoint
                .read(&record)
                .map_err(|error| fail(format!("{name}: {error}")))?;
            Ok((name, data.convert_dtype(DType::F32)))
        })
        .collect()
}

/// A checkpoint: its pickled data, and the archive that holds the tensors' memory.
struct Checkpoint {
    archive: zip::ZipArchive<BufReader<File>>,
    prefix: String,
    pickle: Pickle,
}

impl Checkpoint {
    /// Opens a checkpoint and reads its pickle.
    fn open(path: &Path, file: File) -> Result<Self, String> {
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
            archive,
            prefix,
            pickle,
        })
    }

    /// The values of a tensor, row-major.
    fn read(&mut self, tensor: &TensorRecord) -> Result<TensorData, String> {
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
