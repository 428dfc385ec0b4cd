//! The index of weights in several files, which lie beside it.

use super::{WeightsError, content, content::Format, format_error, io_error};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

/// The largest index that is read, of about a million tensors.
const MAX_BYTES: u64 = 1 << 27;

#[derive(Deserialize)]
struct Index {
    /// The file each tensor lies in.
    weight_map: BTreeMap<String, String>,
}

/// The files an index lists, and the tensors each must hold.
///
/// # Errors
/// A file that is not an index, and weights elsewhere than beside it.
pub(super) fn parts(
    path: &Path,
    file: File,
) -> Result<BTreeMap<PathBuf, BTreeSet<String>>, WeightsError> {
    let mut text = Vec::new();
    let read = file.take(MAX_BYTES).read_to_end(&mut text);
    read.map_err(io_error(path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("not an index of weights in several files ({error})");
        format_error(path, &message)
    })?;
    let mut parts = BTreeMap::<PathBuf, BTreeSet<String>>::new();
    for (tensor, name) in index.weight_map {
        let mut components = Path::new(&name).components();
        let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
            let message =
                format!("it says that {tensor} lies in `{name}`; expected a file beside the index");
            return Err(format_error(path, &message));
        };
        parts
            .entry(path.with_file_name(name))
            .or_default()
            .insert(tensor);
    }
    if parts.is_empty() {
        return Err(format_error(path, "it lists no tensors"));
    }
    Ok(parts)
}

/// Opens one of the files.
pub(super) fn open(part: &Path) -> Result<(File, Format), WeightsError> {
    match content::open(part)? {
        (_, Format::Index) => Err(format_error(
            part,
            "an index within an index; expected weights",
        )),
        other => Ok(other),
    }
}
