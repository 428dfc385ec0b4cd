//! Parquet tables: every compression, every type of column, damaged files.

use super::{Case, PICTURE, lacks, ok};
use crate::columns::Columns;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/faults/tables");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Written by pyarrow 22 from one table.
#[test]
fn parquet_is_read_however_it_is_compressed() {
    for name in ["none", "snappy", "gzip", "brotli", "lz4", "zstd", "plain"] {
        let case = Case::new(&[("captions.parquet", &fixture(&format!("{name}.parquet")))]);
        for i in 0..40 {
            case.write(&format!("{i:02}.png"), PICTURE);
        }
        let found = case.found();
        assert_eq!(found.len(), 40, "{name}");
        for (i, (place, caption)) in found.iter().enumerate() {
            if i % 7 == 0 {
                assert!(place.contains(&format!("row {}", i + 1)), "{name}: {place}");
                assert_eq!(caption, &Err("no caption".to_owned()), "{name}");
            } else {
                assert_eq!(place, &format!("{i:02}.png"), "{name}");
                assert_eq!(caption, &Ok(format!("picture {i} of a fox")), "{name}");
            }
        }
    }
}

#[test]
fn parquet_of_numbers_lists_and_bytes_is_read() {
    let case = Case::new(&[
        ("captions.parquet", &fixture("lists.parquet")),
        ("000000000042.png", PICTURE),
        ("73.png", PICTURE),
    ]);
    let found = case.found();
    assert_eq!(
        ok(&found),
        [("000000000042.png", "a"), ("000000000042.png", "b")]
    );
    lacks(&found, &[("row 2", "no caption"), ("row 3", "no image")]);
    let case = Case::new(&[
        ("captions.parquet", &fixture("bytes.parquet")),
        ("a.png", PICTURE),
        ("c.png", PICTURE),
    ]);
    let found = case.found();
    assert_eq!(ok(&found), [("c.png", "é")]);
    lacks(
        &found,
        &[
            ("row 1", "a caption that is not Unicode text"),
            ("row 2", "an image path that is not Unicode text"),
        ],
    );
    let case = Case::new(&[("captions.parquet", &fixture("wrong.parquet"))]);
    let error = case.samples(Columns::default()).unwrap_err().to_string();
    assert!(
        error.contains("`text` holds a number with a fraction; expected texts"),
        "{error}"
    );
}

/// Whatever bytes change or are missing: an error or other rows, never a panic, and never more than a page's memory.
#[test]
fn damaged_parquet_is_an_error_or_harmless() {
    use microdit::rng::{Purpose, Stream};
    let mut random = Stream::new(1, Purpose::Shuffle, 0, 0);
    let case = Case::new(&[]);
    let mut errors = 0;
    for name in [
        "none", "snappy", "gzip", "brotli", "lz4", "zstd", "plain", "lists",
    ] {
        let whole = fixture(&format!("{name}.parquet"));
        for _ in 0..150 {
            let mut damaged = whole.clone();
            for _ in 0..2 {
                let place = random.below(damaged.len());
                damaged[place] = random.below(256) as u8;
            }
            if random.below(8) == 0 {
                damaged.truncate(random.below(whole.len()));
            }
            case.write("captions.parquet", &damaged);
            errors += usize::from(case.samples(Columns::default()).is_err());
        }
    }
    assert!(errors > 300, "only {errors} of 1200 were noticed");
}
