//! Published weights, by name.

use crate::config_file::format;
use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use microdit::{
    rng::{Purpose, Stream},
    weights::{StateDict, WeightsError, WeightsFile},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// The largest width and the most layers that a configuration may claim.
pub(crate) const MAX_WIDTH: usize = 1 << 17;
pub(crate) const MAX_LAYERS: usize = 1 << 10;

/// Halvings of an image's side at most.
pub(crate) const MAX_HALVINGS: usize = 8;

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

enum Source {
    File(Box<RefCell<WeightsFile>>),
    Computed(Box<Compute>),
}

/// The values of a tensor by its name and shape, row-major.
type Compute = dyn Fn(&str, &[usize]) -> Vec<f32>;

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Computed(_) => f.write_str("Computed"),
        }
    }
}

/// [`Weights`] under a prefix.
#[derive(Clone, Debug)]
pub struct At<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Weights {
    /// Opens a file of weights, or the index of several (`*.index.json`), in safetensors or PyTorch's format.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Ok(Self::of(WeightsFile::open(path)?))
    }

    /// The tensors of a file that is open already.
    pub fn of(file: WeightsFile) -> Self {
        let origin = file.origin().display().to_string();
        Self::new(Source::File(Box::new(RefCell::new(file))), origin)
    }

    /// Random tensors of any name and shape, which depend on seed and name alone: to measure a network, or to test
    /// what surrounds it, without a download. Matrices keep the size of what they multiply.
    pub fn random(seed: u64) -> Self {
        Self::computed("random weights", move |name, shape| {
            random(seed, name, shape)
        })
    }

    /// Tensors of any name and shape, whose values (row-major) `compute` makes from these; `origin` is what errors call them.
    ///
    /// ```
    /// use burn_flex::Flex;
    /// use microdit_encoders::Weights;
    ///
    /// let ones = Weights::computed("ones", |_, shape| vec![1.0; shape.iter().product()]);
    /// let matrix = ones.at("").tensor::<Flex, 2>("matrix", [2, 3], &Default::default())?;
    /// assert_eq!(matrix.sum().into_scalar(), 6.0);
    /// # Ok::<(), microdit::weights::WeightsError>(())
    /// ```
    pub fn computed(origin: &str, compute: impl Fn(&str, &[usize]) -> Vec<f32> + 'static) -> Self {
        Self::new(Source::Computed(Box::new(compute)), origin.to_owned())
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
    /// If the file cannot be written, or the one the tensors come from has been damaged since.
    pub fn write_read(&self, path: &Path, dtype: DType) -> Result<(), WeightsError> {
        let mut tensors = Vec::new();
        for (name, shape) in self.read.borrow().iter() {
            if let Some(data) = self.data(name, shape)? {
                tensors.push((name.clone(), data));
            }
        }
        StateDict::from_tensors(tensors).write_safetensors(path, dtype, None)
    }

    /// The tensors under `prefix.`, or all for an empty one.
    pub fn at(&self, prefix: &str) -> At<'_> {
        At {
            weights: self,
            prefix: prefix.to_owned(),
        }
    }

    /// The files the tensors lie in; none if they lie in no file.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::File(file) => file.borrow().files().map(Path::to_owned).collect(),
            Source::Computed(_) => Vec::new(),
        }
    }

    fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::File(file) => file.borrow().contains(name),
            Source::Computed(_) => true,
        }
    }

    fn names(&self) -> Vec<String> {
        match &self.source {
            Source::File(file) => file.borrow().names().map(str::to_owned).collect(),
            Source::Computed(_) => Vec::new(),
        }
    }

    /// The shape of a tensor that is there; computed weights have any.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.source {
            Source::File(file) => file.borrow().shape(name),
            Source::Computed(_) => None,
        }
    }

    fn data(&self, name: &str, shape: &[usize]) -> Result<Option<TensorData>, WeightsError> {
        match &self.source {
            Source::File(file) => file.borrow_mut().read(name),
            Source::Computed(compute) => Ok(Some(TensorData::new(compute(name, shape), shape))),
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
        let segment = segment.to_string();
        Self {
            weights: self.weights,
            prefix: match segment.is_empty() {
                true => self.prefix.clone(),
                false => self.name(&segment),
            },
        }
    }

    /// The first of `segments` under which there is a tensor `weight`, or else the first: names differ between libraries
    /// and their versions.
    #[must_use]
    pub fn at_any(&self, segments: &[&str]) -> Self {
        let known = |segment: &&&str| self.at(segment).has("weight");
        self.at(segments.iter().find(known).unwrap_or(&segments[0]))
    }

    /// Whether there is a tensor of that name; computed weights have every one.
    pub fn has(&self, name: &str) -> bool {
        self.weights.has(&self.name(name))
    }

    /// The shape of the tensor of that name, if it is there; computed weights have any, and none is known of theirs.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(&self.name(name))
    }

    /// The tensor of that name, in the backend's float type.
    ///
    /// # Errors
    /// If there is none, or one of another shape, or one with values that are not finite.
    pub fn tensor<B: Backend, const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        device: &B::Device,
    ) -> Result<Tensor<B, D>, WeightsError> {
        let name = self.name(name);
        let weights = self.weights;
        // Checked before reading: a tensor that does not fit may be of any size.
        if let Some(found) = weights.shape(&name).filter(|found| *found != shape) {
            let misshapen = vec![(name, shape.to_vec(), found)];
            return Err(weights.mismatch(Vec::new(), Vec::new(), misshapen));
        }
        let Some(data) = weights.data(&name, &shape)? else {
            return Err(weights.mismatch(vec![name], Vec::new(), Vec::new()));
        };
        WeightsError::unless_finite(&weights.origin, &name, &data)?;
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
        let mut surplus = self.weights.names();
        surplus.retain(|name| name.starts_with(&prefix) && !read.contains_key(name));
        if surplus.is_empty() {
            return Ok(());
        }
        Err(self.weights.mismatch(Vec::new(), surplus, Vec::new()))
    }

    /// An error about the network these weights are for.
    pub(crate) fn unusable(&self, message: &str) -> WeightsError {
        format(Path::new(&self.weights.origin), message)
    }

    /// Checks that a size of the network's configuration is within `range`.
    ///
    /// # Errors
    /// If it is not, with the key it is read from.
    pub(crate) fn within(
        &self,
        key: &str,
        value: usize,
        range: RangeInclusive<usize>,
    ) -> Result<(), WeightsError> {
        if range.contains(&value) {
            return Ok(());
        }
        let expected = match (range.start(), range.end()) {
            (only, most) if only == most => only.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        Err(self.unusable(&format!(
            "{key} of the configuration is {value}; expected {expected}"
        )))
    }

    /// The same for what is added to variances so that none is 0.
    pub(crate) fn epsilon(&self, key: &str, value: f64) -> Result<(), WeightsError> {
        if value > 0.0 && value < 1.0 {
            return Ok(());
        }
        Err(self.unusable(&format!(
            "{key} of the configuration is {value}; expected a number between 0 and 1"
        )))
    }

    fn name(&self, segment: &str) -> String {
        match self.prefix.as_str() {
            "" => segment.to_owned(),
            prefix => format!("{prefix}.{segment}"),
        }
    }
}

/// Normal values; of vectors, which are biases of norms or their factors and variances, around 0 and 1.
fn random(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let inputs: usize = shape.iter().skip(1).product();
    let (mean, std) = match shape.len() {
        1 if name.ends_with("weight") || name.ends_with("running_var") => (1.0, 0.05),
        1 => (0.0, 0.05),
        _ => (0.0, 1.0 / (inputs as f32).sqrt()),
    };
    let mut stream = Stream::named(seed, Purpose::Init, name);
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
    use std::fs::File;

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
            state.write_safetensors(&path(file), dtype, None).unwrap();
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
        state.write_safetensors(&path, DType::F32, None).unwrap();
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
    fn an_index_leads_nowhere_else_and_holds_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("model");
        std::fs::create_dir(&inner).unwrap();
        for place in [folder.path(), &inner] {
            let path = place.join("a.safetensors");
            state(&["a"])
                .write_safetensors(&path, DType::F32, None)
                .unwrap();
        }
        std::fs::copy(inner.join("a.safetensors"), inner.join("again")).unwrap();
        std::fs::create_dir(inner.join("directory")).unwrap();
        let index = inner.join("model.safetensors.index.json");
        let absolute = folder.path().join("a.safetensors");
        let absolute = absolute.to_string_lossy();
        for (map, part) in [
            (
                r#"{"a": "../a.safetensors"}"#,
                "expected a file beside the index",
            ),
            (
                &format!(r#"{{"a": "{absolute}"}}"#),
                "expected a file beside the index",
            ),
            (r#"{"a": "directory"}"#, "directory: it is a directory"),
            (
                r#"{"a": "model.safetensors.index.json"}"#,
                "an index within an index",
            ),
            (
                r#"{"a": "a.safetensors", "b": "a.safetensors"}"#,
                "it holds no b",
            ),
            (r#"{"a": "a.safetensors", "a2": "again"}"#, "it holds no a2"),
            ("{}", "it lists no tensors"),
            (r#"{"a": 1}"#, "not an index of weights"),
        ] {
            std::fs::write(&index, format!(r#"{{"weight_map": {map}}}"#)).unwrap();
            let error = Weights::open(&index).unwrap_err().to_string();
            assert!(error.contains(part), "{map}: {error}");
        }
    }

    /// Reading the missing part of a mapped file would kill the process.
    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        state(&["a", "b"])
            .write_safetensors(&path, DType::F32, None)
            .unwrap();
        let weights = Weights::open(&path).unwrap();
        values(&weights, "a").unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(length - 4).unwrap();
        let error = values(&weights, "b").unwrap_err().to_string();
        assert!(error.contains("b: the file has been cut short"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let data = TensorData::from([1.0, f32::NAN]);
        StateDict::from_tensors([("a".to_owned(), data)])
            .write_safetensors(&path, DType::F16, None)
            .unwrap();
        let error = values(&Weights::open(&path).unwrap(), "a").unwrap_err();
        assert!(error.to_string().contains("a: value 1 is NaN"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        state(&["a"])
            .write_safetensors(&path, DType::F32, None)
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], b"", &[0xff; 64]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Weights::open(&path).is_err());
        }
    }
}
