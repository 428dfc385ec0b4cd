//! Published weights, by name: memory-mapped, so that a tensor goes from the file to the device without a second copy.

use crate::hashed_words::hash;
use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use memmap2::Mmap;
use microdit::{
    rng::{Purpose, Stream},
    weights::{StateDict, WeightsError},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// Where a frozen network takes its tensors from, whatever float type they are stored in.
///
/// ```
/// use burn_flex::Flex;
/// use microdit_encoders::Weights;
///
/// let weights = Weights::random(0);
/// let bias = weights.at("encoder").at("conv").tensor::<Flex, 1>("bias", [4], &Default::default())?;
/// assert_eq!(bias.dims(), [4]);
/// # Ok::<(), microdit::weights::WeightsError>(())
/// ```
#[derive(Debug)]
pub struct Weights {
    source: Source,
    origin: String,
    /// Names and shapes asked for.
    read: RefCell<BTreeMap<String, Vec<usize>>>,
}

#[derive(Debug)]
enum Source {
    Mapped(BTreeMap<String, Stored>, Vec<Mmap>),
    State(StateDict),
    Random(u64),
}

/// A tensor in a mapped file.
#[derive(Debug)]
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    /// The file's place in the list.
    file: usize,
    bytes: Range<usize>,
}

/// [`Weights`] under a prefix.
#[derive(Clone, Debug)]
pub struct At<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Weights {
    /// Opens a `.safetensors` file, the index of several (`*.safetensors.index.json`), or a PyTorch file, which is read as
    /// a whole.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let source = match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => map(&[path.to_owned()])?,
            Some("json") => map(&indexed(path)?)?,
            _ => Source::State(StateDict::read(path)?),
        };
        Ok(Self::new(source, path.display().to_string()))
    }

    /// Random tensors of any name and shape, which depend on seed and name alone: to measure a network, or to test
    /// what surrounds it, without a download. Matrices keep the size of what they multiply.
    pub fn random(seed: u64) -> Self {
        Self::new(Source::Random(seed), "random weights".into())
    }

    fn new(source: Source, origin: String) -> Self {
        Self {
            source,
            origin,
            read: RefCell::default(),
        }
    }

    /// Writes the tensors that have been read to a safetensors file of float type `dtype`: of a file with several networks,
    /// those of the network that was loaded.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_read(&self, path: &Path, dtype: DType) -> Result<(), WeightsError> {
        let read = self.read.borrow();
        let tensors = read
            .iter()
            .filter_map(|(name, shape)| Some((name.clone(), self.data(name, shape)?)));
        StateDict::from_tensors(tensors).write_safetensors(path, dtype, HashMap::new())
    }

    /// The tensors under `prefix.`, or all for an empty one.
    pub fn at(&self, prefix: &str) -> At<'_> {
        At {
            weights: self,
            prefix: prefix.to_owned(),
        }
    }

    fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Mapped(tensors, _) => tensors.contains_key(name),
            Source::State(state) => state.get(name).is_some(),
            Source::Random(_) => true,
        }
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.source {
            Source::Mapped(tensors, _) => Box::new(tensors.keys().map(String::as_str)),
            Source::State(state) => Box::new(state.iter().map(|(name, _)| name.as_str())),
            Source::Random(_) => Box::new(std::iter::empty()),
        }
    }

    fn data(&self, name: &str, shape: &[usize]) -> Option<TensorData> {
        match &self.source {
            Source::Mapped(tensors, files) => {
                let stored = tensors.get(name)?;
                let bytes = &files[stored.file][stored.bytes.clone()];
                let values = floats(bytes, stored.dtype);
                Some(TensorData::new(values, stored.shape.clone()))
            }
            Source::State(state) => state.get(name).cloned(),
            Source::Random(seed) => Some(TensorData::new(random(*seed, name, shape), shape)),
        }
    }

    fn mismatch(
        &self,
        missing: Vec<String>,
        surplus: Vec<String>,
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    ) -> WeightsError {
        WeightsError::Mismatch {
            origin: self.origin.clone(),
            missing,
            surplus,
            misshapen,
        }
    }
}

impl<'a> At<'a> {
    /// The tensors under one more segment of the name.
    #[must_use]
    pub fn at(&self, segment: impl std::fmt::Display) -> Self {
        Self {
            weights: self.weights,
            prefix: self.name(&segment.to_string()),
        }
    }

    /// The first of `segments` under which there is a tensor `weight`, or the first of all: what one library names
    /// so another, or an earlier version, names otherwise.
    #[must_use]
    pub fn at_any(&self, segments: &[&str]) -> Self {
        let known = |segment: &&&str| self.at(segment).has("weight");
        self.at(segments.iter().find(known).unwrap_or(&segments[0]))
    }

    /// Whether there is a tensor of that name; random weights have every one.
    pub fn has(&self, name: &str) -> bool {
        self.weights.has(&self.name(name))
    }

    /// The tensor of that name, in the backend's float type.
    ///
    /// # Errors
    /// If there is none, or one of another shape.
    pub fn tensor<B: Backend, const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        device: &B::Device,
    ) -> Result<Tensor<B, D>, WeightsError> {
        let name = self.name(name);
        let weights = self.weights;
        let Some(data) = weights.data(&name, &shape) else {
            return Err(weights.mismatch(vec![name], Vec::new(), Vec::new()));
        };
        if data.shape.as_slice() != shape {
            let misshapen = vec![(name, shape.to_vec(), data.shape.to_vec())];
            return Err(weights.mismatch(Vec::new(), Vec::new(), misshapen));
        }
        weights.read.borrow_mut().insert(name, shape.to_vec());
        Ok(Tensor::from_data(data, device))
    }

    /// Checks that no tensor under the prefix was left unread.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with the tensors left over: the configuration describes a smaller network.
    pub fn all_read(&self) -> Result<(), WeightsError> {
        let prefix = self.name("");
        let read = self.weights.read.borrow();
        let left = |name: &&str| name.starts_with(&prefix) && !read.contains_key(*name);
        let surplus: Vec<String> = self
            .weights
            .names()
            .filter(left)
            .map(str::to_owned)
            .collect();
        if surplus.is_empty() {
            return Ok(());
        }
        Err(self.weights.mismatch(Vec::new(), surplus, Vec::new()))
    }

    /// An error about the network these weights are for.
    pub(crate) fn unusable(&self, message: &str) -> WeightsError {
        format(Path::new(&self.weights.origin), message)
    }

    fn name(&self, segment: &str) -> String {
        match self.prefix.as_str() {
            "" => segment.to_owned(),
            prefix => format!("{prefix}.{segment}"),
        }
    }
}

/// Maps files and reads where their tensors lie.
fn map(paths: &[PathBuf]) -> Result<Source, WeightsError> {
    let (mut tensors, mut files) = (BTreeMap::new(), Vec::new());
    for path in paths {
        let io = |error| WeightsError::Io {
            path: path.clone(),
            error,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only; like every program that maps its inputs, we rely on nobody cutting the file short
        // while it is read.
        let mapped = unsafe { Mmap::map(&file) }.map_err(io)?;
        // Checks that the tensors lie inside the file one after the other, as long as their shapes say.
        let (header, metadata) = SafeTensors::read_metadata(&mapped)
            .map_err(|error| format(path, &format!("no sound safetensors file ({error})")))?;
        let begin = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let dtype = match info.dtype {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                // Token positions and the like, which are computed here.
                _ => continue,
            };
            let (start, end) = info.data_offsets;
            let stored = Stored {
                dtype,
                shape: info.shape.clone(),
                file: files.len(),
                bytes: begin + start..begin + end,
            };
            tensors.insert(name, stored);
        }
        files.push(mapped);
    }
    Ok(Source::Mapped(tensors, files))
}

/// The files an index lists, which lie beside it.
fn indexed(index: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let json = json(index)?;
    let files = json["weight_map"].as_object().ok_or_else(|| {
        format(
            index,
            "no `weight_map`; expected the index of a safetensors model in parts",
        )
    })?;
    let files: BTreeSet<&str> = files.values().filter_map(Value::as_str).collect();
    Ok(files
        .into_iter()
        .map(|file| index.with_file_name(file))
        .collect())
}

/// The first of `names` that is a file in `folder`.
pub(crate) fn find(folder: &Path, names: &[&str]) -> Result<PathBuf, WeightsError> {
    let found = names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let message = format!(
            "no weights in this directory; expected {}",
            names.join(" or ")
        );
        format(folder, &message)
    })
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Result<Value, WeightsError> {
    let text = std::fs::read_to_string(path).map_err(|error| WeightsError::Io {
        path: path.to_owned(),
        error,
    })?;
    serde_json::from_str(&text).map_err(|error| format(path, &format!("no JSON ({error})")))
}

pub(crate) fn format(path: &Path, message: &str) -> WeightsError {
    WeightsError::Format {
        path: path.to_owned(),
        message: message.to_owned(),
    }
}

fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    match dtype {
        DType::F16 => pairs
            .iter()
            .map(|&pair| half::f16::from_le_bytes(pair).to_f32())
            .collect(),
        DType::BF16 => pairs
            .iter()
            .map(|&pair| half::bf16::from_le_bytes(pair).to_f32())
            .collect(),
        _ => {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|&word| f32::from_le_bytes(word)).collect()
        }
    }
}

/// Normal values; of vectors, which are biases and factors of norms, around 0 and 1.
fn random(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let inputs: usize = shape[1..].iter().product();
    let (mean, std) = match shape.len() {
        1 if name.ends_with("weight") => (1.0, 0.05),
        1 => (0.0, 0.05),
        _ => (0.0, 1.0 / (inputs as f32).sqrt()),
    };
    let mut stream = Stream::new(seed, Purpose::Init, 0, hash(name));
    let mut values = stream.normal(shape.iter().product());
    for value in &mut values {
        *value = mean + std * *value;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    fn state(names: &[&str]) -> StateDict {
        StateDict::from_tensors(names.iter().enumerate().map(|(i, name)| {
            let values = vec![i as f32 + 0.5, -2.0];
            ((*name).to_owned(), TensorData::new(values, [2]))
        }))
    }

    fn values(weights: &Weights, name: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor: Tensor<Flex, 1> = weights.at("").tensor(name, [2], &Default::default())?;
        Ok(tensor.into_data().to_vec().unwrap())
    }

    #[test]
    fn every_float_type_is_read_from_one_file_or_several() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (file, dtype, name) in [
            ("a.safetensors", DType::F16, "a"),
            ("b.safetensors", DType::BF16, "b"),
        ] {
            let state = state(&[name]);
            state
                .write_safetensors(&path(file), dtype, HashMap::new())
                .unwrap();
        }
        let index = r#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
        std::fs::write(path("model.safetensors.index.json"), index).unwrap();
        let weights = Weights::open(&path("model.safetensors.index.json")).unwrap();
        for name in ["a", "b"] {
            assert_eq!(values(&weights, name).unwrap(), [0.5, -2.0]);
        }
        weights.at("").all_read().unwrap();
    }

    #[test]
    fn what_was_read_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let random = Weights::random(3);
        let expected = values(&random, "norm.bias").unwrap();
        random.write_read(&path, DType::F32).unwrap();
        let written = Weights::open(&path).unwrap();
        assert_eq!(values(&written, "norm.bias").unwrap(), expected);
        written.at("").all_read().unwrap();
    }

    #[test]
    fn misfits_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let state = state(&["own.here", "own.left", "foreign"]);
        state
            .write_safetensors(&path, DType::F32, HashMap::new())
            .unwrap();
        let weights = Weights::open(&path).unwrap();
        values(&weights, "own.here").unwrap();
        let missing = values(&weights, "gone").unwrap_err().to_string();
        assert!(
            missing.contains("w.safetensors") && missing.contains("missing    gone"),
            "{missing}"
        );
        let wide = weights
            .at("")
            .tensor::<Flex, 2>("own.left", [2, 3], &Default::default());
        let wide = wide.unwrap_err().to_string();
        assert!(
            wide.contains("own.left: expected [2, 3], found [2]"),
            "{wide}"
        );
        let surplus = weights.at("own").all_read().unwrap_err().to_string();
        assert!(
            surplus.contains("surplus    own.left") && !surplus.contains("foreign"),
            "{surplus}"
        );
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        state(&["a"])
            .write_safetensors(&path, DType::F32, HashMap::new())
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], b"", &[0xff; 64]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Weights::open(&path).is_err());
        }
    }
}
