//! Pictures in a directory, with captions beside them or in a table.

use crate::{
    key::readable,
    sample::{DataError, Image, Sample},
};
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Component, Path, PathBuf},
};

/// Extensions of pictures.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Tables that are looked for in a directory.
const TABLES: [&str; 6] = [
    "captions.jsonl",
    "metadata.jsonl",
    "captions.csv",
    "metadata.csv",
    "captions.parquet",
    "metadata.parquet",
];

/// Columns of a table of captions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The picture's path, relative to the directory.
    pub image: String,
    /// Its caption.
    pub caption: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [image, caption] = ["file_name", "text"].map(str::to_owned);
        Self { image, caption }
    }
}

/// A directory of pictures.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    table: Option<PathBuf>,
    columns: Columns,
}

impl Folder {
    /// The pictures in `root` and its directories. Their captions stand in `table`, or in a table `captions` or `metadata`
    /// (`.jsonl`, `.csv`, `.parquet`) in the directory itself, or else in a `.txt` beside each picture.
    ///
    /// # Errors
    /// A table that is not there.
    pub fn open(root: &Path, table: Option<&Path>, columns: Columns) -> Result<Self, DataError> {
        let found = || {
            TABLES
                .iter()
                .map(|name| root.join(name))
                .find(|path| path.is_file())
        };
        let table = table.map(Path::to_owned).or_else(found);
        if let Some(table) = &table {
            File::open(table).map_err(DataError::io(table))?;
        }
        Ok(Self {
            root: root.to_owned(),
            table,
            columns,
        })
    }

    /// Hands every picture to `take` with its caption, or what it lacks, in the order of their paths or of the table, until
    /// `take` answers false.
    ///
    /// # Errors
    /// An unreadable directory or table, or what `take` answers.
    pub fn for_each(
        &self,
        mut take: impl FnMut(&str, Result<Sample, String>) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        let Some(table) = &self.table else {
            let mut paths = Vec::new();
            pictures(&self.root, &mut paths)?;
            paths.sort();
            for path in paths {
                let key = self.key(&path);
                let caption = std::fs::read_to_string(path.with_extension("txt"));
                let caption = caption.map_err(|_| "no caption".to_owned());
                take(
                    &key,
                    caption.and_then(|caption| sample(&key, &path, &caption)),
                )?;
            }
            return Ok(());
        };
        self.rows(table, |image, caption| {
            // A table must not lead out of its directory.
            let path = Path::new(&image);
            let inside = path
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            let path = self.root.join(path);
            let key = self.key(&path);
            if !inside {
                return take(&image, Err("a path that leads out of the directory".into()));
            }
            take(&key, sample(&key, &path, &caption))
        })
    }

    /// A picture's name: its path under the directory.
    fn key(&self, path: &Path) -> String {
        let inner = path.strip_prefix(&self.root).unwrap_or(path);
        let parts = inner.components().filter(|part| *part != Component::CurDir);
        let parts: Vec<String> = parts
            .map(|part| readable(part.as_os_str().as_encoded_bytes()))
            .collect();
        parts.join("/")
    }

    /// Path and caption of every row.
    fn rows(
        &self,
        table: &Path,
        mut take: impl FnMut(String, String) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        let bad = |error: &dyn std::fmt::Display| DataError::unreadable(table, error);
        let missing = |column: &str| bad(&format!("no column `{column}`"));
        let file = File::open(table).map_err(DataError::io(table))?;
        match table.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => {
                for line in BufReader::new(file).lines() {
                    let line = line.map_err(DataError::io(table))?;
                    if line.trim().is_empty() {
                        continue;
                    }
                    let row: HashMap<String, serde_json::Value> =
                        serde_json::from_str(&line).map_err(|error| bad(&error))?;
                    let text = |column: &str| {
                        let value = row.get(column).and_then(|value| value.as_str());
                        value.map(str::to_owned).ok_or_else(|| missing(column))
                    };
                    if !take(text(&self.columns.image)?, text(&self.columns.caption)?)? {
                        break;
                    }
                }
            }
            Some("csv") => {
                let mut reader = csv::Reader::from_reader(BufReader::new(file));
                let headers = reader.headers().map_err(|error| bad(&error))?.clone();
                let place = |column: &str| {
                    let place = headers.iter().position(|header| header == column);
                    place.ok_or_else(|| missing(column))
                };
                let (image, caption) = (place(&self.columns.image)?, place(&self.columns.caption)?);
                for row in reader.records() {
                    let row = row.map_err(|error| bad(&error))?;
                    if !take(row[image].to_owned(), row[caption].to_owned())? {
                        break;
                    }
                }
            }
            Some("parquet") => {
                let reader = SerializedFileReader::new(file).map_err(|error| bad(&error))?;
                let rows = reader.get_row_iter(None).map_err(|error| bad(&error))?;
                for row in rows {
                    let row = row.map_err(|error| bad(&error))?;
                    let text = |column: &str| {
                        let mut columns = row.get_column_iter();
                        let field = columns.find(|(name, _)| *name == column);
                        match field {
                            Some((_, Field::Str(text))) => Ok(text.clone()),
                            _ => Err(missing(column)),
                        }
                    };
                    if !take(text(&self.columns.image)?, text(&self.columns.caption)?)? {
                        break;
                    }
                }
            }
            _ => return Err(bad(&"expected a table .jsonl, .csv or .parquet")),
        }
        Ok(())
    }
}

fn sample(key: &str, path: &Path, caption: &str) -> Result<Sample, String> {
    let file = std::fs::read(path).map_err(|_| "no image".to_owned())?;
    Ok(Sample {
        key: key.to_owned(),
        caption: caption.trim().to_owned(),
        image: Image::Encoded(file),
        damage: None,
    })
}

fn pictures(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        if path.is_dir() {
            pictures(&path, paths)?;
        } else if extension.is_some_and(|extension| PICTURES.contains(&extension.as_str())) {
            paths.push(path);
        }
    }
    Ok(())
}
