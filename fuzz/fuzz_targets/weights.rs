//! Checkpoints: the first byte chooses between safetensors and PyTorch's format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit::weights::{StateDict, TrainerCheckpoint};

fuzz_target!(|data: &[u8]| {
    let Some((kind, content)) = data.split_first() else { return };
    let extension = if kind % 2 == 0 { "safetensors" } else { "pt" };
    let path = std::env::temp_dir().join(format!("fuzz-{}.{extension}", std::process::id()));
    std::fs::write(&path, content).expect("a file can be written");
    let _ = StateDict::read(&path);
    if extension == "pt" {
        let _ = TrainerCheckpoint::read(&path);
    }
});
