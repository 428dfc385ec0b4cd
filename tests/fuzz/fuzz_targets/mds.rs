//! MDS: an index and a shard, divided by the first zero byte; without one, a shard of the index below.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit_data::MdsShard;
use std::path::Path;

const INDEX: &str = r#"{"version": 2, "shards": [{"column_encodings": ["str", "bytes", "int"],
    "column_names": ["caption", "latents_256", "width"], "column_sizes": [null, null, 8], "compression": null,
    "format": "mds", "raw_data": {"basename": "shard", "bytes": 100}, "samples": 2, "version": 2, "zip_data": null}]}"#;

fuzz_target!(|data: &[u8]| {
    let (index, shard) = match data.strip_prefix(b"{") {
        Some(_) => {
            let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
            (std::str::from_utf8(&data[..end]).unwrap_or(INDEX), &data[end..])
        }
        None => (INDEX, data),
    };
    for described in MdsShard::parse(index, Path::new("folder")).unwrap_or_default() {
        assert!(described.path().starts_with("folder"));
        for sample in described.samples_of(shard).unwrap_or_default() {
            // Nothing comes from outside the shard.
            let length: usize = sample.columns().map(|(_, bytes)| bytes.len()).sum();
            assert!(length <= shard.len());
        }
    }
});
