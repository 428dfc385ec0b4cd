//! Files of weights, whose tensors are read when they are asked for.

use super::{
    Description, DescriptionError, WeightsError, content,
    content::Format,
    format_error, index,
    pytorch::{Checkpoint, TorchFile},
    safetensors::SafetensorsFile,
    wrappers,
};
use burn::tensor::{DType, TensorData};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file of weights, or the several an index lists: safetensors or PyTorch's, whatever they are called. Tensors are read one
/// by one, as f32, by names without the wrappers that libraries put around a network.
///
/// Files are read, not mapped into memory: if a mapped file is cut short, the missing part kills the process, where a read
/// returns an error that names the tensor. Reading goes straight into the tensor's own memory, too.
///
/// ```
/// use burn::tensor::{DType, TensorData};
/// use microdit::weights::{StateDict, WeightsFile};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.safetensors");
/// let tensors = ["_orig_mod.a", "_orig_mod.b"].map(|name| (name.to_owned(), TensorData::from([0.5f32, -2.0])));
/// StateDict::from_tensors(tensors).write_safetensors(&path, DType::F16, None)?;
/// let mut file = WeightsFile::open(&path)?;
/// assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
/// assert_eq!(file.read("b")?.unwrap().to_vec::<f32>().unwrap(), [0.5, -2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WeightsFile {
    /// The file that was opened.
    origin: PathBuf,
    parts: Vec<Part>,
    /// Names without wrappers, or those a view gives.
    names: BTreeMap<String, Stored>,
    /// Whether it shows other tensors than those of its files.
    is_view: bool,
    notes: Vec<String>,
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    part: usize,
    /// Its name there.
    name: String,
    form: Form,
}

/// How much of a stored tensor is meant, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All of it, as it is.
    Whole,
    /// A convolution with a window of one pixel, as the matrix it is.
    Matrix,
    /// One of `of` equal parts along the first dimension.
    Rows {
        /// Which, from 0.
        index: usize,
        /// How many there are.
        of: usize,
    },
}

impl Form {
    /// The shape of what is meant, of a tensor stored with `shape`; none if it has no such form.
    fn shape(self, shape: &[usize]) -> Option<Vec<usize>> {
        match (self, shape) {
            (Self::Whole, shape) => Some(shape.to_vec()),
            (Self::Matrix, &[rows, columns, 1, 1] | &[rows, columns]) => Some(vec![rows, columns]),
            (Self::Matrix, &[length]) => Some(vec![length]),
            (Self::Rows { of, .. }, [rows, rest @ ..]) if rows.is_multiple_of(of) => {
                Some([&[rows / of], rest].concat())
            }
            _ => None,
        }
    }

    /// What is meant of a stored tensor; none if it has no such form.
    fn of(self, data: TensorData) -> Option<TensorData> {
        let shape = self.shape(&data.shape)?;
        let Self::Rows { index, .. } = self else {
            return Some(TensorData {
                shape: shape.into(),
                ..data
            });
        };
        let size = shape.iter().product::<usize>();
        let values = data.as_slice::<f32>().ok()?;
        let own = values.get(index * size..(index + 1) * size)?;
        Some(TensorData::new(own.to_vec(), shape))
    }
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Safetensors(SafetensorsFile),
    Torch(Box<TorchFile>),
}

impl WeightsFile {
    /// Opens a file of weights, or an index.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, and one with several state dicts.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::open_at(path, None)
    }

    /// Opens a file of weights; of several state dicts in a PyTorch file, `key` chooses one: the keys that lead to it, joined by
    /// dots, or `.` for the file's own tensors.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, and one without such a state dict.
    pub fn open_at(path: &Path, key: Option<&str>) -> Result<Self, WeightsError> {
        let mut notes = Vec::new();
        let parts = match content::open(path)? {
            (file, Format::Index) => {
                let mut parts = Vec::new();
                for (part, expected) in index::parts(path, file)? {
                    let (file, format) = index::open(&part)?;
                    let part = Part::new(&part, file, format, None, &mut notes)?;
                    part.has_all(&expected)?;
                    parts.push(part);
                }
                parts
            }
            (file, format) => vec![Part::new(path, file, format, key, &mut notes)?],
        };
        Self::new(path, parts, notes)
    }

    /// Tensors of a PyTorch file, by names that are kept as they are.
    pub(super) fn of_torch(path: &Path, file: TorchFile) -> Self {
        let whole = |name: &str| Stored {
            part: 0,
            name: name.to_owned(),
            form: Form::Whole,
        };
        let names = file.names().map(|name| (name.to_owned(), whole(name)));
        Self {
            origin: path.to_owned(),
            names: names.collect(),
            is_view: false,
            parts: vec![Part {
                path: path.to_owned(),
                source: Source::Torch(Box::new(file)),
            }],
            notes: Vec::new(),
        }
    }

    fn new(path: &Path, parts: Vec<Part>, mut notes: Vec<String>) -> Result<Self, WeightsError> {
        let stored: Vec<(usize, String)> = parts
            .iter()
            .enumerate()
            .flat_map(|(i, part)| part.names().into_iter().map(move |name| (i, name)))
            .collect();
        let (bare, taken_off) = wrappers::unwrap(stored.iter().map(|(_, name)| name.as_str()));
        for prefix in taken_off {
            notes.push(format!("wrapper taken off the names: `{prefix}.`"));
        }
        let mut names = BTreeMap::new();
        for (name, (part, stored)) in bare.into_iter().zip(stored) {
            let place = Stored {
                part,
                name: stored.clone(),
                form: Form::Whole,
            };
            if let Some(other) = names.insert(name.clone(), place) {
                let other = other.name;
                let message = if other == stored {
                    format!("two of its files hold {name}")
                } else {
                    format!("without wrappers, {other} and {stored} are both {name}")
                };
                return Err(format_error(path, &message));
            }
        }
        Ok(Self {
            origin: path.to_owned(),
            parts,
            names,
            is_view: false,
            notes,
        })
    }

    /// The same file with other names: each stands for a tensor it has now, in some form.
    pub(super) fn view(self, names: impl IntoIterator<Item = (String, (String, Form))>) -> Self {
        let known = |(name, (now, form)): (String, (String, Form))| {
            let stored = self.names.get(&now)?;
            let form = match stored.form {
                Form::Whole => form,
                other => other,
            };
            Some((
                name,
                Stored {
                    form,
                    ..stored.clone()
                },
            ))
        };
        Self {
            names: names.into_iter().filter_map(known).collect(),
            is_view: true,
            ..self
        }
    }

    /// The same file with other names, which `name` makes of those it has.
    #[must_use]
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        let names: Vec<_> = self
            .names
            .keys()
            .map(|old| (name(old), (old.clone(), Form::Whole)))
            .collect();
        self.view(names)
    }

    /// The same file without the tensors for which `keep` is false.
    #[must_use]
    pub fn only(mut self, mut keep: impl FnMut(&str) -> bool) -> Self {
        self.names.retain(|name, _| keep(name));
        self.is_view = true;
        self
    }

    /// The file that was opened.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The files the tensors lie in: the one that was opened, or those the index lists.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// Names of the tensors, without wrappers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Notes on how the file was read: wrappers taken off, the state dict chosen, what was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the file says about its network; none if it says nothing.
    ///
    /// # Errors
    /// A description of another version, one that lacks a part or has an invalid one, and files of one network that
    /// contradict each other.
    pub fn description(&self) -> Result<Option<Description>, WeightsError> {
        let mut found = None;
        for part in &self.parts {
            let Source::Safetensors(file) = &part.source else {
                continue;
            };
            let fail = |error| WeightsError::Description {
                path: part.path.clone(),
                error,
            };
            let own = Description::read(file.metadata()).map_err(fail)?;
            match (&found, &own) {
                (Some(known), Some(own)) if known != own => {
                    return Err(fail(DescriptionError::Contradiction));
                }
                (None, _) => found = own,
                _ => {}
            }
        }
        Ok(found)
    }

    /// A text of the metadata; none if no file has it, or it is not kept.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let mut texts = self.parts.iter().filter_map(|part| match &part.source {
            Source::Safetensors(file) => file.metadata().get(key),
            Source::Torch(_) => None,
        });
        texts.next().map(String::as_str)
    }

    /// Number of values of all tensors together, without those of types that are not read.
    pub fn values(&self) -> usize {
        let shapes = self.names.keys().filter_map(|name| self.shape(name));
        let sizes = shapes.map(|shape| shape.into_iter().fold(1, usize::saturating_mul));
        sizes.fold(0, usize::saturating_add)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The shape of a tensor; none if there is no such tensor, or one that cannot be read.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let stored = self.names.get(name)?;
        let shape = match &self.parts[stored.part].source {
            Source::Safetensors(file) => file.shape(&stored.name),
            Source::Torch(file) => file.shape(&stored.name),
        };
        stored.form.shape(&shape?)
    }

    /// Tensors that are stored in whole numbers, counters and positions, and their types.
    pub fn whole_numbers(&self) -> Vec<(String, DType)> {
        let whole = self.names.iter().filter_map(|(name, stored)| {
            let element = match &self.parts[stored.part].source {
                Source::Safetensors(file) => file.element(&stored.name),
                Source::Torch(file) => file.element(&stored.name),
            };
            Some((name.clone(), element?.whole()?))
        });
        whole.collect()
    }

    /// Training steps that a checkpoint of PyTorch Lightning says it was trained for.
    pub fn global_step(&self) -> Option<u64> {
        self.parts.iter().find_map(|part| match &part.source {
            Source::Torch(file) => file.global_step(),
            Source::Safetensors(_) => None,
        })
    }

    /// The values of a tensor as f32, row-major; none if there is no such tensor.
    ///
    /// # Errors
    /// A file that is damaged or was cut short since, and a type f32 does not hold.
    pub fn read(&mut self, name: &str) -> Result<Option<TensorData>, WeightsError> {
        let Some(stored) = self.names.get(name) else {
            return Ok(None);
        };
        let part = &mut self.parts[stored.part];
        let data = match &mut part.source {
            Source::Safetensors(file) => file.read(&stored.name),
            Source::Torch(file) => file.read(&stored.name),
        };
        let formed = data.and_then(|data| {
            let shape = data.shape.to_vec();
            let formed = stored.form.of(data);
            formed.ok_or_else(|| {
                let (form, stored) = (stored.form, &stored.name);
                format!("{stored} has shape {shape:?}, which cannot be read as {form:?}")
            })
        });
        formed
            .map(Some)
            .map_err(|error| format_error(&part.path, &format!("{name}: {error}")))
    }

    /// All tensors; those that share their memory in the file do so here.
    pub(super) fn read_all(&mut self) -> Result<BTreeMap<String, Arc<TensorData>>, WeightsError> {
        if self.is_view {
            // Perhaps a few of many.
            let names: Vec<String> = self.names.keys().cloned().collect();
            let read = names.into_iter().filter_map(|name| {
                let data = self.read(&name).transpose()?;
                Some(data.map(|data| (name, Arc::new(data))))
            });
            return read.collect();
        }
        let mut parts = Vec::new();
        for part in &mut self.parts {
            let read = match &mut part.source {
                Source::Safetensors(file) => file.read_all(),
                Source::Torch(file) => file.read_all(),
            };
            parts.push(read.map_err(|(name, error)| {
                let message = match name {
                    Some(name) => format!("{name}: {error}"),
                    None => error,
                };
                format_error(&part.path, &message)
            })?);
        }
        let names = self.names.iter();
        let tensors = names.filter_map(|(name, stored)| {
            let data = parts[stored.part].remove(&stored.name)?;
            Some((name.clone(), data))
        });
        Ok(tensors.collect())
    }
}

impl Part {
    fn new(
        path: &Path,
        file: File,
        format: Format,
        key: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<Self, WeightsError> {
        let fail = |message: String| format_error(path, &message);
        let source = match format {
            Format::Torch(layout) => {
                let checkpoint = Checkpoint::open(file, layout).map_err(fail)?;
                let (file, said) =
                    checkpoint
                        .choose(key)
                        .map_err(|error| WeightsError::Choice {
                            path: path.to_owned(),
                            error,
                        })?;
                notes.extend(said);
                Source::Torch(Box::new(file))
            }
            _ if key.is_some_and(|key| key != ".") => {
                return Err(fail(
                    "a key chooses among the state dicts of a PyTorch file; this file has one"
                        .into(),
                ));
            }
            _ => Source::Safetensors(SafetensorsFile::open(file).map_err(fail)?),
        };
        Ok(Self {
            path: path.to_owned(),
            source,
        })
    }

    fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Safetensors(file) => file.names().map(str::to_owned).collect(),
            Source::Torch(file) => file.names().map(str::to_owned).collect(),
        }
    }

    fn has_all(&self, expected: &BTreeSet<String>) -> Result<(), WeightsError> {
        let there: BTreeSet<String> = self.names().into_iter().collect();
        let lacking = expected.difference(&there).next();
        lacking.map_or(Ok(()), |name| {
            Err(format_error(
                &self.path,
                &format!("it holds no {name}, which the index says lies here"),
            ))
        })
    }
}
