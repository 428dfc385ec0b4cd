//! Files made to cost more than they weigh, or to be misread.

use super::{
    StateDict, TrainerCheckpoint, WeightsFile,
    forged::{self, Node, Tensor, dict, floats, tensor},
};
use crate::rng::{Purpose, Stream};
use std::{path::Path, time::Instant};

fn error(path: &Path) -> String {
    StateDict::read(path).unwrap_err().to_string()
}

/// A state dict whose pickle is `(key, tensor)` pairs by opcodes.
fn named(count: usize, pair: impl Fn(usize) -> Vec<u8>, before: &[u8]) -> Vec<u8> {
    let pairs: Vec<u8> = (0..count).flat_map(pair).collect();
    [b"\x80\x02", before, b"}(", &pairs, b"u."].concat()
}

#[test]
fn many_names_of_one_tensor_share_its_memory_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    // The tensor is remembered and put under each name.
    let remembered = [
        &tensor("0", &[1 << 20]).opcodes()[..],
        b"q\x01" as &[u8],
        b"0",
    ]
    .concat();
    let pair = |i: usize| [&forged::text(&format!("w{i}"))[..], b"h\x01"].concat();
    let storage = [("0", vec![0; 4 << 20])];
    // 200 names are 800 MB if each had its own.
    forged::file(&path, &named(200, pair, &remembered), &storage);
    let state = StateDict::read(&path).unwrap();
    assert_eq!(state.len(), 200);
    let places = state
        .iter()
        .map(|(_, data)| data.as_bytes().as_ptr().addr());
    assert_eq!(places.collect::<std::collections::HashSet<_>>().len(), 1);
    // A million names are four terabytes.
    let begin = Instant::now();
    forged::file(&path, &named(1 << 20, pair, &remembered), &storage);
    assert!(error(&path).contains("1048576 tensors would take 4398046511104 bytes"));
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

#[test]
fn overlapping_views_are_bounded_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let pair = |i: usize| {
        let view = Node::Tensor(Tensor {
            class: "torch FloatStorage",
            key: "0",
            elements: 4,
            offset: i as i32,
            shape: vec![1 << 18],
            strides: vec![1],
        });
        [forged::text(&format!("w{i}")), view.opcodes()].concat()
    };
    let storage = [("0", vec![0; 2 << 20])];
    forged::file(&path, &named(1000, pair, b""), &storage);
    assert!(error(&path).contains("1048576000 of them in views of their own"));
    forged::file(&path, &named(6, pair, b""), &storage);
    assert_eq!(StateDict::read(&path).unwrap().len(), 6);
    // One number that stands for a terabyte.
    let expanded = Node::Tensor(Tensor {
        class: "torch FloatStorage",
        key: "0",
        elements: 4,
        offset: 0,
        shape: vec![1 << 20, 1 << 20],
        strides: vec![0, 0],
    });
    forged::file(
        &path,
        &dict([("w", expanded)]).pickle(),
        &[("0", vec![0; 4])],
    );
    assert!(error(&path).contains("would take"), "{}", error(&path));
}

#[test]
fn one_record_that_is_built_again_and_again_costs_what_it_weighs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let many = |byte: &[u8]| byte.repeat(100_000);
    let (class, storage) = (
        forged::global("torch._utils _rebuild_tensor_v2"),
        forged::storage("torch FloatStorage", "0", 4),
    );
    // A tensor of 100,000 dimensions; a dictionary of 100,000 pairs; a class named by 100 kB: each built 100,000 times.
    let dims = many(b"K\x01");
    let arguments = [
        b"(",
        &storage[..],
        b"K\x00(",
        &dims,
        b"t(",
        &dims,
        b"t\x89}tq\x02",
    ]
    .concat();
    let shapes = [
        &class[..],
        b"q\x01",
        &arguments,
        b"00",
        &many(b"h\x01h\x02R0"),
        b"}.",
    ]
    .concat();
    let ordered = forged::global("collections OrderedDict");
    let pair = b"K\x00K\x00\x86";
    let pairs = [
        &ordered[..],
        b"q\x01(",
        &many(pair),
        b"t\x85q\x02",
        b"00",
        &many(b"h\x01h\x02R0"),
        b"}.",
    ]
    .concat();
    let long = forged::text(&"x".repeat(100_000));
    let names = [&long[..], b"q\x010", &many(b"h\x01h\x01\x930"), b"}."].concat();
    for (pickle, part) in [
        (shapes, "it holds no tensors"),
        (pairs, "copies more than"),
        (names, "names a class by 100000 bytes"),
        (b"]".repeat(5 << 20), "more than 4194304"),
        (b"K\x00".repeat(5 << 20), "more than 4194304"),
    ] {
        forged::file(&path, &pickle, &[("0", vec![0; 16])]);
        let begin = Instant::now();
        let error = error(&path);
        assert!(error.contains(part), "{error}");
        assert!(
            begin.elapsed().as_secs() < 20,
            "{part}: {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn archives_are_what_torch_writes_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let pickle = dict([("w", tensor("0", &[4]))]).pickle();
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let entries = [
        ("a/data.pkl".to_owned(), pickle.clone()),
        ("a/data/0".to_owned(), data.clone()),
    ];
    let sound = forged::archive(&entries);
    std::fs::write(&path, &sound).unwrap();
    assert_eq!(StateDict::read(&path).unwrap().len(), 1);
    let twice = [&entries[..], &entries[1..]].concat();
    let at = |pattern: &[u8]| {
        let mut places = sound.windows(pattern.len()).enumerate();
        places.rfind(|(_, window)| *window == pattern).unwrap().0
    };
    let central = at(b"PK\x01\x02");
    let patched = |place: usize, bytes: &[u8]| {
        let mut patched = sound.clone();
        patched[place..place + bytes.len()].copy_from_slice(bytes);
        patched
    };
    let length = sound.len();
    for (bytes, part) in [
        (forged::archive(&twice), "two entries named a/data/0"),
        (patched(central + 10, &[8, 0]), "a/data/0 is compressed"),
        (patched(central + 24, &[255; 4]), "a/data/0 is compressed"),
        (patched(central + 8, &[1, 0]), "a/data/0 is encrypted"),
        // The second entry lies where the first does.
        (patched(central + 42, &[0; 4]), "overlaps"),
        (
            patched(central + 42, &[sound[central + 42] - 1]),
            "does not lie where",
        ),
        (
            patched(central + 20, &[200, 0, 0, 0, 200, 0, 0, 0]),
            "overlaps",
        ),
        (
            patched(at(b"PK\x05\x06") + 10, &[9, 0]),
            "lists 2 entries and says 9",
        ),
        (
            patched(at(b"\x00\x00\x80\x3f"), &[1]),
            "a/data/0 is damaged: its checksum is",
        ),
        (
            sound[..length - 1].to_vec(),
            &format!("it has {} bytes, and the directory", length - 1),
        ),
        (sound[..central - 60].to_vec(), "ends within a/data/0"),
        (sound[30..].to_vec(), "nor an archive of torch.save"),
        ([b"PK\x03\x04", &sound[60..]].concat(), "its directory says"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(
            error(&path).contains(part),
            "expected `{part}`: {}",
            error(&path)
        );
    }
}

#[test]
fn headers_of_safetensors_are_checked_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}": {{"dtype": "F32", "shape": {shape}, "data_offsets": [{from}, {to}]}}"#)
    };
    let half = u64::MAX / 2 + 1;
    let wraps = [
        tensor("a", &format!("[{}]", half / 4), 0, half),
        tensor("b", &format!("[{}]", (half - 64) / 4), half, u64::MAX - 63),
    ]
    .join(", ");
    for (header, part) in [
        (tensor("a", "[1]", 0, 4), ""),
        (wraps, "more bytes than any file"),
        (
            tensor("a", "[4611686018427387905]", 0, 4),
            "which does not fit shape",
        ),
        (tensor("a", "[2]", 0, 4), "which does not fit shape"),
        (tensor("a", "[1]", 4, 0), "a lies at 4..0"),
        (tensor("a", "[1]", 4, 8), "expected it to begin at 0"),
        (
            tensor("a", "[1048576]", 0, 4 << 20),
            "it is truncated: it has",
        ),
        (tensor("a", "[0]", 0, 0), "it is damaged"),
        (
            [tensor("a", "[1]", 0, 4), tensor("a", "[1]", 0, 4)].join(", "),
            "a occurs twice",
        ),
        (tensor("a", "[-1]", 0, 4), "a: invalid value"),
        (
            r#""a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}"#.into(),
            "a: it is stored as F4",
        ),
        (format!(r#""a": {}"#, "[".repeat(1 << 20)), "damaged header"),
    ] {
        let header = format!("{{{header}}}");
        let bytes = [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &[0; 4],
        ]
        .concat();
        std::fs::write(&path, bytes).unwrap();
        match StateDict::read(&path) {
            Ok(_) => assert_eq!(part, ""),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !part.is_empty() && error.contains(part),
                    "`{part}`: {error}"
                );
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("w.pt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert!(error(&pipe).contains("not a regular file"));
    assert!(error(folder.path()).contains("it is a directory"));
}

/// Sound files in which bytes are changed, left out and repeated: an error or a result, and never more memory than the file
/// has reason to take.
#[test]
fn mutated_files_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w");
    let state = StateDict::from_tensors(["module.a", "module.b"].map(|name| {
        let data = burn::tensor::TensorData::from([[1f32, 2.0], [3.0, 4.0]]);
        (name.to_owned(), data)
    }));
    state
        .write_safetensors(&path, burn::tensor::DType::F16, None)
        .unwrap();
    let safetensors = std::fs::read(&path).unwrap();
    let (pickle, storages) = super::trainer::tests::checkpoint();
    let counted =
        |(key, bytes): &(&'static str, Vec<u8>)| (*key, bytes.len() as i64 / 4, bytes.clone());
    let counted: Vec<_> = storages.iter().map(counted).collect();
    forged::legacy_file(&path, &pickle, &counted);
    assert!(TrainerCheckpoint::read(&path).is_ok());
    let legacy = std::fs::read(&path).unwrap();
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    let (mut read, mut refused) = (0, 0);
    for round in 0..8000 {
        let mutated = |bytes: &[u8], stream: &mut Stream| {
            let mut bytes = bytes.to_vec();
            for _ in 0..=stream.below(4) {
                let place = stream.below(bytes.len());
                match stream.below(4) {
                    0 => bytes[place] = stream.below(256) as u8,
                    1 => bytes[place] ^= 1 << stream.below(8),
                    2 => drop(bytes.remove(place)),
                    _ => {
                        let other = bytes[stream.below(bytes.len())];
                        bytes.insert(place, other);
                    }
                }
            }
            bytes
        };
        match round % 4 {
            0 => std::fs::write(&path, mutated(&safetensors, &mut stream)).unwrap(),
            // Under a checksum that fits.
            1 => forged::file(&path, &mutated(&pickle, &mut stream), &storages),
            2 => std::fs::write(&path, mutated(&legacy, &mut stream)).unwrap(),
            _ => {
                forged::file(&path, &pickle, &storages);
                let archive = std::fs::read(&path).unwrap();
                std::fs::write(&path, mutated(&archive, &mut stream)).unwrap();
            }
        }
        let sound = match round / 4 % 3 {
            0 => StateDict::read(&path).is_ok(),
            1 => WeightsFile::open_at(&path, Some("state.model")).is_ok(),
            _ => TrainerCheckpoint::read(&path).is_ok(),
        };
        (read, refused) = (read + usize::from(sound), refused + usize::from(!sound));
    }
    // Both happen, or the mutations reach nothing.
    assert!(
        read > 300 && refused > 3000,
        "{read} read, {refused} refused"
    );
}
