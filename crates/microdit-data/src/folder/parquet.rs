//! Tables in Parquet. Only the columns of pictures and captions are read, a few rows at a time.

use super::{
    file::open,
    pages::Pages,
    row::{CAPTIONS, Cell, IMAGES, Take, check, pick},
};
use crate::{columns::Columns, error::DataError};
use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::ColumnReaderImpl,
    data_type::{ByteArrayType, Int32Type, Int64Type},
    errors::Result,
    file::{
        metadata::RowGroupMetaData,
        reader::{FileReader as _, SerializedFileReader},
    },
    schema::types::ColumnDescPtr,
};
use std::{collections::VecDeque, fs::File, path::Path, sync::Arc};

/// Rows that are read at once.
const BATCH: usize = 256;

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
            match Column::new(name, pages.clone(), group, i, column).map_err(bad)? {
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

/// A column in a group of rows.
struct Column {
    name: String,
    kind: Kind,
    description: ColumnDescPtr,
    ahead: VecDeque<Cell>,
}

/// How its content is read.
enum Kind {
    Bytes(ColumnReaderImpl<ByteArrayType>),
    Short(ColumnReaderImpl<Int32Type>),
    Long(ColumnReaderImpl<Int64Type>),
}

impl Column {
    /// The column, or what it holds if that is neither texts nor numbers nor lists of those.
    fn new(
        name: &str,
        file: Arc<File>,
        group: &RowGroupMetaData,
        i: usize,
        description: &ColumnDescPtr,
    ) -> Result<std::result::Result<Self, &'static str>> {
        let pages = Box::new(Pages::new(file, group.column(i))?);
        let number = matches!(
            description.logical_type_ref(),
            None | Some(LogicalType::Integer { .. })
        ) && !matches!(
            description.converted_type(),
            ConvertedType::DATE
                | ConvertedType::TIMESTAMP_MILLIS
                | ConvertedType::TIMESTAMP_MICROS
                | ConvertedType::DECIMAL
        );
        // Only the first part of a list of lists or of a group would be seen.
        let nested = description.max_rep_level() > 1
            || description.path().parts().len()
                > if description.max_rep_level() == 1 {
                    3
                } else {
                    1
                };
        let kind = match description.physical_type() {
            _ if nested => return Ok(Err("a group of columns")),
            Type::BYTE_ARRAY => Kind::Bytes(ColumnReaderImpl::new(description.clone(), pages)),
            Type::INT32 if number => Kind::Short(ColumnReaderImpl::new(description.clone(), pages)),
            Type::INT64 if number => Kind::Long(ColumnReaderImpl::new(description.clone(), pages)),
            Type::BOOLEAN => return Ok(Err("true or false")),
            Type::FLOAT | Type::DOUBLE => return Ok(Err("a number with a fraction")),
            _ => return Ok(Err("neither text nor number")),
        };
        Ok(Ok(Self {
            name: name.to_owned(),
            kind,
            description: description.clone(),
            ahead: VecDeque::new(),
        }))
    }

    /// The content of the next row, if there is one.
    fn next(&mut self) -> Result<Option<Cell>> {
        if self.ahead.is_empty() {
            self.read()?;
        }
        Ok(self.ahead.pop_front())
    }

    fn read(&mut self) -> Result<()> {
        let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
        macro_rules! cells {
            ($reader:expr, $cell:expr) => {{
                let mut values = Vec::new();
                $reader.read_records(
                    BATCH,
                    Some(&mut definitions),
                    Some(&mut repetitions),
                    &mut values,
                )?;
                values.iter().map($cell).collect::<Vec<Cell>>()
            }};
        }
        let values = match &mut self.kind {
            Kind::Bytes(reader) => cells!(reader, |bytes| Cell::of_bytes(bytes.data())),
            Kind::Short(reader) => cells!(reader, |number| Cell::Number(number.to_string())),
            Kind::Long(reader) => cells!(reader, |number| Cell::Number(number.to_string())),
        };
        let most = self.description.max_def_level();
        let mut values = values.into_iter();
        if self.description.max_rep_level() == 0 {
            match most {
                0 => self.ahead.extend(values),
                _ => {
                    for level in definitions {
                        let cell = if level == most { values.next() } else { None };
                        self.ahead.push_back(cell.unwrap_or(Cell::Null));
                    }
                }
            }
            return Ok(());
        }
        for (level, again) in definitions.into_iter().zip(repetitions) {
            // Null elements count; empty and null lists have none.
            let element = match level {
                _ if level == most => values.next(),
                _ if level + 1 == most && self.description.self_type().is_optional() => {
                    Some(Cell::Null)
                }
                _ => None,
            };
            if again == 0 {
                self.ahead.push_back(Cell::List(Vec::new()));
            }
            if let Some(Cell::List(elements)) = self.ahead.back_mut() {
                elements.extend(element);
            }
        }
        Ok(())
    }
}
