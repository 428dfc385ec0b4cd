//! Tables of captions, row by row: a damaged row costs only itself.

use super::{
    file::open,
    parquet,
    row::{Cell, NAMED, Take, check, pick},
};
use crate::{
    columns::Columns,
    error::DataError,
    files::file_name,
    lines::{Line, LineError, Lines},
    text::utf8_reader,
};
use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
};

/// Bytes of a row at most.
const MAX_ROW: u64 = 16 << 20;

/// Hands the rows of a table to `take` until it returns false.
///
/// # Errors
/// If the table cannot be read at all or lacks the columns, and the errors of `take`.
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

fn json_lines(table: &Path, columns: &Columns, take: &mut Take<'_>) -> Result<(), DataError> {
    let file = open(table).map_err(DataError::io(table))?;
    let mut lines = Lines::of(file, MAX_ROW as usize).map_err(DataError::io(table))?;
    let mut met = BTreeSet::new();
    let mut objects = false;
    while let Some(Line { number, text }) = lines.next_line().map_err(DataError::io(table))? {
        let row = match text {
            Ok(text) if text.trim().is_empty() => continue,
            Ok(text) => json_row(&text),
            Err(LineError::Foreign(error)) => {
                Err(format!("a row that is not Unicode text: {error}"))
            }
            Err(error) => Err(format!("a row that is too long: {error}")),
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

fn json_row(line: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    match serde_json::from_str(line) {
        Ok(serde_json::Value::Object(row)) => Ok(row),
        Ok(_) => Err("a row that is not a JSON object".into()),
        Err(error) => Err(format!("a row that is not JSON: {error}")),
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
                file_name(table)
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
