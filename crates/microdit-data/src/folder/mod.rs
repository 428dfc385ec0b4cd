//! Pictures in a directory, with captions beside them or in a table.

mod column;
mod file;
mod page_header;
mod pages;
mod parquet;
mod paths;
mod row;
mod table;
#[cfg(test)]
mod tests;

use crate::{
    columns::Columns,
    error::DataError,
    files::file_name,
    key::readable,
    sample::{Image, Sample},
    text::decode_text,
};
pub(crate) use column::{BYTES, Column};
use file::{open, read};
pub(crate) use row::Cell;
use row::Row;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Tables a directory is searched for, in this order.
const TABLES: [&str; 6] = [
    "captions.jsonl",
    "metadata.jsonl",
    "captions.csv",
    "metadata.csv",
    "captions.parquet",
    "metadata.parquet",
];

/// Largest file of a picture, in bytes.
const MAX_PICTURE: u64 = 1 << 30;

/// Largest file of a caption, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// A directory of pictures.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    table: Option<PathBuf>,
    columns: Columns,
}

impl Folder {
    /// The pictures in `root` and the directories below it. Their captions are in `table`, or in a table called `captions` or
    /// `metadata` (`.jsonl`, `.csv`, `.parquet`) in `root`, or else in a `.txt` beside each picture.
    ///
    /// # Errors
    /// If the table cannot be opened.
    pub fn open(root: &Path, table: Option<&Path>, columns: Columns) -> Result<Self, DataError> {
        let found = || {
            TABLES
                .iter()
                .map(|name| root.join(name))
                .find(|path| path.is_file())
        };
        let table = table.map(Path::to_owned).or_else(found);
        if let Some(table) = &table {
            open(table).map_err(DataError::io(table))?;
        }
        Ok(Self {
            root: root.to_owned(),
            table,
            columns,
        })
    }

    /// The pictures in `root` and the directories below it, in the order of their paths, with or without captions.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn pictures(root: &Path) -> Result<Vec<PathBuf>, DataError> {
        paths::pictures(root)
    }

    /// Hands every picture with its caption to `take`, or what it lacks, in the order of the paths or of the table, until
    /// `take` returns false. `take` also gets the picture's name, or its row if it has no name.
    ///
    /// # Errors
    /// If the directory or the table cannot be read, and the errors of `take`.
    pub fn for_each(
        &self,
        mut take: impl FnMut(&str, Result<Sample, String>) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        match &self.table {
            Some(table) => table::rows(table, &self.columns, &mut |place, row| {
                self.row(&format!("{}, {place}", file_name(table)), row, &mut take)
            }),
            None => {
                for path in paths::pictures(&self.root)? {
                    let key = self.key(&path);
                    let sample = match &self.columns.captions[..] {
                        [] => self
                            .beside(&path)
                            .and_then(|caption| sample(&key, &path, vec![(0, Ok(caption))])),
                        names => sample(&key, &path, beside_by_name(&path, names)),
                    };
                    if !take(&key, sample)? {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Passes on the samples of a row; returns whether to continue.
    fn row(
        &self,
        place: &str,
        row: Result<Row, String>,
        take: &mut impl FnMut(&str, Result<Sample, String>) -> Result<bool, DataError>,
    ) -> Result<bool, DataError> {
        let found = row.and_then(|row| Ok((self.path(row.image)?, row.captions)));
        let (path, captions) = match found {
            Ok(found) => found,
            Err(lack) => return take(place, Err(lack)),
        };
        let key = self.key(&path);
        let several = !self.columns.captions.is_empty();
        let samples = match several {
            true => {
                let there = captions.into_iter().enumerate();
                let there = there.filter(|(_, cell)| *cell != Cell::Null);
                let first = |cell| row::captions(vec![cell]).swap_remove(0);
                let named = there.map(|(i, cell)| (i, first(cell).and_then(not_empty)));
                vec![named.collect()]
            }
            false => row::captions(captions)
                .into_iter()
                .map(|caption| vec![(0, caption)])
                .collect::<Vec<_>>(),
        };
        for captions in samples {
            let more = match sample(&key, &path, captions) {
                Ok(sample) => take(&key, Ok(sample)),
                // Several rows may name one picture, so say which it was.
                Err(lack) => take(&format!("{key} ({place})"), Err(lack)),
            };
            if !more? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The file a row names.
    fn path(&self, image: Cell) -> Result<PathBuf, String> {
        match image {
            Cell::Text(text) if text.trim().is_empty() => Err("no image".into()),
            Cell::Text(text) => paths::resolve(&self.root, &text),
            Cell::Number(number) => paths::resolve(&self.root, &number),
            Cell::Null => Err("no image".into()),
            Cell::Foreign(error) => Err(format!("an image path that is not Unicode text: {error}")),
            Cell::List(_) => Err("an image path that is not text: a list".into()),
            Cell::Bytes(_) => Err("an image path that is not text: bytes".into()),
            Cell::Other(kind) => Err(format!("an image path that is not text: {kind}")),
        }
    }

    /// The caption in the text file beside a picture.
    fn beside(&self, path: &Path) -> Result<String, String> {
        let endings = self.columns.caption.or(&[]).chain(["txt", "TXT"]);
        for ending in endings {
            match read(&path.with_extension(ending), MAX_TEXT) {
                Ok(bytes) => return caption_text(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("a caption that cannot be read: {error}")),
            }
        }
        Err("no caption".into())
    }

    /// A picture's name: its path under the directory.
    fn key(&self, path: &Path) -> String {
        let inner = path.strip_prefix(&self.root).unwrap_or(path);
        let parts = inner
            .components()
            .map(|part| readable(part.as_os_str().as_encoded_bytes()));
        parts.collect::<Vec<_>>().join("/")
    }
}

/// Several captions by their names, each in a text file beside a picture: `KEY.NAME` or `KEY.NAME.txt`.
fn beside_by_name(path: &Path, names: &[String]) -> Vec<Named> {
    let one = |(i, name): (usize, &String)| {
        let files = [name.clone(), format!("{name}.txt")];
        files.iter().find_map(|ending| {
            let found = match read(&path.with_extension(ending), MAX_TEXT) {
                Ok(bytes) => caption_text(&bytes).and_then(not_empty),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => Err(format!("a caption that cannot be read: {error}")),
            };
            Some((i, found))
        })
    };
    names.iter().enumerate().filter_map(one).collect()
}

fn caption_text(bytes: &[u8]) -> Result<String, String> {
    let text = decode_text(bytes);
    let text = text.map_err(|error| format!("a caption that is not Unicode text: {error}"))?;
    Ok(text.into_owned())
}

fn not_empty(caption: String) -> Result<String, String> {
    match caption.trim() {
        "" => Err("an empty caption".into()),
        _ => Ok(caption),
    }
}

/// A caption by its place among those that were asked for, or what is wrong with it.
type Named = (usize, Result<String, String>);

fn sample(key: &str, path: &Path, captions: Vec<Named>) -> Result<Sample, String> {
    let mut sample = Sample::of_captions(key, Image::Encoded(Vec::new()), captions)?;
    let file = read(path, MAX_PICTURE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("no image: {} is not there", path.display()),
        _ => format!(
            "an image file that cannot be read: {}: {error}",
            path.display()
        ),
    })?;
    sample.image = Image::Encoded(file);
    Ok(sample)
}
