//! Weights in several files: an index and one of its files, divided by the first zero byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit::weights::WeightsFile;

fuzz_target!(|data: &[u8]| {
    let folder = std::env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a directory can be made");
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (index, part) = data.split_at(end);
    let path = folder.join("index.json");
    std::fs::write(&path, index).expect("a file can be written");
    std::fs::write(folder.join("a"), part.get(1..).unwrap_or_default()).expect("a file can be written");
    if let Ok(mut file) = WeightsFile::open(&path) {
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        for name in names {
            let _ = file.read(&name);
        }
    }
});
