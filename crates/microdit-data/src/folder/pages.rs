//! The pages of a column of a Parquet file, decompressed in bounded memory. The decompressors of the crate `parquet` trust what a page
//! says about its size, or write without bound: a file of a megabyte could fill any memory.

use super::page_header::{Header, Thrift};
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

/// Bytes of a page at most, before and after decompression: writers aim at one megabyte, but look only after a hundred pictures.
const MAX_PAGE: u64 = 512 << 20;

/// Values of a page at most.
const MAX_VALUES: u64 = 1 << 24;

/// Bytes of a page's header at most; statistics are part of it.
const MAX_HEADER: usize = 1 << 20;

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
            return bad("a column has no valid place");
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
                // Levels come before the values, never compressed.
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

    /// The content, as long as its header says.
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
        let mut needy = pages(Compression::UNCOMPRESSED);
        let header = Header {
            kind: 0,
            uncompressed: 10,
            compressed: 5,
            values: 3,
            levels: [3, 3],
            encoding: 8,
            compressed_values: true,
            ..Header::default()
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
