//! PyTorch's own files: the tensors of a pickle, in either layout of `torch.save`.

#![deny(clippy::arithmetic_side_effects)]

use super::{
    archive::Archive,
    choice::{self, Choice},
    choice_error::ChoiceError,
    content::Layout,
    element::Element,
    legacy,
    pickle::{self, Pickle, TensorRecord, Value},
    storages::Storages,
};
use burn::tensor::TensorData;
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    sync::Arc,
};

/// Memory that tensors read from a file may take together, relative to the file: every view is read by itself, and there
/// may be more of them than any memory has room for.
const MOST_VIEWS: u64 = 4;

/// The same for tensors under all their names, where those of one view share their memory: the size of a file written from
/// them.
const MOST_NAMED: u64 = 64;

/// What is always read.
const ALWAYS: u64 = 1 << 20;
const ALWAYS_NAMED: u64 = 1 << 30;

/// The storages, and what the pickle says of them.
pub(super) struct Checkpoint {
    storages: Storages,
    pub(super) pickle: Pickle,
}

impl Checkpoint {
    /// Opens a checkpoint and reads its pickle.
    pub(super) fn open(file: File, layout: Layout) -> Result<Self, String> {
        match layout {
            Layout::Zip => Self::open_archive(file),
            Layout::Legacy => {
                let (storages, pickle) = legacy::open(file)?;
                Ok(Self {
                    storages: Storages::Legacy(storages),
                    pickle,
                })
            }
        }
    }

    fn open_archive(file: File) -> Result<Self, String> {
        let mut archive = Archive::open(file)?;
        let name = archive
            .names()
            .find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .map(str::to_owned)
            .ok_or("the archive holds no data.pkl: it is not a torch.save file")?;
        let prefix = name.trim_end_matches("data.pkl").to_owned();
        let order = format!("{prefix}byteorder");
        if archive.size(&order).is_some_and(|size| size < 16) {
            let order = archive.read(&order)?;
            if order.trim_ascii() != b"little" {
                return Err("it was written on a big-endian machine".into());
            }
        }
        let size = archive.size(&name).unwrap_or_default();
        if size > pickle::MAX_BYTES {
            return Err(format!(
                "its description of tensors has {size} bytes; at most {} are read",
                pickle::MAX_BYTES
            ));
        }
        let bytes = archive.read(&name)?;
        let pickle = pickle::load(&bytes)?;
        Ok(Self {
            storages: Storages::Zip(archive, prefix),
            pickle,
        })
    }

    /// Names of the classes whose objects were left unread; of very many only the first.
    pub(super) fn unread(&self) -> Vec<String> {
        let classes = self.pickle.unread.iter().take(100);
        classes
            .map(|(module, name)| format!("{module}.{name}"))
            .collect()
    }

    /// Keeps the chosen tensors and lets go of the rest.
    ///
    /// # Errors
    /// If there is no state dict, or several and none was asked for.
    pub(super) fn choose(self, key: Option<&str>) -> Result<(TorchFile, Vec<String>), ChoiceError> {
        let unread = self.unread();
        let choice = choice::choose(&self.pickle.root, key).map_err(|error| ChoiceError {
            unread: unread.clone(),
            ..error
        });
        let global_step = match self.pickle.root.entry("global_step") {
            Some(Value::Int(step)) => u64::try_from(step).ok(),
            _ => None,
        };
        let Choice { tensors, mut notes } = choice?;
        if !unread.is_empty() {
            notes.push(format!("objects left unread: {}", unread.join(", ")));
        }
        let mut file = TorchFile::new(self.storages, tensors);
        file.global_step = global_step;
        Ok((file, notes))
    }

    /// The storages alone, with these tensors.
    pub(super) fn into_file(self, tensors: impl IntoIterator<Item = (String, Value)>) -> TorchFile {
        TorchFile::new(self.storages, tensors)
    }
}

/// Named tensors of a file.
#[derive(Debug)]
pub(super) struct TorchFile {
    storages: Storages,
    tensors: BTreeMap<String, Held>,
    /// The storage read last: views of one follow each other.
    last: Option<(String, Vec<u8>)>,
    /// Training steps, as PyTorch Lightning writes them.
    global_step: Option<u64>,
}

/// A tensor, or why it cannot be read.
#[derive(Clone, Debug)]
enum Held {
    Record(Arc<TensorRecord>),
    Unreadable(Arc<str>),
}

impl TorchFile {
    fn new(storages: Storages, tensors: impl IntoIterator<Item = (String, Value)>) -> Self {
        let tensors = tensors.into_iter().filter_map(|(name, value)| match value {
            Value::Tensor(record) => Some((name, Held::Record(record))),
            Value::Unreadable(why) => Some((name, Held::Unreadable((&*why).into()))),
            _ => None,
        });
        Self {
            tensors: tensors.collect(),
            storages,
            last: None,
            global_step: None,
        }
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor that can be read.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.tensors.get(name)? {
            Held::Record(record) => Some(record.shape.clone()),
            Held::Unreadable(_) => None,
        }
    }

    /// The type of a tensor that can be read.
    pub(super) fn element(&self, name: &str) -> Option<Element> {
        match self.tensors.get(name)? {
            Held::Record(record) => Some(record.element),
            Held::Unreadable(_) => None,
        }
    }

    /// Training steps, as PyTorch Lightning writes them.
    pub(super) fn global_step(&self) -> Option<u64> {
        self.global_step
    }

    /// The values of a tensor as f32, row-major.
    pub(super) fn read(&mut self, name: &str) -> Result<TensorData, String> {
        match self.tensors.get(name) {
            Some(Held::Record(record)) => {
                let record = record.clone();
                self.values(&record)
            }
            Some(Held::Unreadable(why)) => Err(why.to_string()),
            None => Err("there is no such tensor".into()),
        }
    }

    /// All tensors; those that are one view of one memory share theirs here, too.
    ///
    /// # Errors
    /// The name of a tensor that cannot be read, and why; or none, if they take too much memory together.
    pub(super) fn read_all(
        &mut self,
    ) -> Result<BTreeMap<String, Arc<TensorData>>, (Option<String>, String)> {
        self.within_bounds().map_err(|message| (None, message))?;
        let mut all: Vec<(String, Held)> = self.tensors.clone().into_iter().collect();
        // Storage after storage, each of which is read once.
        all.sort_by(|(_, a), (_, b)| a.storage().cmp(&b.storage()));
        let mut views: HashMap<Arc<TensorRecord>, Arc<TensorData>> = HashMap::new();
        let mut tensors = BTreeMap::new();
        for (name, held) in all {
            let data = match held {
                Held::Unreadable(why) => Err(why.to_string()),
                Held::Record(record) => match views.get(&record) {
                    Some(data) => Ok(data.clone()),
                    None => self.values(&record).map(|data| {
                        let data = Arc::new(data);
                        views.insert(record, data.clone());
                        data
                    }),
                },
            };
            match data {
                Ok(data) => drop(tensors.insert(name, data)),
                Err(message) => return Err((Some(name), message)),
            }
        }
        self.last = None;
        Ok(tensors)
    }

    fn within_bounds(&self) -> Result<(), String> {
        let records = self.tensors.values().filter_map(|held| match held {
            Held::Record(record) => Some(record),
            Held::Unreadable(_) => None,
        });
        let mut views = std::collections::HashSet::new();
        let (mut named, mut distinct) = (0u64, 0u64);
        for record in records {
            let bytes = record.bytes().map_or(u64::MAX, |bytes| bytes as u64);
            named = named.saturating_add(bytes);
            if views.insert(record) {
                distinct = distinct.saturating_add(bytes);
            }
        }
        let length = self.storages.length();
        let most = |times: u64, always: u64| length.saturating_mul(times).max(always);
        if distinct > most(MOST_VIEWS, ALWAYS) || named > most(MOST_NAMED, ALWAYS_NAMED) {
            return Err(format!(
                "its {} tensors would take {named} bytes, {distinct} of them in views of their own; the file has {length}",
                self.tensors.len()
            ));
        }
        Ok(())
    }

    fn values(&mut self, tensor: &TensorRecord) -> Result<TensorData, String> {
        let key = &tensor.storage.key;
        if self.last.as_ref().is_none_or(|(last, _)| last != key) {
            // The old one is freed before the new one is read.
            self.last = None;
            let bytes = self.storages.read(key)?;
            self.last = Some((key.clone(), bytes));
        }
        let bytes = self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let bytes = tensor.storage.part(bytes)?;
        let size = tensor.element.size();
        // Every element comes from the storage; a count beyond it would need overlapping strides.
        let count = tensor.bytes().filter(|&count| count <= bytes.len());
        let count = count.ok_or_else(|| {
            format!(
                "shape {:?} needs more than its storage's {} bytes",
                tensor.shape,
                bytes.len()
            )
        })?;
        let mut values = Vec::with_capacity(count.checked_div(size).unwrap_or_default());
        if is_contiguous(tensor) {
            let begin = tensor.offset.checked_mul(size);
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(count)?));
            let found = range.and_then(|range| bytes.get(range));
            let bytes = found.ok_or_else(|| beyond(bytes))?;
            tensor.element.append(bytes, &mut values)?;
        } else {
            let bytes = gather(tensor, bytes, count)?;
            tensor.element.append(&bytes, &mut values)?;
        }
        Ok(TensorData::new(values, tensor.shape.clone()))
    }
}

impl Held {
    fn storage(&self) -> Option<&str> {
        match self {
            Self::Record(record) => Some(&record.storage.key),
            Self::Unreadable(_) => None,
        }
    }
}

fn beyond(storage: &[u8]) -> String {
    format!("it reaches beyond its storage's {} bytes", storage.len())
}

/// Whether elements lie one after the other, the last dimension's closest.
fn is_contiguous(tensor: &TensorRecord) -> bool {
    let mut expected = 1usize;
    tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .rev()
        .all(|(&side, &stride)| {
            let fits = side <= 1 || stride == expected;
            expected = expected.saturating_mul(side);
            fits
        })
}

/// The bytes of the elements, row-major.
fn gather(tensor: &TensorRecord, bytes: &[u8], count: usize) -> Result<Vec<u8>, String> {
    let size = tensor.element.size();
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0usize; tensor.shape.len()];
    while values.len() < count {
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
        values.extend_from_slice(element.ok_or_else(|| beyond(bytes))?);
        for (i, side) in index.iter_mut().zip(&tensor.shape).rev() {
            *i = i.saturating_add(1);
            if *i < *side {
                break;
            }
            *i = 0;
        }
    }
    Ok(values)
}
