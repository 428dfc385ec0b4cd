//! Tables in Parquet. Only the columns of pictures and captions are read, a few rows at a time.

use super::{
    column::Column,
    file::open,
    row::{CAPTIONS, Cell, IMAGES, Take, check, pick},
};
use crate::{columns::Columns, error::DataError};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use std::{path::Path, sync::Arc};

pub(super) fn rows(
    table: &Path,
    columns: &Columns,
    take: &mut Take<'_>,
) -> std::result::Result<(), DataError> {
    let bad = |error: parquet::errors::ParquetError| DataError::unreadable(table, &error);
    let file = open(table).map_err(DataError::io(table))?;
    let pages = Arc::new(file.try_clone().map_err(DataError::io(table))?);
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let fields = schema.root_schema().get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    check(table, columns, &names)?;
    let wanted: Vec<&str> = columns
        .image
        .or(&IMAGES)
        .chain(columns.captions_or(&CAPTIONS))
        .collect();
    let mut number = 0u64;
    for group in metadata.row_groups() {
        let (mut read, mut others): (Vec<Column>, Vec<String>) = (Vec::new(), Vec::new());
        for (i, column) in schema.columns().iter().enumerate() {
            let name = column.path().parts().first().map_or("", String::as_str);
            if !wanted.contains(&name) || read.iter().any(|column| column.name == name) {
                continue;
            }
            match Column::new(name, pages.clone(), group, i, column, false).map_err(bad)? {
                Ok(column) => read.push(column),
                Err(what) => others.push(format!("`{name}` holds {what}")),
            }
        }
        let usable: Vec<String> = read.iter().map(|column| column.name.clone()).collect();
        if let Err(missing) = check(table, columns, &usable) {
            let others = others.join(", ");
            return Err(match others.as_str() {
                "" => missing,
                _ => DataError::unreadable(table, &format!("{others}; expected texts")),
            });
        }
        for _ in 0..group.num_rows() {
            number += 1;
            let mut row = Vec::with_capacity(read.len());
            for column in &mut read {
                row.push((column.name.clone(), column.next().map_err(bad)?));
            }
            if row.iter().any(|(_, cell)| cell.is_none()) {
                let message =
                    format!("it ends before row {number}; its directory says there are more");
                return Err(DataError::unreadable(table, &message));
            }
            let row = pick(columns, |name| {
                let found = row.iter().find(|(column, _)| column == name);
                found
                    .and_then(|(_, cell)| cell.clone())
                    .unwrap_or(Cell::Null)
            });
            if !take(&format!("row {number}"), Ok(row))? {
                return Ok(());
            }
        }
    }
    Ok(())
}
