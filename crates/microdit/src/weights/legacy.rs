//! The layout `torch.save` wrote before PyTorch 1.6, and writes since where it is told to: five pickles, one after the other (a magic
//! number, the protocol's version, facts about the machine, the object, the keys of its storages), then for each key the
//! number of its elements as i64 and the elements.
//!
//! Nothing has a checksum. What is checked is that object, keys, numbers and the file's length agree, to the byte.

#![deny(clippy::arithmetic_side_effects)]

use super::{
    archive::read_at,
    pickle::{self, Pickle, Storage, Value},
};
use std::{collections::BTreeMap, fs::File, ops::Range};

/// The only version there has been.
const PROTOCOL: i64 = 1001;

/// A file that is open, and where its storages lie.
#[derive(Debug)]
pub(super) struct Legacy {
    file: File,
    length: u64,
    places: BTreeMap<String, Range<u64>>,
}

/// Finds the storages of a file, and reads the pickle of its object.
///
/// # Errors
/// What of the file is not as `torch.save` writes it, or that it is cut short.
pub(super) fn open(mut file: File) -> Result<(Legacy, Pickle), String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let head = length.min(pickle::MAX_BYTES);
    let head = read_at(&mut file, 0, head).map_err(|error| error.to_string())?;
    let mut rest = &head[..];
    let mut next = |what: &str| {
        let (pickle, after) = pickle::load_first(rest).map_err(|error| {
            let most = pickle::MAX_BYTES;
            format!("{what}: {error} (the file has {length} bytes; pickles are read from the first {most})")
        })?;
        rest = after;
        Ok::<_, String>(pickle)
    };
    next("its magic number")?;
    match next("its protocol's version")?.root {
        Value::Int(PROTOCOL) => {}
        Value::Int(found) => {
            return Err(format!("its protocol is {found}; expected {PROTOCOL}"));
        }
        other => {
            let kind = other.kind();
            return Err(format!("its protocol is {kind}; expected {PROTOCOL}"));
        }
    }
    match next("its facts about the machine")?
        .root
        .entry("little_endian")
    {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err("it was written on a big-endian machine".into()),
        _ => return Err("it does not say whether its machine was little-endian".into()),
    }
    let object = next("its object")?;
    let keys = keys(&next("its list of storages")?.root)?;
    let begin = head.len().saturating_sub(rest.len()) as u64;
    let places = places(&mut file, begin..length, &described(&object)?, keys)?;
    let legacy = Legacy {
        file,
        length,
        places,
    };
    Ok((legacy, object))
}

impl Legacy {
    /// Bytes of the whole file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes of a storage.
    pub(super) fn read(&mut self, key: &str) -> Result<Vec<u8>, String> {
        let place = self.places.get(key);
        let place = place.ok_or_else(|| format!("the file holds no storage {key}"))?;
        let count = place.end.saturating_sub(place.start);
        read_at(&mut self.file, place.start, count)
            .map_err(|error| format!("storage {key}: {error}"))
    }
}

/// The list of keys.
fn keys(list: &Value) -> Result<Vec<String>, String> {
    let Value::Sequence(list) = list else {
        let kind = list.kind();
        return Err(format!(
            "{kind} lies where the keys of its storages are listed"
        ));
    };
    let list = list.borrow();
    let keys = list.iter().map(|key| match key {
        Value::Str(key) => Ok(key.to_string()),
        other => Err(format!(
            "its list of storages holds {}; expected texts",
            other.kind()
        )),
    });
    keys.collect()
}

/// Elements and bytes of each storage, by what the object says.
fn described(object: &Pickle) -> Result<BTreeMap<&str, (usize, usize)>, String> {
    let mut sizes = BTreeMap::<&str, (usize, usize)>::new();
    for storage in &object.storages {
        let Storage { key, elements, .. } = &**storage;
        let bytes = storage
            .bytes(*elements)
            .ok_or_else(|| match &storage.element {
                Err(class) => format!(
                    "storage {key} is of the unknown type {class}: where it ends cannot be told"
                ),
                Ok(_) => format!(
                    "storage {key} has {elements} elements, which is more than any file holds"
                ),
            })?;
        let found = (*elements, bytes);
        let first = *sizes.entry(key).or_insert(found);
        if first != found {
            let ((first, first_bytes), (second, second_bytes)) = (first, found);
            return Err(format!(
                "storage {key} is described twice: by {first} elements in {first_bytes} bytes, and by {second} in {second_bytes}"
            ));
        }
    }
    Ok(sizes)
}

/// Where the storages lie within the part of the file behind the pickles.
fn places(
    file: &mut File,
    within: Range<u64>,
    described: &BTreeMap<&str, (usize, usize)>,
    keys: Vec<String>,
) -> Result<BTreeMap<String, Range<u64>>, String> {
    let length = within.end;
    let mut at = within.start;
    let mut places = BTreeMap::new();
    for key in keys {
        let &(elements, bytes) = described.get(&*key).ok_or_else(|| {
            format!("its list of storages holds {key}, which belongs to no tensor")
        })?;
        let truncated = |end: u64| {
            format!(
                "it is truncated: it has {length} bytes and ends within storage {key}, which reaches to {end}; copy or download it again"
            )
        };
        let begin = at.saturating_add(size_of::<i64>() as u64);
        let end = begin.saturating_add(bytes as u64);
        let count = match begin <= length {
            true => {
                read_at(file, at, size_of::<i64>() as u64).map_err(|error| error.to_string())?
            }
            false => return Err(truncated(end)),
        };
        let count = i64::from_le_bytes(count.try_into().unwrap_or_default());
        if i64::try_from(elements) != Ok(count) {
            return Err(format!(
                "storage {key}: expected {elements} elements, as its tensors say; found {count}"
            ));
        }
        if end > length {
            return Err(truncated(end));
        }
        at = end;
        if places.insert(key.clone(), begin..end).is_some() {
            return Err(format!("its list of storages holds {key} twice"));
        }
    }
    if let Some(key) = described.keys().find(|key| !places.contains_key(**key)) {
        return Err(format!(
            "its list of storages lacks {key}, which its tensors lie in"
        ));
    }
    match length.saturating_sub(at) {
        0 => Ok(places),
        more => Err(format!(
            "{more} bytes follow its last storage, which ends at {at}; expected none"
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::weights::{
        StateDict,
        forged::{self, Node, Tensor, dict, floats, tensor},
    };
    use std::path::Path;

    fn read(path: &Path) -> Result<StateDict, String> {
        StateDict::read(path).map_err(|error| {
            let error = error.to_string();
            assert!(error.starts_with(&*path.to_string_lossy()), "{error}");
            error
        })
    }

    fn values(state: &StateDict, name: &str) -> Vec<f32> {
        state.get(name).unwrap().to_vec().unwrap()
    }

    /// A storage of four floats.
    fn four() -> (&'static str, i64, Vec<u8>) {
        ("0", 4, floats(&[1.0, 2.0, 3.0, 4.0]))
    }

    /// The opcodes of a tensor of two floats at `offset` of elements `1..4` of the storage `0`.
    fn of_view(offset: i32) -> Node {
        let view = forged::tuple([forged::text("7"), forged::int(1), forged::int(3)]);
        let id = [
            forged::text("storage"),
            forged::global("torch FloatStorage"),
            forged::text("0"),
            forged::text("cuda:0"),
            forged::int(4),
            view,
        ];
        let storage = [&forged::tuple(id)[..], b"Q"].concat();
        let arguments = [
            storage,
            forged::int(offset),
            b"K\x02\x85".into(),
            b"K\x01\x85".into(),
        ];
        let class = forged::global("torch._utils _rebuild_tensor");
        Node::Raw([&class[..], &forged::tuple(arguments), b"R"].concat())
    }

    #[test]
    fn tensors_lie_in_storages_and_in_views_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pth");
        let counter = Tensor {
            class: "torch.cuda LongStorage",
            key: "1",
            elements: 1,
            offset: 0,
            shape: Vec::new(),
            strides: Vec::new(),
        };
        let root = dict([
            ("whole", tensor("0", &[2, 2])),
            ("view", of_view(1)),
            ("count", Node::Tensor(counter)),
        ]);
        let storages = [("1", 1, 9i64.to_le_bytes().to_vec()), four()];
        forged::legacy_file(&path, &root.pickle(), &storages);
        let state = read(&path).unwrap();
        assert_eq!(values(&state, "whole"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values(&state, "view"), [3.0, 4.0]);
        assert_eq!(values(&state, "count"), [9.0]);
        // Two of the three elements of a view from the third on.
        forged::legacy_file(&path, &dict([("w", of_view(2))]).pickle(), &[four()]);
        let error = read(&path).unwrap_err();
        assert!(
            error.contains("w: it reaches beyond its storage's 12 bytes"),
            "{error}"
        );
    }

    /// As Python 2 wrote texts, and the class of a whole network.
    #[test]
    fn texts_of_python_2_and_classes_of_networks_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pth");
        let pickle = dict([("w", tensor("0", &[4]))]).pickle();
        let short = |text: &str| [b"U", &[text.len() as u8][..], text.as_bytes()].concat();
        let pickle = ["w", "storage", "0", "cpu"]
            .into_iter()
            .fold(pickle, |pickle, text| {
                replaced(&pickle, &forged::text(text), &short(text))
            });
        forged::legacy_file(&path, &pickle, &[four()]);
        assert_eq!(values(&read(&path).unwrap(), "w").len(), 4);
        let module = forged::tuple([
            forged::text("module"),
            forged::global("net Net"),
            forged::text("net.py"),
            forged::text("class Net: ..."),
        ]);
        let network = Node::Raw([&module[..], b"Q)\x81}b"].concat());
        let root = dict([
            ("network", network),
            ("state", dict([("w", tensor("0", &[4]))])),
        ]);
        forged::legacy_file(&path, &root.pickle(), &[four()]);
        assert_eq!(values(&read(&path).unwrap(), "w").len(), 4);
        forged::legacy_file(&path, &dict([("epoch", Node::Int(1))]).pickle(), &[]);
        assert!(read(&path).unwrap_err().contains("it holds no tensors"));
    }

    /// Every occurrence of `from`.
    fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let mut replaced = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            match rest.strip_prefix(from) {
                Some(after) => {
                    replaced.extend(to);
                    rest = after;
                }
                None => {
                    replaced.push(rest[0]);
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
        }
        assert_ne!(replaced, bytes);
        replaced
    }

    #[test]
    fn object_keys_counts_and_length_agree_or_say_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pth");
        let pickle = dict([("w", tensor("0", &[4]))]).pickle();
        let (_, _, data) = four();
        forged::legacy_file(&path, &pickle, &[four()]);
        let sound = std::fs::read(&path).unwrap();
        let length = sound.len();
        assert_eq!(values(&read(&path).unwrap(), "w"), [1.0, 2.0, 3.0, 4.0]);
        let cut = |bytes: usize| sound[..length.saturating_sub(bytes)].to_vec();
        let ends_within = format!("bytes and ends within storage 0, which reaches to {length}");
        let written = |storages: &[(&str, i64, Vec<u8>)]| {
            forged::legacy_file(&path, &pickle, storages);
            std::fs::read(&path).unwrap()
        };
        let count = |count: i64| written(&[("0", count, data.clone())]);
        let of_class = |class: &'static str| {
            let tensor = Tensor {
                class,
                key: "0",
                elements: i32::MAX,
                offset: 0,
                shape: vec![1],
                strides: vec![1],
            };
            forged::legacy_file(
                &path,
                &dict([("w", Node::Tensor(tensor))]).pickle(),
                &[four()],
            );
            std::fs::read(&path).unwrap()
        };
        let described_twice = dict([("v", tensor("0", &[2])), ("w", tensor("0", &[4]))]);
        forged::legacy_file(&path, &described_twice.pickle(), &[four()]);
        let described_twice = std::fs::read(&path).unwrap();
        for (bytes, part) in [
            (
                count(3),
                "storage 0: expected 4 elements, as its tensors say; found 3",
            ),
            (count(-1), "found -1"),
            (count(i64::MAX), "found 9223372036854775807"),
            (
                written(&[four(), four()]),
                "its list of storages holds 0 twice",
            ),
            (written(&[]), "its list of storages lacks 0"),
            (
                written(&[four(), ("1", 4, data.clone())]),
                "its list of storages holds 1, which belongs to no tensor",
            ),
            (
                written(&[("1", 4, data.clone())]),
                "its list of storages holds 1, which belongs to no tensor",
            ),
            (cut(1), &ends_within),
            (cut(20), &ends_within),
            (cut(26), "its list of storages: the pickle is truncated"),
            (
                sound[..60].to_vec(),
                "its facts about the machine: the pickle is truncated",
            ),
            (
                sound[..17].to_vec(),
                "its protocol's version: the pickle is truncated",
            ),
            (
                [&sound[..], b"more"].concat(),
                "4 bytes follow its last storage",
            ),
            (
                replaced(&sound, b"M\xe9\x03.", b"M\xea\x03."),
                "its protocol is 1002; expected 1001",
            ),
            (
                replaced(&sound, b"M\xe9\x03.", b"}."),
                "its protocol is a dictionary; expected 1001",
            ),
            (replaced(&sound, b"\x88u.", b"\x89u."), "big-endian"),
            (
                replaced(&sound, b"little_endian", b"middle_endian"),
                "whether its machine was little-endian",
            ),
            (
                replaced(&sound, b"](X\x01\0\0\x000e.", b"](K\x00e."),
                "its list of storages holds a number",
            ),
            (
                replaced(&sound, b"](X\x01\0\0\x000e.", b"N."),
                "an object lies where the keys",
            ),
            (described_twice, "storage 0 is described twice"),
            (
                of_class("torch QuaternionStorage"),
                "the unknown type torch.QuaternionStorage",
            ),
            (
                of_class("torch DoubleStorage"),
                "expected 2147483647 elements",
            ),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
    }

    /// Each cut of a sound file is an error, whatever it cuts.
    #[test]
    fn every_file_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pth");
        forged::legacy_file(&path, &dict([("w", tensor("0", &[4]))]).pickle(), &[four()]);
        let sound = std::fs::read(&path).unwrap();
        for length in 0..sound.len() {
            std::fs::write(&path, &sound[..length]).unwrap();
            assert!(read(&path).is_err(), "{length} bytes");
        }
    }
}
