//! One array of an archive, read bit by bit: memory grows with what is there, not with what a header claims.

use microdit_data::npy_header;
use npyz::{NpyHeader, Order};
use std::{
    fs::File,
    io::{BufReader, Read as _},
};
use zip::{ZipArchive, read::ZipFile};

/// An archive that is open.
pub(super) type Archive = ZipArchive<BufReader<File>>;

/// Values that are read at a time.
const CHUNK: usize = 1 << 16;

/// The name of an array's file in the archive.
pub(super) fn entry_name(array: &str) -> String {
    npyz::npz::file_name_from_array_name(array)
}

/// An array whose values are read next.
pub(super) struct Array<'a> {
    name: &'static str,
    stream: ZipFile<'a, BufReader<File>>,
    shape: Vec<usize>,
    order: Order,
    element: Element,
    /// Values read so far.
    read: usize,
}

#[derive(Clone, Copy)]
enum Element {
    F64,
    F32,
    I64,
}

impl<'a> Array<'a> {
    /// Finds an array and reads its header.
    pub(super) fn open(archive: &'a mut Archive, name: &'static str) -> Result<Self, String> {
        let fail = |error: String| format!("{name}: {error}");
        let mut stream = archive
            .by_name(&entry_name(name))
            .map_err(|error| fail(error.to_string()))?;
        let header = npy_header::read(&mut stream).map_err(fail)?;
        let header =
            NpyHeader::from_reader(header.as_slice()).map_err(|error| fail(error.to_string()))?;
        let sides = header
            .shape()
            .iter()
            .map(|&side| usize::try_from(side).ok());
        let shape: Option<Vec<usize>> = sides.collect();
        let shape = shape.ok_or_else(|| fail("its shape is larger than any memory".into()))?;
        let element = match header.dtype().descr().trim_matches('\'') {
            "<f8" => Element::F64,
            "<f4" => Element::F32,
            "<i8" => Element::I64,
            other => return Err(fail(format!("its type is {other}; expected <f8 or <f4"))),
        };
        Ok(Self {
            name,
            stream,
            shape,
            order: header.order(),
            element,
            read: 0,
        })
    }

    /// Its sides, outermost first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether it is stored row by row.
    pub(super) fn by_rows(&self) -> bool {
        self.order == Order::C
    }

    /// What to say of a shape that is not the expected one.
    pub(super) fn wrong_shape(&self, expected: &str) -> String {
        let order = if self.by_rows() {
            ""
        } else {
            ", stored column by column"
        };
        format!(
            "{}: its shape is {:?}{order}; expected {expected}",
            self.name, self.shape
        )
    }

    /// Appends the next `count` values.
    pub(super) fn read(&mut self, count: usize, values: &mut Vec<f64>) -> Result<(), String> {
        let size = match self.element {
            Element::F64 | Element::I64 => 8,
            Element::F32 => 4,
        };
        let mut bytes = Vec::new();
        for begin in (0..count).step_by(CHUNK) {
            let next = CHUNK.min(count - begin) * size;
            bytes.clear();
            let found = (&mut self.stream).take(next as u64).read_to_end(&mut bytes);
            let found = found.map_err(|error| format!("{}: {error}", self.name))?;
            if found < next {
                return Err(format!(
                    "{}: it ends after {} values",
                    self.name,
                    self.read + found / size
                ));
            }
            for bytes in bytes.chunks_exact(size) {
                let value = self.element.value(bytes);
                if !value.is_finite() {
                    return Err(format!(
                        "{}: its value number {} is {value}",
                        self.name, self.read
                    ));
                }
                values.push(value);
                self.read += 1;
            }
        }
        Ok(())
    }

    /// All values, in their order in the file.
    pub(super) fn read_all(mut self) -> Result<Vec<f64>, String> {
        let mut values = Vec::new();
        // The caller has bounded the shape.
        self.read(self.shape.iter().product(), &mut values)?;
        self.finish()?;
        Ok(values)
    }

    /// Reads to the end, where the archive's checksum is compared.
    pub(super) fn finish(mut self) -> Result<(), String> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(format!(
                "{}: it holds more than its shape {:?} says",
                self.name, self.shape
            )),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }
}

impl Element {
    fn value(self, bytes: &[u8]) -> f64 {
        let wide = || <[u8; 8]>::try_from(bytes).expect("eight bytes");
        match self {
            Self::F64 => f64::from_le_bytes(wide()),
            Self::I64 => i64::from_le_bytes(wide()) as f64,
            Self::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")).into(),
        }
    }
}
