//! Parquet files with the pictures inside, as the Hugging Face hub keeps datasets: a row is a sample, its picture a column of bytes or a
//! group of columns `bytes` and `path`.

use super::members::Columnar;
use crate::{
    error::DataError,
    folder::{BYTES, Cell, Column},
    shard_file::ShardFile,
};
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader as _, SerializedFileReader},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
    sync::Arc,
};

/// The ending of such a file.
pub(super) const EXTENSION: &str = "parquet";

/// The wanted columns of a row: how each is encoded, and its bytes, if it has some.
#[derive(Debug, Default)]
pub(super) struct Row {
    columns: BTreeMap<String, Option<(&'static str, Vec<u8>)>>,
}

impl Columnar for Row {
    fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    fn encoding(&self, column: &str) -> &str {
        match self.columns.get(column) {
            Some(Some((encoding, _))) => encoding,
            _ => "",
        }
    }

    fn get(&self, column: &str) -> Option<Vec<u8>> {
        let (_, bytes) = self.columns.get(column)?.as_ref()?;
        Some(bytes.clone())
    }
}

/// Names of the columns.
///
/// # Errors
/// A file that is not Parquet.
pub(super) fn names(file: &ShardFile) -> Result<BTreeSet<String>, DataError> {
    let reader = reader(file.open()?, file.place())?;
    let fields = reader.metadata().file_metadata().schema_descr();
    let fields = fields.root_schema().get_fields();
    Ok(fields.iter().map(|field| field.name().to_owned()).collect())
}

/// Hands every row to `take` by its number, with those of its columns that are `wanted`, until it returns false.
///
/// # Errors
/// A file that is not Parquet or is damaged, once the rows before the damage have been handed on.
pub(super) fn for_each(
    file: &ShardFile,
    wanted: impl Fn(&str) -> bool,
    mut take: impl FnMut(u64, &Row) -> bool,
) -> Result<(), DataError> {
    let path = file.place();
    let bad = |error: ParquetError| DataError::unreadable(path, &error);
    let reader = reader(file.open()?, path)?;
    let pages = Arc::new(file.open()?);
    let metadata = reader.metadata();
    let leaves = metadata.file_metadata().schema_descr().columns();
    let mut number = 0;
    for group in metadata.row_groups() {
        let mut columns: Vec<Column> = Vec::new();
        for (i, leaf) in leaves.iter().enumerate() {
            let parts = leaf.path().parts();
            let name = parts.first().map_or("", String::as_str);
            let usable = parts.len() != 2 || parts[1] == BYTES;
            if !usable || !wanted(name) || columns.iter().any(|column| column.name == name) {
                continue;
            }
            // What is neither bytes nor numbers is no part of a sample.
            if let Ok(column) =
                Column::new(name, pages.clone(), group, i, leaf, true).map_err(bad)?
            {
                columns.push(column);
            }
        }
        for _ in 0..group.num_rows() {
            let mut row = Row::default();
            for column in &mut columns {
                let Some(cell) = column.next().map_err(bad)? else {
                    let message =
                        format!("it ends before row {number}; its directory says there are more");
                    return Err(DataError::unreadable(path, &message));
                };
                row.columns.insert(column.name.clone(), content(cell));
            }
            if !take(number, &row) {
                return Ok(());
            }
            number += 1;
        }
    }
    Ok(())
}

fn reader(file: File, path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    SerializedFileReader::new(file).map_err(|error| DataError::unreadable(path, &error))
}

/// What a cell holds, encoded as columns of MDS shards are.
fn content(cell: Cell) -> Option<(&'static str, Vec<u8>)> {
    match cell {
        Cell::Null => None,
        Cell::Bytes(bytes) => Some(("bytes", bytes)),
        Cell::Number(number) => Some(("int", number.into_bytes())),
        cell => {
            let value = json(cell);
            Some(("json", serde_json::to_vec(&value).expect("a value is JSON")))
        }
    }
}

fn json(cell: Cell) -> serde_json::Value {
    match cell {
        Cell::Bytes(bytes) => match Cell::of_bytes(&bytes) {
            Cell::Text(text) => text.into(),
            // It is no caption, which is all that lists are read for.
            _ => serde_json::Value::Bool(false),
        },
        Cell::List(cells) => cells.into_iter().map(json).collect(),
        Cell::Text(text) | Cell::Number(text) => text.into(),
        Cell::Null | Cell::Foreign(_) | Cell::Other(_) => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Columns, Image, Loader, LoaderConfig, Position, Sample, Source, Variation,
        shards::{Members, Shard, Shards},
    };

    fn tests(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests")
            .join(name)
    }

    /// Written by pyarrow 22: the samples of `wds_clean.tar` as groups of bytes and path, and as bytes.
    fn fixture(name: &str) -> std::path::PathBuf {
        tests(&format!("faults/tables/pictures-{name}.parquet"))
    }

    type Found = Vec<(String, Result<Sample, String>)>;

    fn found(path: &Path, members: Members) -> Result<Found, DataError> {
        let shards = Shards::open(&path.to_string_lossy(), members.clone())?;
        let mut all = Vec::new();
        let shard: &Shard = shards.iter().next().unwrap();
        shard.for_each(&members, |key, sample| {
            all.push((key.to_owned(), sample));
            true
        })?;
        Ok(all)
    }

    fn file(sample: &Sample) -> &[u8] {
        match &sample.image {
            Image::Encoded(file) => file,
            _ => panic!("a file"),
        }
    }

    #[test]
    fn pictures_are_those_of_the_tar_they_were_taken_from() {
        let tar = found(&tests("goldens/wds_clean.tar"), Members::Pictures).unwrap();
        for (name, lacking) in [
            ("bytes", &[][..]),
            (
                "struct",
                &[(5, "no image"), (9, "no image"), (11, "no caption")],
            ),
        ] {
            let rows = found(&fixture(name), Members::Pictures).unwrap();
            assert_eq!(rows.len(), tar.len());
            for (i, ((key, row), (_, expected))) in rows.iter().zip(&tar).enumerate() {
                assert_eq!(*key, format!("pictures-{name}:{i}"));
                match (row, lacking.iter().find(|(lacking, _)| *lacking == i)) {
                    (Ok(row), None) => {
                        let expected = expected.as_ref().unwrap();
                        assert_eq!(row.caption, expected.caption, "{name} {i}");
                        assert!(file(row) == file(expected), "{name} {i}");
                    }
                    (Err(lack), Some((_, expected))) => assert_eq!(lack, expected),
                    (found, expected) => panic!("{name} {i}: {found:?}, expected {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn lists_and_several_columns_are_several_captions() {
        let columns = Columns {
            caption: ["several"].into(),
            every_caption: true,
            ..Columns::default()
        };
        let rows = found(&fixture("struct"), Members::Named(columns.into())).unwrap();
        let of = |i: usize| {
            rows.iter()
                .filter(move |(key, _)| key.ends_with(&format!(":{i}")))
        };
        assert_eq!(of(3).count(), 2);
        assert_eq!(of(3).nth(1).unwrap().1.as_ref().unwrap().caption, "other");
        let names = ["text", "short"].map(str::to_owned);
        let members = Members::Named(Columns::of_captions(&names).into());
        let rows = found(&fixture("struct"), members).unwrap();
        let captions = |i: usize| -> Vec<(usize, String)> {
            let sample = rows[i].1.as_ref().unwrap();
            let captions = sample.captions();
            captions
                .map(|(named, text)| (named, text.to_owned()))
                .collect()
        };
        assert_eq!(captions(0)[1], (1, "short 04100000".to_owned()));
        // An empty one, and one that is not there, cost themselves.
        assert_eq!(captions(2).len(), 1);
        assert_eq!(captions(11), [(1, "short 04100011".to_owned())]);
        // A number is no caption.
        let columns = Columns {
            caption: ["label"].into(),
            ..Columns::default()
        };
        let rows = found(&fixture("struct"), Members::Named(columns.into())).unwrap();
        let lack = rows[0].1.as_ref().unwrap_err();
        assert!(lack.contains("a caption column encoded as int"), "{lack}");
    }

    #[test]
    fn files_in_a_directory_are_loaded_like_any_shards() {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in ["bytes", "struct"].into_iter().enumerate() {
            let to = folder.path().join(format!("train-{i:05}-of-00002.parquet"));
            std::fs::copy(fixture(name), to).unwrap();
        }
        let pattern = folder.path().join("train-{00000..00001}-of-00002.parquet");
        for spec in [folder.path(), &pattern] {
            let shards = Shards::open(&spec.to_string_lossy(), Members::Pictures).unwrap();
            let config = LoaderConfig {
                seed: 1,
                batch: 29,
                shape: [3, 16, 16],
                buckets: None,
                shrinks_by: 1,
                caption: [1, 1],
                trimmed: false,
                threads: 2,
                max_damage: 0.5,
                variation: Variation::default(),
            };
            let source = Source::Shards(shards);
            let batch = Loader::new(source, config, &Position::default())
                .next_batch()
                .unwrap();
            let keys: BTreeSet<String> = batch.keys.into_iter().collect();
            assert_eq!(keys.len(), 29, "two times sixteen without three");
        }
    }

    /// Whatever bytes change or are missing: an error or other rows, never a panic.
    #[test]
    fn damage_is_an_error_or_harmless() {
        use microdit::rng::{Purpose, Stream};
        let mut random = Stream::new(1, Purpose::Shuffle, 0, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        let mut errors = 0;
        for name in ["bytes", "struct"] {
            let whole = std::fs::read(fixture(name)).unwrap();
            for _ in 0..200 {
                let mut damaged = whole.clone();
                // Mostly where the file is described.
                let from = if random.below(3) == 0 {
                    0
                } else {
                    whole.len() - 2000
                };
                for _ in 0..2 {
                    let place = from + random.below(whole.len() - from);
                    damaged[place] = random.below(256) as u8;
                }
                if random.below(8) == 0 {
                    damaged.truncate(random.below(whole.len()));
                }
                std::fs::write(&path, &damaged).unwrap();
                errors += usize::from(found(&path, Members::Pictures).is_err());
            }
        }
        assert!(errors > 100, "only {errors} of 400 were noticed");
    }
}
