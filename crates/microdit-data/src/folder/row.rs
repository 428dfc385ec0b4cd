//! What a row of a table holds, and which columns count.

use crate::{columns::Columns, error::DataError, text::decode_text};
use std::path::Path;

/// Columns that are looked for, in this order.
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

/// Columns that are looked for, in this order.
pub(super) const CAPTIONS: [&str; 6] = [
    "text",
    "caption",
    "captions",
    "prompt",
    "txt",
    "description",
];

/// Number of columns listed where one is missing.
pub(super) const NAMED: usize = 20;

/// The content of a row.
pub(super) struct Row {
    pub(super) image: Cell,
    /// Of several captions by name, one cell for each.
    pub(super) captions: Vec<Cell>,
}

/// The content of one column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Text(String),
    /// A whole number, written out.
    Number(String),
    List(Vec<Cell>),
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A text in another encoding, by what is wrong with it.
    Foreign(String),
    /// Something else, by what it is.
    Other(&'static str),
}

impl Cell {
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        match decode_text(bytes) {
            Ok(text) => Self::Text(text.into_owned()),
            Err(error) => Self::Foreign(error),
        }
    }

    pub(super) fn of_json(value: &serde_json::Value) -> Self {
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
        Cell::Number(number) => Err(format!("a caption that is not text: the number {number}")),
        Cell::List(_) => Err("a caption that is not text: a list in a list".into()),
        Cell::Bytes(_) => Err("a caption that is not text: bytes".into()),
        Cell::Other(kind) => Err(format!("a caption that is not text: {kind}")),
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

/// What takes rows, with the place of each.
pub(super) type Take<'a> = dyn FnMut(&str, Result<Row, String>) -> Result<bool, DataError> + 'a;

/// Picture and captions of a row, of what its columns hold.
pub(super) fn pick(columns: &Columns, cell: impl Fn(&str) -> Cell) -> Row {
    let there = |name: &str| Some(cell(name)).filter(|cell| *cell != Cell::Null);
    let image = columns
        .image
        .or(&IMAGES)
        .find_map(there)
        .unwrap_or(Cell::Null);
    let names = columns.captions_or(&CAPTIONS);
    let captions = match (columns.captions.is_empty(), columns.every_caption) {
        (false, _) => names.into_iter().map(&cell).collect(),
        (true, true) => names.into_iter().filter_map(there).collect(),
        (true, false) => names.into_iter().find_map(there).into_iter().collect(),
    };
    Row { image, captions }
}

/// Checks that a table with such columns has those of pictures and captions.
pub(super) fn check(table: &Path, columns: &Columns, there: &[String]) -> Result<(), DataError> {
    for (what, names) in [
        ("pictures", columns.image.or(&IMAGES).collect::<Vec<_>>()),
        ("captions", columns.captions_or(&CAPTIONS)),
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
