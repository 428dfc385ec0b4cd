//! safetensors files: read tensor by tensor, written whole or not at all.

#![deny(clippy::arithmetic_side_effects)]

use super::{WeightsError, description::PREFIX, element::Element, format_error, io_error, lora};
use crate::atomic_file;
use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

/// The largest header a safetensors file may have (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// The key in the header that is not a tensor.
const METADATA: &str = "__metadata__";

/// Most bytes of one text that is kept of the metadata.
const MAX_TEXT: usize = 1 << 20;

/// Metadata by which some PyTorch libraries recognize a file of weights.
const FORMAT: (&str, &str) = ("format", "pt");

/// The data begin at a multiple of this, so that a reader can map them.
const ALIGNMENT: usize = 8;

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// The types weights are written in, and burn's names of them.
const FLOATS: [(Dtype, DType); 3] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
];

/// The types of counters and positions, in which those are written whatever the weights' type.
const WHOLE: [(Dtype, DType); 8] = [
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::I8, DType::I8),
    (Dtype::U64, DType::U64),
    (Dtype::U32, DType::U32),
    (Dtype::U16, DType::U16),
    (Dtype::U8, DType::U8),
];

/// A file that is open, and where its tensors lie.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    file: File,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Place {
    element: Result<Element, String>,
    shape: Vec<usize>,
    begin: u64,
    length: u64,
}

impl SafetensorsFile {
    /// Reads the header, and checks that tensors lie in the file one after the other, as long as their shapes say, and fill it.
    pub(super) fn open(mut file: File) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let length = file.metadata().map_err(text)?.len();
        let mut prefix = [0u8; 8];
        file.read_exact(&mut prefix).map_err(text)?;
        let header_length = u64::from_le_bytes(prefix);
        let begin = header_length.saturating_add(8);
        if header_length > MAX_HEADER || begin > length {
            return Err(format!(
                "its header claims {header_length} of the file's {length} bytes; this is not a safetensors file, or a truncated one"
            ));
        }
        let mut header = Vec::new();
        let read = (&mut file).take(header_length).read_to_end(&mut header);
        read.map_err(text)?;
        let mut header: Header =
            serde_json::from_slice(&header).map_err(|error| format!("damaged header: {error}"))?;
        let metadata = header.metadata.take().unwrap_or_default().0;
        let (tensors, end) = header.places(begin)?;
        if end > length {
            return Err(format!(
                "it is truncated: it has {length} bytes, its header says {end}; copy or download it again"
            ));
        }
        if end < length {
            return Err(format!(
                "its header says it has {end} bytes, it has {length}: it is damaged"
            ));
        }
        Ok(Self {
            file,
            tensors,
            metadata,
        })
    }

    /// The texts of its metadata under keys of ours and of adapters.
    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor that can be read.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let place = self.tensors.get(name)?;
        place.element.is_ok().then(|| place.shape.clone())
    }

    /// The type of a tensor that can be read.
    pub(super) fn element(&self, name: &str) -> Option<Element> {
        self.tensors.get(name)?.element.clone().ok()
    }

    /// The values of a tensor as f32, row-major.
    pub(super) fn read(&mut self, name: &str) -> Result<TensorData, String> {
        let place = self.tensors.get(name).ok_or("there is no such tensor")?;
        let element = place
            .element
            .clone()
            .map_err(|foreign| format!("it is stored as {foreign}, which is not read"))?;
        let text = |error: io::Error| error.to_string();
        self.file.seek(SeekFrom::Start(place.begin)).map_err(text)?;
        let size = element.size() as u64;
        let count = place.length.checked_div(size).unwrap_or_default();
        let mut values = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        let mut rest = place.length;
        let mut chunk = Vec::new();
        while rest > 0 {
            let next = rest.min(CHUNK);
            chunk.clear();
            let read = (&mut self.file).take(next).read_to_end(&mut chunk);
            if read.map_err(text)? as u64 != next {
                return Err("the file has been cut short since it was opened".into());
            }
            element.append(&chunk, &mut values)?;
            rest = rest.saturating_sub(next);
        }
        Ok(TensorData::new(values, place.shape.clone()))
    }

    /// All tensors.
    ///
    /// # Errors
    /// The name of a tensor that cannot be read, and why.
    pub(super) fn read_all(
        &mut self,
    ) -> Result<BTreeMap<String, Arc<TensorData>>, (Option<String>, String)> {
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        let read = |name: String| match self.read(&name) {
            Ok(data) => Ok((name, Arc::new(data))),
            Err(message) => Err((Some(name), message)),
        };
        names.into_iter().map(read).collect()
    }
}

/// The header: tensors by name, each of which may occur once.
struct Header {
    metadata: Option<Metadata>,
    tensors: BTreeMap<String, Info>,
}

/// The texts under keys of ours and of adapters; others are ignored.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (BTreeMap::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == METADATA {
                        metadata.replace(value(&mut map, &name)?).is_some()
                    } else {
                        let info = value(&mut map, &name)?;
                        tensors.insert(name.clone(), info).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{name} occurs twice")));
                    }
                }
                Ok(Header { metadata, tensors })
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("texts by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !key.starts_with(PREFIX) && key != lora::METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let text: String = value(&mut map, &key)?;
                    let length = text.len();
                    if length > MAX_TEXT {
                        return Err(A::Error::custom(format!(
                            "{key} has {length} bytes; at most {MAX_TEXT} are read"
                        )));
                    }
                    if texts.insert(key.clone(), text).is_some() {
                        return Err(A::Error::custom(format!("{key} occurs twice")));
                    }
                }
                Ok(Metadata(texts))
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

/// The value of `key`, which an error names.
fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    key: &str,
) -> Result<T, A::Error> {
    let value = map.next_value();
    value.map_err(|error| A::Error::custom(format!("{key}: {error}")))
}

impl Header {
    /// Where the tensors lie in a file whose data begin at `begin`, and where the last one ends.
    fn places(self, begin: u64) -> Result<(BTreeMap<String, Place>, u64), String> {
        let mut infos: Vec<(String, Info)> = self.tensors.into_iter().collect();
        infos.sort_by_key(|(_, info)| info.data_offsets);
        let mut tensors = BTreeMap::new();
        let mut end = 0;
        for (name, info) in infos {
            let [from, to] = info.data_offsets;
            let length = to.checked_sub(from).filter(|_| from == end);
            let length = length.ok_or_else(|| {
                format!("{name} lies at {from}..{to}; expected it to begin at {end}, where the one before ends")
            })?;
            let element = Element::of_safetensors(&info.dtype).ok_or(info.dtype);
            if let Ok(element) = element {
                let bytes = info
                    .shape
                    .iter()
                    .try_fold(element.size() as u64, |bytes, &side| {
                        bytes.checked_mul(side)
                    });
                if bytes != Some(length) {
                    return Err(format!(
                        "{name} has {length} bytes, which does not fit shape {:?} of {element:?}",
                        info.shape
                    ));
                }
            }
            let shape: Result<Vec<usize>, _> =
                info.shape.into_iter().map(usize::try_from).collect();
            let place = Place {
                element,
                shape: shape.map_err(|error| format!("{name}: {error}"))?,
                begin: begin
                    .checked_add(from)
                    .ok_or_else(|| format!("{name} lies beyond all bounds"))?,
                length,
            };
            end = to;
            tensors.insert(name, place);
        }
        let end = begin
            .checked_add(end)
            .ok_or("its tensors have more bytes than any file")?;
        Ok((tensors, end))
    }
}

/// Writes tensors as `dtype`, and whole numbers as they are, converted one after the other, so that the file is never in memory as a
/// whole. The library's own writer leaves the order of the metadata to chance: here the same content is the same bytes.
pub(super) fn write(
    path: &Path,
    dtype: DType,
    tensors: BTreeMap<&str, &TensorData>,
    mut metadata: BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    if !FLOATS.iter().any(|(_, float)| *float == dtype) {
        let message = format!("weights are stored as F32, F16 or BF16, not {dtype:?}");
        return Err(format_error(path, &message));
    }
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let part = Part {
            name,
            data,
            stored: stored(dtype, data.dtype),
        };
        part.fits(path)?;
        parts.push(part);
    }
    // The widest numbers first, so that all of them are aligned.
    parts.sort_by_key(|part| Reverse(part.stored.1.size()));
    metadata.insert(FORMAT.0.to_owned(), FORMAT.1.to_owned());
    let header = header(&parts, metadata).map_err(|message| format_error(path, &message))?;
    atomic_file::write(path, |part| {
        let mut out = BufWriter::new(File::create(part)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for part in &parts {
            out.write_all(&part.bytes())?;
        }
        out.flush()
    })
    .map_err(io_error(path))
}

/// A tensor that is written, and the type it is written in.
struct Part<'a> {
    name: &'a str,
    data: &'a TensorData,
    stored: (Dtype, DType),
}

/// The type a tensor is written in where floats are written as `floats`.
fn stored(floats: DType, own: DType) -> (Dtype, DType) {
    let whole = WHOLE.iter().find(|(_, whole)| *whole == own);
    let float = FLOATS.iter().find(|(_, float)| *float == floats);
    whole.or(float).copied().unwrap_or(FLOATS[0])
}

/// The header of a file that holds the tensors in their order.
fn header(parts: &[Part<'_>], metadata: BTreeMap<String, String>) -> Result<Vec<u8>, String> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Entry {
        Metadata(BTreeMap<String, String>),
        Tensor(TensorInfo),
    }
    let mut entries = BTreeMap::from([(METADATA, Entry::Metadata(metadata))]);
    let mut end = 0usize;
    for Part { name, data, stored } in parts {
        let begin = end;
        let bytes = data.num_elements().saturating_mul(stored.1.size());
        end = end.saturating_add(bytes);
        let info = TensorInfo {
            dtype: stored.0,
            shape: data.shape.to_vec(),
            data_offsets: (begin, end),
        };
        if entries.insert(name, Entry::Tensor(info)).is_some() {
            return Err(format!("no tensor can be called {name}"));
        }
    }
    let mut header = serde_json::to_vec(&entries).map_err(|error| error.to_string())?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    if header.len() as u64 > MAX_HEADER {
        let length = header.len();
        return Err(format!(
            "its header would have {length} bytes; the format allows {MAX_HEADER}"
        ));
    }
    Ok(header)
}

impl Part<'_> {
    /// The bytes of the tensor in its type.
    fn bytes(&self) -> Cow<'_, [u8]> {
        let (_, dtype) = self.stored;
        match self.data.dtype == dtype {
            true => Cow::Borrowed(self.data.as_bytes()),
            false => Cow::Owned(self.data.clone().convert_dtype(dtype).as_bytes().to_vec()),
        }
    }

    /// Checks that no finite value becomes infinite in its type.
    fn fits(&self, path: &Path) -> Result<(), WeightsError> {
        use burn::tensor::{bf16, f16};
        let Self { name, data, stored } = self;
        let (_, dtype) = *stored;
        if data.dtype == dtype || dtype == DType::F32 {
            return Ok(());
        }
        let overflows = |value: &f32| {
            let kept = match dtype {
                DType::F16 => f16::from_f32(*value).is_finite(),
                _ => bf16::from_f32(*value).is_finite(),
            };
            value.is_finite() && !kept
        };
        let found = data.iter::<f32>().enumerate().find(|(_, v)| overflows(v));
        found.map_or(Ok(()), |(index, value)| {
            Err(WeightsError::Value {
                origin: path.display().to_string(),
                tensor: (*name).to_owned(),
                index,
                value,
                expected: match dtype {
                    DType::F16 => {
                        ", beyond the range of f16, which ends at 65504; write f32 or bf16"
                    }
                    _ => ", beyond the range of bf16; write f32",
                },
            })
        })
    }
}
