//! safetensors files: read tensor by tensor, written whole or not at all.

use super::{WeightsError, format_error, io_error};
use crate::write_whole;
use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensorError, View, tensor::Metadata};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// The largest header a safetensors file may have (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// The types weights are stored in, and burn's names of them.
const FLOATS: [(Dtype, DType); 3] = [
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
];

/// Reads tensor after tensor, so that the file is never in memory twice.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let length = file.metadata().map_err(io_error(path))?.len();
    let mut prefix = [0u8; 8];
    file.read_exact(&mut prefix).map_err(io_error(path))?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER || header_length + 8 > length {
        return Err(format_error(
            path,
            &format!(
                "its header claims {header_length} of the file's {length} bytes; this is no safetensors file, or a truncated one"
            ),
        ));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(io_error(path))?;
    // Its conversion checks that offsets follow each other and agree with shapes and types.
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| format_error(path, &format!("damaged header: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let offset = 8 + header_length + start as u64;
        if 8 + header_length + end as u64 > length {
            return Err(format_error(
                path,
                &format!("{name} ends beyond the file's {length} bytes: it is truncated"),
            ));
        }
        let dtype = FLOATS.iter().find(|(stored, _)| *stored == info.dtype);
        let &(_, dtype) = dtype.ok_or_else(|| {
            format_error(
                path,
                &format!(
                    "{name} has type {:?}; expected F32, F16 or BF16",
                    info.dtype
                ),
            )
        })?;
        let mut bytes = vec![0; end - start];
        file.seek(SeekFrom::Start(offset)).map_err(io_error(path))?;
        file.read_exact(&mut bytes).map_err(io_error(path))?;
        let data = TensorData::from_bytes_vec(bytes, info.shape.clone(), dtype);
        tensors.insert(name, data.convert_dtype(DType::F32));
    }
    Ok(tensors)
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
    let views = tensors.into_iter().map(|(name, data)| {
        let view = Stored {
            data,
            dtype,
            stored,
        };
        (name, view)
    });
    write_whole(path, |part| {
        safetensors::serialize_to_file(views, Some(metadata), part).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
    })
    .map_err(io_error(path))
}

/// A tensor that is converted when its turn to be written comes.
struct Stored<'a> {
    data: &'a TensorData,
    dtype: DType,
    stored: Dtype,
}

impl View for Stored<'_> {
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
        self.data.num_elements() * self.dtype.size()
    }
}
