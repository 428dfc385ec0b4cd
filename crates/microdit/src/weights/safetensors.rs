//! safetensors files: read tensor by tensor, written whole or not at all.

#![deny(clippy::arithmetic_side_effects)]

use super::{WeightsError, element::Element, format_error, io_error};
use crate::atomic_file;
use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensorError, View};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

/// The largest header a safetensors file may have (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// The types weights are written in, and burn's names of them.
const FLOATS: [(Dtype, DType); 3] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
];

/// A file that is open, and where its tensors lie.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    file: File,
    tensors: BTreeMap<String, Place>,
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
                "its header claims {header_length} of the file's {length} bytes; this is no safetensors file, or a truncated one"
            ));
        }
        let mut header = Vec::new();
        let read = (&mut file).take(header_length).read_to_end(&mut header);
        read.map_err(text)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|error| format!("damaged header: {error}"))?;
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
        Ok(Self { file, tensors })
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

/// The header: tensors by name, of which each may stand once.
struct Header(BTreeMap<String, Info>);

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
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info: Info = map
                        .next_value()
                        .map_err(|error| A::Error::custom(format!("{name}: {error}")))?;
                    if tensors.insert(name.clone(), info).is_some() {
                        return Err(A::Error::custom(format!("{name} stands twice")));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

impl Header {
    /// Where the tensors lie in a file whose data begin at `begin`, and where the last one ends.
    fn places(self, begin: u64) -> Result<(BTreeMap<String, Place>, u64), String> {
        let mut infos: Vec<(String, Info)> = self.0.into_iter().collect();
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
                        "{name} has {length} bytes, which shape {:?} of {element:?} does not",
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

/// Writes tensors as `dtype`, converted one after the other, so that the file is never in memory as a whole.
pub(super) fn write<'a>(
    path: &Path,
    dtype: DType,
    tensors: impl IntoIterator<Item = (&'a String, &'a TensorData)>,
    metadata: HashMap<String, String>,
) -> Result<(), WeightsError> {
    let stored = FLOATS.iter().find(|(_, float)| *float == dtype);
    let &(stored, _) = stored.ok_or_else(|| {
        format_error(
            path,
            &format!("weights are stored as F32, F16 or BF16, not {dtype:?}"),
        )
    })?;
    let mut views = Vec::new();
    for (name, data) in tensors {
        fits(path, name, data, dtype)?;
        let view = Written {
            data,
            dtype,
            stored,
        };
        views.push((name, view));
    }
    atomic_file::write(path, |part| {
        safetensors::serialize_to_file(views, Some(metadata), part).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
    })
    .map_err(io_error(path))
}

/// Checks that no finite value becomes infinite as `dtype`.
fn fits(path: &Path, name: &str, data: &TensorData, dtype: DType) -> Result<(), WeightsError> {
    use burn::tensor::{bf16, f16};
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
            tensor: name.to_owned(),
            index,
            value,
            expected: match dtype {
                DType::F16 => ", beyond the range of f16, which ends at 65504; write f32 or bf16",
                _ => ", beyond the range of bf16; write f32",
            },
        })
    })
}

/// A tensor that is converted when its turn to be written comes.
struct Written<'a> {
    data: &'a TensorData,
    dtype: DType,
    stored: Dtype,
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        self.stored
    }

    fn shape(&self) -> &[usize] {
        &self.data.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.data.dtype == self.dtype {
            return Cow::Borrowed(self.data.as_bytes());
        }
        Cow::Owned(
            self.data
                .clone()
                .convert_dtype(self.dtype)
                .as_bytes()
                .to_vec(),
        )
    }

    fn data_len(&self) -> usize {
        self.data.num_elements().saturating_mul(self.dtype.size())
    }
}
