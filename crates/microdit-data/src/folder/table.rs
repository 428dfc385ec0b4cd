//! Tables of captions, row by row: a damaged row costs only itself.

use super::{name, open, parquet};
use crate::{
    columns::Columns,
    error::DataError,
    text::{decode_text, utf8_reader},
};
use std::{
    collections::BTreeSet,
    io::{self, BufRead, Read},
    path::Path,
};

/// Columns that are looked for, in their order.
pub(super) const IMAGES: [&str; 12] = [
    "file_name",
    "image",
    "image_path",
    "img_path",
    "image_name",
    "path",
    "filename",
    "file",
    "img",
    "image_file",
    "jpg",
    "image_id",
];

/// Columns that are looked for, in their order.
pub(super) const CAPTIONS: [&str; 6] = [
    "text",
    "caption",
    "captions",
    "prompt",
    "txt",
    "description",
];

/// Bytes of a row at most.
const MAX_ROW: u64 = 16 << 20;

/// Names of columns that are listed where one is missing.
const NAMED: usize = 20;

/// What stands in a row.
pub(super) struct Row {
    pub(super) image: Cell,
    pub(super) captions: Vec<Cell>,
}

/// What stands in a column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Text(String),
    /// A whole number, written out.
    Number(String),
    List(Vec<Cell>),
    /// A text in another encoding, by what is wrong with it.
    Foreign(String),
    /// Something else, by what it is.
    Other(&'static str),
}

impl Cell {
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        match decode_text(bytes) {
            Ok(text) => Self::Text(text.into_owned()),
            Err(error) => Self::Foreign(error),
        }
    }

    fn of_json(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text.clone()),
            Value::Number(number) if !number.is_f64() => Self::Number(number.to_string()),
            Value::Number(_) => Self::Other("a number with a fraction"),
            Value::Bool(_) => Self::Other("true or false"),
            Value::Array(values) => Self::List(values.iter().map(Self::of_json).collect()),
            Value::Object(_) => Self::Other("an object"),
        }
    }
}

/// Each caption of a row, or why it is not one.
pub(super) fn captions(cells: Vec<Cell>) -> Vec<Result<String, String>> {
    let one = |cell: Cell| match cell {
        Cell::Text(text) => Ok(text),
        Cell::Null => Err("no caption".into()),
        Cell::Foreign(error) => Err(format!("a caption that is not Unicode text: {error}")),
        Cell::Number(number) => Err(format!("a caption that is no text: the number {number}")),
        Cell::List(_) => Err("a caption that is no text: a list in a list".into()),
        Cell::Other(kind) => Err(format!("a caption that is no text: {kind}")),
    };
    let mut captions = Vec::new();
    for cell in cells {
        match cell {
            Cell::List(cells) => captions.extend(cells.into_iter().map(one)),
            cell => captions.push(one(cell)),
        }
    }
    if captions.is_empty() {
        captions.push(Err("no caption".into()));
    }
    captions
}

/// What reads rows, told where each stands.
pub(super) type Take<'a> = dyn FnMut(&str, Result<Row, String>) -> Result<bool, DataError> + 'a;

/// Hands the rows of a table to `take` until it answers false.
///
/// # Errors
/// A table that cannot be read at all, one without the columns, or what `take` answers.
pub(super) fn rows(table: &Path, columns: &Columns, take: &mut Take<'_>) -> Result<(), DataError> {
    let extension = table
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    match extension.as_str() {
        "jsonl" | "ndjson" => json_lines(table, columns, take),
        "csv" => separated(table, b',', columns, take),
        "tsv" => separated(table, b'\t', columns, take),
        "parquet" => parquet::rows(table, columns, take),
        _ => Err(DataError::unreadable(
            table,
            &"expected a table .jsonl, .csv, .tsv or .parquet",
        )),
    }
}

/// Picture and captions of a row, of what its columns hold.
pub(super) fn pick(columns: &Columns, cell: impl Fn(&str) -> Cell) -> Row {
    let there = |name: &str| Some(cell(name)).filter(|cell| *cell != Cell::Null);
    let image = columns
        .image
        .or(&IMAGES)
        .find_map(there)
        .unwrap_or(Cell::Null);
    let most = if columns.every_caption { usize::MAX } else { 1 };
    let captions = columns
        .caption
        .or(&CAPTIONS)
        .filter_map(there)
        .take(most)
        .collect();
    Row { image, captions }
}

/// Checks that a table with such columns has those of pictures and captions.
pub(super) fn check(table: &Path, columns: &Columns, there: &[String]) -> Result<(), DataError> {
    for (what, names) in [
        ("pictures", columns.image.or(&IMAGES).collect::<Vec<_>>()),
        ("captions", columns.caption.or(&CAPTIONS).collect()),
    ] {
        if !names
            .iter()
            .any(|name| there.iter().any(|there| there == name))
        {
            let more = if there.len() > NAMED { ", ..." } else { "" };
            let message = format!(
                "it has no column of {what}; expected {}; found {}{more}. Name it in `columns` of the dataset's card",
                names.join(" or "),
                there[..there.len().min(NAMED)].join(", "),
            );
            return Err(DataError::unreadable(table, &message));
        }
    }
    Ok(())
}

fn json_lines(table: &Path, columns: &Columns, take: &mut Take<'_>) -> Result<(), DataError> {
    let file = open(table).map_err(DataError::io(table))?;
    let mut reader = utf8_reader(file).map_err(DataError::io(table))?;
    let mut line = Vec::new();
    let (mut number, mut met) = (0u64, BTreeSet::new());
    let mut objects = false;
    loop {
        number += 1;
        let whole = next_line(&mut reader, &mut line).map_err(DataError::io(table))?;
        let row = match whole {
            None => break,
            Some(false) => Err(format!(
                "a row that is too long: it has more than {MAX_ROW} bytes"
            )),
            Some(true) if line.trim_ascii().is_empty() => continue,
            Some(true) => json_row(&line),
        };
        let row = row.map(|row| {
            objects = true;
            for name in row.keys() {
                if met.len() <= NAMED && !met.contains(name) {
                    met.insert(name.clone());
                }
            }
            pick(columns, |name| {
                row.get(name).map_or(Cell::Null, Cell::of_json)
            })
        });
        if !take(&format!("line {number}"), row)? {
            return Ok(());
        }
    }
    // Rows with columns, but none of the right ones: the names are wrong, not the rows.
    match objects {
        true => check(table, columns, &met.into_iter().collect::<Vec<_>>()),
        false => Ok(()),
    }
}

fn json_row(line: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let text =
        decode_text(line).map_err(|error| format!("a row that is not Unicode text: {error}"))?;
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(row)) => Ok(row),
        Ok(_) => Err("a row that is no JSON object".into()),
        Err(error) => Err(format!("a row that is no JSON: {error}")),
    }
}

/// Reads a line without its end; whether it was short enough, or none at the end.
fn next_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    if reader.take(MAX_ROW).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") || (line.len() as u64) < MAX_ROW {
        return Ok(Some(true));
    }
    loop {
        let buffer = reader.fill_buf()?;
        let end = memchr::memchr(b'\n', buffer);
        let count = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(count);
        if end.is_some() || count == 0 {
            return Ok(Some(false));
        }
    }
}

fn separated(
    table: &Path,
    delimiter: u8,
    columns: &Columns,
    take: &mut Take<'_>,
) -> Result<(), DataError> {
    let file = open(table).map_err(DataError::io(table))?;
    let reader = utf8_reader(file).map_err(DataError::io(table))?;
    let bounded = Bounded {
        reader,
        left: MAX_ROW,
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .buffer_capacity(64 << 10)
        .from_reader(bounded);
    let bad = |error: csv::Error| DataError::unreadable(table, &error);
    let headers = reader.byte_headers().map_err(bad)?.clone();
    let headers: Vec<String> = headers
        .iter()
        .map(|header| String::from_utf8_lossy(header).trim().to_owned())
        .collect();
    check(table, columns, &headers)?;
    let mut record = csv::ByteRecord::new();
    loop {
        reader.get_mut().left = MAX_ROW;
        if !reader.read_byte_record(&mut record).map_err(bad)? {
            return Ok(());
        }
        let line = record.position().map_or(0, csv::Position::line);
        let row = match record.len() == headers.len() {
            true => Ok(pick(columns, |name| {
                let place = headers.iter().position(|header| header == name);
                let cell = place
                    .and_then(|place| record.get(place))
                    .map(Cell::of_bytes);
                cell.filter(|cell| *cell != Cell::Text(String::new()))
                    .unwrap_or(Cell::Null)
            })),
            false => Err(format!(
                "a row with another number of columns than the first: {} instead of {} in {}",
                record.len(),
                headers.len(),
                name(table)
            )),
        };
        if !take(&format!("line {line}"), row)? {
            return Ok(());
        }
    }
}

/// A reader that gives up on a row that never ends, such as after an unclosed quote.
struct Bounded<R> {
    reader: R,
    /// Bytes that may still be read before the row must have ended.
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!(
                "a row has more than {MAX_ROW} bytes; is a quote not closed?"
            ))
        })?;
        Ok(count)
    }
}
