//! The pages of a column of a Parquet file, decompressed in bounded memory. The decompressors of the crate `parquet` believe what a page
//! says of its size, or write until nothing is left: a file of a megabyte could fill any memory.

use parquet::{
    basic::{Compression, Encoding},
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::ColumnChunkMetaData,
        reader::{ChunkReader, Length as _},
    },
};
use std::{
    fs::File,
    io::{Cursor, Read},
    sync::Arc,
};

/// Bytes of a page at most, before and after decompression: writers aim at one megabyte.
const MAX_PAGE: u64 = 256 << 20;

/// Values of a page at most.
const MAX_VALUES: u64 = 1 << 24;

/// Bytes of what stands before a page at most; statistics are part of it.
const MAX_HEADER: usize = 1 << 20;

/// Nested structures in a header at most.
const MAX_DEPTH: usize = 8;

fn bad<T>(message: impl std::fmt::Display) -> Result<T> {
    Err(ParquetError::General(message.to_string()))
}

/// The pages of one column in one group of rows.
pub(super) struct Pages {
    file: Arc<File>,
    at: u64,
    end: u64,
    compression: Compression,
    dictionary: bool,
}

impl Pages {
    pub(super) fn new(file: Arc<File>, column: &ColumnChunkMetaData) -> Result<Self> {
        let begin = column.dictionary_page_offset();
        let begin = begin
            .filter(|&at| at > 0)
            .unwrap_or(column.data_page_offset());
        let place = u64::try_from(begin)
            .ok()
            .zip(u64::try_from(column.compressed_size()).ok());
        let Some((at, end)) = place.and_then(|(at, length)| Some((at, at.checked_add(length)?)))
        else {
            return bad("a column lies at no place");
        };
        if end > file.len() {
            return bad(format!(
                "a column lies at {at}..{end} of {} bytes",
                file.len()
            ));
        }
        Ok(Self {
            file,
            at,
            end,
            compression: column.compression(),
            dictionary: false,
        })
    }

    /// A page with this header and content.
    fn page(&mut self, header: &Header, content: Vec<u8>) -> Result<Option<Page>> {
        let uncompressed = size(header.uncompressed)?;
        Ok(Some(match header.kind {
            0 => Page::DataPage {
                buf: self.decompressed(content, uncompressed)?.into(),
                num_values: values(header.values)?,
                encoding: self.encoding(header.encoding)?,
                def_level_encoding: encoding(header.levels[0])?,
                rep_level_encoding: encoding(header.levels[1])?,
                statistics: None,
            },
            2 => {
                self.dictionary = true;
                Page::DictionaryPage {
                    buf: self.decompressed(content, uncompressed)?.into(),
                    num_values: values(header.values)?,
                    encoding: encoding(header.encoding)?,
                    is_sorted: false,
                }
            }
            3 => {
                let [definitions, repetitions] = [size(header.levels[0])?, size(header.levels[1])?];
                let levels = (definitions + repetitions) as usize;
                // Levels stand before the values, never compressed.
                if levels > content.len() || levels as u64 > uncompressed {
                    return bad("a page is shorter than its levels");
                }
                let mut whole = content[..levels].to_vec();
                let rest = content[levels..].to_vec();
                whole.extend(match header.compressed_values {
                    true => self.decompressed(rest, uncompressed - levels as u64)?,
                    false => rest,
                });
                Page::DataPageV2 {
                    buf: whole.into(),
                    num_values: values(header.values)?,
                    encoding: self.encoding(header.encoding)?,
                    num_nulls: values(header.nulls)?,
                    num_rows: values(header.rows)?,
                    def_levels_byte_len: definitions as u32,
                    rep_levels_byte_len: repetitions as u32,
                    is_compressed: false,
                    statistics: None,
                }
            }
            // An index, or something newer.
            _ => return Ok(None),
        }))
    }

    /// The encoding of values, which may need a dictionary.
    fn encoding(&self, number: i64) -> Result<Encoding> {
        let encoding = encoding(number)?;
        let needed = matches!(number, 2 | 8);
        if needed && !self.dictionary {
            return bad("a page needs a dictionary that does not come before it");
        }
        Ok(encoding)
    }

    /// Content as long as its header says.
    fn decompressed(&self, content: Vec<u8>, length: u64) -> Result<Vec<u8>> {
        let read = |reader: &mut dyn Read| -> Result<Vec<u8>> {
            let mut whole = Vec::new();
            reader.take(length + 1).read_to_end(&mut whole)?;
            Ok(whole)
        };
        let mut input = Cursor::new(&content);
        let external = |error: &dyn std::fmt::Display| ParquetError::General(error.to_string());
        let whole = match self.compression {
            Compression::UNCOMPRESSED => content,
            _ if length == 0 => Vec::new(),
            Compression::SNAPPY => {
                let claimed =
                    snap::raw::decompress_len(&content).map_err(|error| external(&error))?;
                if claimed as u64 != length {
                    return bad(format!(
                        "a page of {claimed} bytes; its header says {length}"
                    ));
                }
                let mut decoder = snap::raw::Decoder::new();
                decoder
                    .decompress_vec(&content)
                    .map_err(|error| external(&error))?
            }
            Compression::GZIP(_) => read(&mut flate2::read::MultiGzDecoder::new(input))?,
            Compression::BROTLI(_) => {
                read(&mut brotli_decompressor::Decompressor::new(input, 4096))?
            }
            Compression::ZSTD(_) => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(&mut input);
                read(&mut decoder.map_err(|error| external(&error))?)?
            }
            Compression::LZ4_RAW => {
                let block = lz4_flex::block::decompress(&content, length as usize);
                block.map_err(|error| external(&error))?
            }
            Compression::LZ4 => hadoop_lz4(&content, length as usize)?,
            other => {
                return bad(format!(
                    "it is compressed by {other}; expected gzip, snappy, lz4, brotli or zstd"
                ));
            }
        };
        if whole.len() as u64 == length {
            return Ok(whole);
        }
        let found = if whole.len() as u64 > length {
            "more"
        } else {
            "fewer"
        };
        bad(format!(
            "a page has {found} bytes than the {length} of its header"
        ))
    }
}

/// Blocks of LZ4, each after its two lengths, as Hadoop frames them.
fn hadoop_lz4(mut input: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some((lengths, rest)) = input.split_first_chunk::<8>() {
        let word = |at: usize| {
            u32::from_be_bytes([
                lengths[at],
                lengths[at + 1],
                lengths[at + 2],
                lengths[at + 3],
            ]) as usize
        };
        let (long, short) = (word(0), word(4));
        let Some((block, rest)) = rest.split_at_checked(short) else {
            return bad(
                "a block of lz4 is cut, or not framed as Hadoop does; write the file with another compression",
            );
        };
        if long > length - whole.len() {
            return bad("blocks of lz4 are longer than their page");
        }
        let block = lz4_flex::block::decompress(block, long);
        whole.extend(block.map_err(|error| ParquetError::General(error.to_string()))?);
        input = rest;
    }
    Ok(whole)
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        while self.at < self.end {
            let most = (self.end - self.at).min(MAX_HEADER as u64) as usize;
            // Mostly a few bytes; statistics make it longer.
            let mut header = None;
            for tried in [512, most] {
                let bytes = self.file.get_bytes(self.at, tried.min(most))?;
                let mut thrift = Thrift {
                    bytes: &bytes,
                    at: 0,
                };
                header = Header::read(&mut thrift).map(|header| (header, thrift.at as u64));
                if header.is_some() {
                    break;
                }
            }
            let Some((header, length)) = header else {
                return bad("the header of a page cannot be read");
            };
            let compressed = size(header.compressed)?;
            self.at += length;
            if compressed > self.end - self.at {
                return bad(format!(
                    "a page of {compressed} bytes is longer than its column"
                ));
            }
            let content = self.file.get_bytes(self.at, compressed as usize)?;
            self.at += compressed;
            if let Some(page) = self.page(&header, content.to_vec())? {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        bad("pages are read one after the other")
    }

    fn skip_next_page(&mut self) -> Result<()> {
        bad("pages are read one after the other")
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        Ok(self.at >= self.end)
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

fn size(bytes: i64) -> Result<u64> {
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_PAGE => Ok(bytes),
        _ => bad(format!(
            "a page of {bytes} bytes; expected at most {MAX_PAGE}"
        )),
    }
}

fn values(count: i64) -> Result<u32> {
    match u32::try_from(count) {
        Ok(count) if u64::from(count) <= MAX_VALUES => Ok(count),
        _ => bad(format!(
            "a page of {count} values; expected at most {MAX_VALUES}"
        )),
    }
}

fn encoding(number: i64) -> Result<Encoding> {
    #[expect(deprecated, reason = "old files have it")]
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        other => return bad(format!("a page in the unknown encoding {other}")),
    })
}

/// What stands before a page; sizes and counts as the file claims them.
#[derive(Default)]
struct Header {
    kind: i64,
    uncompressed: i64,
    compressed: i64,
    values: i64,
    nulls: i64,
    rows: i64,
    encoding: i64,
    /// Of definition and repetition: encodings, or in version 2 lengths.
    levels: [i64; 2],
    compressed_values: bool,
}

impl Header {
    /// None if it is not whole, or none.
    fn read(thrift: &mut Thrift<'_>) -> Option<Self> {
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
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
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

    /// Reads a structure, and tells numbers and truths of it and of those in it, by the path of their fields.
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
    use std::io::Write as _;

    fn pages(compression: Compression) -> Pages {
        Pages {
            file: Arc::new(tempfile::tempfile().unwrap()),
            at: 0,
            end: 0,
            compression,
            dictionary: false,
        }
    }

    /// A gigabyte of nothing in a megabyte, or less.
    #[test]
    fn bombs_end_at_the_length_of_their_page() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..256 {
            gzip.write_all(&[0; 1 << 22]).unwrap();
        }
        // A frame without checks, of blocks that repeat one byte 128 times 1024 times.
        let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
        for i in 0..8192u32 {
            let block = (1 << 17 << 3) | (1 << 1) | u32::from(i == 8191);
            zstd.extend(&block.to_le_bytes()[..3]);
            zstd.push(0);
        }
        let snappy = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        for (compression, bomb) in [
            (
                Compression::GZIP(Default::default()),
                gzip.finish().unwrap(),
            ),
            (Compression::ZSTD(Default::default()), zstd),
            (Compression::SNAPPY, snappy.to_vec()),
            (Compression::LZ4_RAW, vec![0xff; 1000]),
            (
                Compression::LZ4,
                [&[0xff; 4][..], &[0, 0, 0, 4], &[0xff; 4]].concat(),
            ),
            (Compression::BROTLI(Default::default()), vec![0xff; 1000]),
            (Compression::LZO, vec![0; 10]),
        ] {
            let started = std::time::Instant::now();
            let error = pages(compression)
                .decompressed(bomb, 1000)
                .unwrap_err()
                .to_string();
            if matches!(compression, Compression::GZIP(_) | Compression::ZSTD(_)) {
                assert!(
                    error.contains("more bytes than the 1000"),
                    "{compression}: {error}"
                );
            }
            assert!(started.elapsed().as_secs() < 1, "{compression}");
        }
    }

    #[test]
    fn claims_of_headers_are_bounded() {
        for bytes in [-1, 1 << 31, i64::MAX, MAX_PAGE as i64 + 1] {
            assert!(size(bytes).is_err() && values(bytes).is_err());
        }
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
        let mut needy = pages(Compression::UNCOMPRESSED);
        let header = Header {
            kind: 0,
            encoding: 8,
            ..header
        };
        assert!(
            needy
                .page(&header, vec![0; 10])
                .unwrap_err()
                .to_string()
                .contains("needs a dictionary")
        );
    }
}
