//! PyTorch files of any content, for tests: sound ones and others.

use super::pickle;
use std::path::Path;

/// What a pickle is made of.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Dict(Vec<(&'static str, Node)>),
    Tensor(Tensor),
    Int(i64),
    Float(f64),
    Text(&'static str),
    /// Opcodes that leave a value.
    Raw(Vec<u8>),
}

/// A tensor's record.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) class: &'static str,
    pub(super) key: &'static str,
    /// Of the storage.
    pub(super) elements: i32,
    pub(super) offset: i32,
    pub(super) shape: Vec<i32>,
    pub(super) strides: Vec<i32>,
}

/// A contiguous tensor of f32 at the beginning of storage `key`.
pub(super) fn tensor(key: &'static str, shape: &[i32]) -> Node {
    let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product());
    Node::Tensor(Tensor {
        class: "torch FloatStorage",
        key,
        elements: shape.iter().product(),
        offset: 0,
        shape: shape.to_vec(),
        strides: strides.collect(),
    })
}

/// A dictionary of what its entries say.
pub(super) fn dict<const N: usize>(entries: [(&'static str, Node); N]) -> Node {
    Node::Dict(entries.into())
}

/// The opcodes of a text.
pub(super) fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [b"X", &length.to_le_bytes()[..], text.as_bytes()].concat()
}

/// The opcodes of a class.
pub(super) fn global(class: &str) -> Vec<u8> {
    let (module, name) = class.split_once(' ').unwrap();
    format!("c{module}\n{name}\n").into_bytes()
}

/// The opcodes of a number.
pub(super) fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// The opcodes of a tuple.
pub(super) fn tuple(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<u8> = items.into_iter().flatten().collect();
    [b"(", &items[..], b"t"].concat()
}

/// The opcodes of a storage of so many elements.
pub(super) fn storage(class: &str, key: &str, elements: i32) -> Vec<u8> {
    let id = [
        text("storage"),
        global(class),
        text(key),
        text("cpu"),
        int(elements),
    ];
    [&tuple(id)[..], b"Q"].concat()
}

impl Node {
    /// The opcodes that leave it.
    pub(super) fn opcodes(&self) -> Vec<u8> {
        match self {
            Self::Dict(entries) => {
                let entries = entries
                    .iter()
                    .flat_map(|(key, value)| [text(key), value.opcodes()].concat());
                [b"}(", &entries.collect::<Vec<u8>>()[..], b"u"].concat()
            }
            Self::Tensor(tensor) => {
                let sizes = |values: &[i32]| tuple(values.iter().map(|&value| int(value)));
                let arguments = [
                    storage(tensor.class, tensor.key, tensor.elements),
                    int(tensor.offset),
                    sizes(&tensor.shape),
                    sizes(&tensor.strides),
                    vec![0x89],
                    b"}".to_vec(),
                ];
                let class = global("torch._utils _rebuild_tensor_v2");
                [&class[..], &tuple(arguments), b"R"].concat()
            }
            Self::Int(value) => [b"\x8a\x08", &value.to_le_bytes()[..]].concat(),
            Self::Float(value) => [b"G", &value.to_be_bytes()[..]].concat(),
            Self::Text(value) => text(value),
            Self::Raw(opcodes) => opcodes.clone(),
        }
    }

    /// A whole pickle.
    pub(super) fn pickle(&self) -> Vec<u8> {
        [b"\x80\x02", &self.opcodes()[..], b"."].concat()
    }

    pub(super) fn load(&self) -> Result<pickle::Pickle, String> {
        pickle::load(&self.pickle())
    }
}

/// A file of `torch.save` with this pickle and these storages.
pub(super) fn file(path: &Path, pickle: &[u8], storages: &[(&str, Vec<u8>)]) {
    let mut entries = vec![("a/data.pkl".to_owned(), pickle.to_vec())];
    let named = storages
        .iter()
        .map(|(key, bytes)| (format!("a/data/{key}"), bytes.clone()));
    entries.extend(named);
    std::fs::write(path, archive(&entries)).unwrap();
}

/// A file of `torch.save` before PyTorch 1.6: this pickle, and storages of so many elements.
pub(super) fn legacy_file(path: &Path, pickle: &[u8], storages: &[(&str, i64, Vec<u8>)]) {
    let machine = [
        &b"\x80\x02}("[..],
        &text("protocol_version"),
        b"M\xe9\x03",
        &text("little_endian"),
        b"\x88u.",
    ]
    .concat();
    let keys = storages.iter().flat_map(|(key, ..)| text(key));
    let keys: Vec<u8> = keys.collect();
    let mut bytes = [
        &b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."[..],
        b"\x80\x02M\xe9\x03.",
        &machine,
        pickle,
        b"\x80\x02](",
        &keys,
        b"e.",
    ]
    .concat();
    for (_, elements, content) in storages {
        bytes.extend(elements.to_le_bytes());
        bytes.extend(content);
    }
    std::fs::write(path, bytes).unwrap();
}

/// The bytes of f32 values.
pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// An archive of uncompressed entries.
pub(super) fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let offset = bytes.len() as u32;
        let sizes = [
            crc32fast::hash(content).to_le_bytes(),
            (content.len() as u32).to_le_bytes(),
            (content.len() as u32).to_le_bytes(),
        ]
        .concat();
        let length = (name.len() as u16).to_le_bytes();
        let local = [&b"PK\x03\x04"[..], &[0; 10], &sizes, &length, &[0; 2]].concat();
        bytes.extend([&local[..], name.as_bytes(), content].concat());
        let central = [&b"PK\x01\x02"[..], &[0; 12], &sizes, &length, &[0; 12]].concat();
        directory.extend([&central[..], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (begin, size) = (bytes.len() as u32, directory.len() as u32);
    bytes.extend(directory);
    bytes.extend([&b"PK\x05\x06"[..], &[0; 4], &count, &count].concat());
    bytes.extend([size.to_le_bytes(), begin.to_le_bytes()].concat());
    bytes.extend([0; 2]);
    bytes
}
