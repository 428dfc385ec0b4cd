//! A column of a Parquet file, a few rows at a time.

use super::{pages::Pages, row::Cell};
use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::ColumnReaderImpl,
    data_type::{ByteArrayType, Int32Type, Int64Type},
    errors::Result,
    file::metadata::RowGroupMetaData,
    schema::types::ColumnDescPtr,
};
use std::{collections::VecDeque, fs::File, sync::Arc};

/// Rows that are read at once.
const BATCH: usize = 256;

/// The same where they may hold pictures.
const BATCH_OF_BYTES: usize = 16;

/// What the column of a picture's bytes is called where a picture is a group of columns, as the Hugging Face hub stores it.
pub(crate) const BYTES: &str = "bytes";

/// A column in a group of rows.
pub(crate) struct Column {
    pub(crate) name: String,
    kind: Kind,
    description: ColumnDescPtr,
    /// Whether bytes are taken as they are, not as text.
    raw: bool,
    ahead: VecDeque<Cell>,
}

/// How its content is read.
enum Kind {
    Bytes(ColumnReaderImpl<ByteArrayType>),
    Short(ColumnReaderImpl<Int32Type>),
    Long(ColumnReaderImpl<Int64Type>),
}

impl Column {
    /// The column, or what it holds if that is neither texts nor numbers nor lists of those. With `raw`, bytes are taken as they are,
    /// and those in a group of columns too.
    pub(crate) fn new(
        name: &str,
        file: Arc<File>,
        group: &RowGroupMetaData,
        i: usize,
        description: &ColumnDescPtr,
        raw: bool,
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
        let of_group = match description.path().parts() {
            [_, part] => raw && part == BYTES && description.max_rep_level() == 0,
            _ => false,
        };
        // Only the first part of a list of lists or of a group would be seen.
        let nested = !of_group
            && (description.max_rep_level() > 1
                || description.path().parts().len()
                    > if description.max_rep_level() == 1 {
                        3
                    } else {
                        1
                    });
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
            raw,
            ahead: VecDeque::new(),
        }))
    }

    /// The content of the next row, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Cell>> {
        if self.ahead.is_empty() {
            self.read()?;
        }
        Ok(self.ahead.pop_front())
    }

    fn read(&mut self) -> Result<()> {
        let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
        let (raw, batch) = match self.raw {
            true => (true, BATCH_OF_BYTES),
            false => (false, BATCH),
        };
        let of_bytes = |bytes: &[u8]| match raw {
            true => Cell::Bytes(bytes.to_vec()),
            false => Cell::of_bytes(bytes),
        };
        macro_rules! cells {
            ($reader:expr, $cell:expr) => {{
                let mut values = Vec::new();
                $reader.read_records(
                    batch,
                    Some(&mut definitions),
                    Some(&mut repetitions),
                    &mut values,
                )?;
                values.iter().map($cell).collect::<Vec<Cell>>()
            }};
        }
        let values = match &mut self.kind {
            Kind::Bytes(reader) => cells!(reader, |bytes| of_bytes(bytes.data())),
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
