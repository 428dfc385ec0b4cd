//! Captions from the web.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microdit_text::clean_caption;

fuzz_target!(|caption: &str| {
    let clean = clean_caption(caption);
    assert_eq!(clean, clean.trim());
});
