//! The pickle of a PyTorch file, in an archive whose checksums fit: nested state dicts, aliases, views.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit::weights::{StateDict, TrainerCheckpoint, WeightsFile};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", data), ("a/data/0", &[1; 64]), ("a/data/1", &[2; 8])];
    std::fs::write(&path, archive(&entries)).expect("a file can be written");
    if let Ok(state) = StateDict::read(&path) {
        let views: usize = state.iter().map(|(_, data)| data.num_elements()).sum();
        assert!(views < 1 << 30);
    }
    let _ = WeightsFile::open_at(&path, Some("state.model"));
    let _ = TrainerCheckpoint::read(&path);
});

/// An archive of uncompressed entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let offset = bytes.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        let sizes = [crc32fast::hash(content).to_le_bytes(), size, size].concat();
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
