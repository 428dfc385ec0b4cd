//! The header of a page of a Parquet file, in Thrift's compact protocol, as far as it is needed.

/// Nested structures in a header at most.
const MAX_DEPTH: usize = 8;

/// The header of a page; sizes and counts as the file claims them.
#[derive(Default)]
pub(super) struct Header {
    pub(super) kind: i64,
    pub(super) uncompressed: i64,
    pub(super) compressed: i64,
    pub(super) values: i64,
    pub(super) nulls: i64,
    pub(super) rows: i64,
    pub(super) encoding: i64,
    /// Of definition and repetition: encodings, or in version 2 lengths.
    pub(super) levels: [i64; 2],
    pub(super) compressed_values: bool,
}

impl Header {
    /// `None` if it is incomplete or malformed.
    pub(super) fn read(thrift: &mut Thrift<'_>) -> Option<Self> {
        let mut header = Self {
            compressed_values: true,
            ..Self::default()
        };
        thrift.structure(&mut Vec::new(), &mut |path, value| {
            let place = match path {
                [1] => &mut header.kind,
                [2] => &mut header.uncompressed,
                [3] => &mut header.compressed,
                [5 | 7 | 8, 1] => &mut header.values,
                [5, 2] | [7, 2] | [8, 4] => &mut header.encoding,
                [5, 3] | [8, 5] => &mut header.levels[0],
                [5, 4] | [8, 6] => &mut header.levels[1],
                [8, 2] => &mut header.nulls,
                [8, 3] => &mut header.rows,
                [8, 7] => {
                    header.compressed_values = value != 0;
                    return;
                }
                _ => return,
            };
            *place = value;
        })?;
        Some(header)
    }
}

/// A reader of Thrift's compact protocol.
pub(super) struct Thrift<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }

    /// Reads a structure, and reports its numbers and booleans, nested ones included, by the path of their fields.
    fn structure(&mut self, path: &mut Vec<i64>, take: &mut dyn FnMut(&[i64], i64)) -> Option<()> {
        if path.len() >= MAX_DEPTH {
            return None;
        }
        path.push(0);
        loop {
            let head = self.byte()?;
            if head == 0 {
                path.pop();
                return Some(());
            }
            let field = match head >> 4 {
                0 => self.number()?,
                delta => path.last()?.checked_add(i64::from(delta))?,
            };
            *path.last_mut()? = field;
            self.value(head & 15, path, take)?;
        }
    }

    fn value(
        &mut self,
        kind: u8,
        path: &mut Vec<i64>,
        take: &mut dyn FnMut(&[i64], i64),
    ) -> Option<()> {
        match kind {
            1 | 2 => take(path, i64::from(kind == 1)),
            3 => self.skip(1)?,
            4..=6 => {
                let number = self.number()?;
                take(path, number);
            }
            7 => self.skip(8)?,
            8 => {
                let length = self.varint()?;
                self.skip(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => count.into(),
                };
                if head & 15 < 3 || path.len() >= MAX_DEPTH {
                    return None;
                }
                path.push(-1);
                for _ in 0..count {
                    self.value(head & 15, path, take)?;
                }
                path.pop();
            }
            12 => self.structure(path, take)?,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_one_without_end_is_none() {
        // Structures without end, lists of more than there is, numbers too long.
        for bytes in [
            &[0x1c; 100_000][..],
            &[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0x15; 3],
            &[
                0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            &[0x18, 0xff, 0xff, 0xff, 0x7f],
            b"",
        ] {
            assert!(Header::read(&mut Thrift { bytes, at: 0 }).is_none());
        }
        let whole = [
            0x15, 0, 0x15, 20, 0x15, 10, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0,
        ];
        let header = Header::read(&mut Thrift {
            bytes: &whole,
            at: 0,
        })
        .unwrap();
        assert_eq!(
            [
                header.uncompressed,
                header.compressed,
                header.values,
                header.levels[1]
            ],
            [10, 5, 3, 3]
        );
    }
}
