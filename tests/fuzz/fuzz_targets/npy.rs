//! Arrays of pre-computed latents.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit_data::Stored;

fuzz_target!(|data: &[u8]| {
    for stored in [Stored::Npy(data.to_vec()), Stored::Halves(data.to_vec())] {
        if let Ok(array) = stored.read() {
            assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
            assert!(array.values.len() <= data.len());
        }
    }
});
