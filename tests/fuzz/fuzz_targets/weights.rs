//! Files of weights: safetensors, archives of PyTorch, and what is neither.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit::weights::{StateDict, TrainerCheckpoint, WeightsFile};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    std::fs::write(&path, data).expect("a file can be written");
    if let Ok(mut file) = WeightsFile::open(&path) {
        let _ = file.description();
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        for name in names {
            let shape = file.shape(&name);
            if let Ok(tensor) = file.read(&name) {
                assert_eq!(tensor.map(|data| data.shape.to_vec()), shape);
            }
        }
    }
    let _ = StateDict::read(&path);
    let _ = TrainerCheckpoint::read(&path);
});
