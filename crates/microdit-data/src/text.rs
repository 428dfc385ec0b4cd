//! Text as people store it: UTF-8 with or without a byte-order mark, and UTF-16 with one. Nothing else is guessed: text in another
//! encoding would be misread silently.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read},
};

/// The byte-order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Decodes a text of a file: UTF-8, or UTF-16 that begins with a byte-order mark. The mark is not part of the text.
///
/// ```
/// use microdit_data::decode_text;
/// assert_eq!(decode_text(b"\xff\xfef\0o\0x\0").unwrap(), "fox");
/// assert_eq!(
///     decode_text(b"un caf\xe9").unwrap_err(),
///     "not UTF-8 (byte 0xE9 at 6; Windows-1252?)"
/// );
/// ```
///
/// # Errors
/// Which other encoding the text is in, as far as can be known, and the first byte that shows it.
pub fn decode_text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    match Encoding::of(bytes)? {
        Encoding::Utf8 => {
            let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
            let text = std::str::from_utf8(bytes).map_err(|error| foreign(bytes, &error))?;
            Ok(text.into())
        }
        Encoding::Utf16 { big } => {
            let (pairs, rest) = bytes[2..].as_chunks();
            let units = pairs.iter().map(|&pair| unit(pair, big));
            let text: Option<String> = char::decode_utf16(units).map(Result::ok).collect();
            match text {
                Some(text) if rest.is_empty() => Ok(text.into()),
                _ => Err("UTF-16 that is damaged or cut".into()),
            }
        }
    }
}

/// A reader of the same text in UTF-8 without a mark, so that files of any length are read in bounded memory. Invalid UTF-16 becomes
/// the byte 0xFF, which is never valid UTF-8, so that it spoils only its own row.
///
/// # Errors
/// As [`decode_text`], as far as the beginning shows it.
pub(crate) fn utf8_reader(file: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(file);
    let beginning = file.fill_buf()?;
    match Encoding::of(&beginning[..beginning.len().min(64)]).map_err(io::Error::other)? {
        Encoding::Utf8 => {
            let mark = beginning.starts_with(MARK);
            file.consume(if mark { MARK.len() } else { 0 });
            Ok(Box::new(file))
        }
        Encoding::Utf16 { big } => {
            file.consume(2);
            let units = Units { file, big };
            Ok(Box::new(BufReader::new(Transcoded {
                characters: char::decode_utf16(units),
                pending: Vec::new(),
            })))
        }
    }
}

/// The encodings that are read.
enum Encoding {
    Utf8,
    Utf16 { big: bool },
}

impl Encoding {
    /// As the beginning of a text shows it.
    fn of(bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
                Err("UTF-32; expected UTF-8 or UTF-16".into())
            }
            [0xff, 0xfe, ..] => Ok(Self::Utf16 { big: false }),
            [0xfe, 0xff, ..] => Ok(Self::Utf16 { big: true }),
            _ => {
                // Latin letters in UTF-16 are UTF-8 too, with a zero after or before each.
                let zeros = bytes.iter().take(64).filter(|&&byte| byte == 0).count();
                if zeros > 0 && 3 * zeros >= bytes.len().min(64) {
                    return Err(
                        "not UTF-8 (every other byte is zero; UTF-16 without a byte-order mark?)"
                            .into(),
                    );
                }
                Ok(Self::Utf8)
            }
        }
    }
}

fn unit(pair: [u8; 2], big: bool) -> u16 {
    match big {
        true => u16::from_be_bytes(pair),
        false => u16::from_le_bytes(pair),
    }
}

/// The likely encoding of bytes that are not UTF-8.
fn foreign(bytes: &[u8], error: &std::str::Utf8Error) -> String {
    let at = error.valid_up_to();
    let byte = bytes[at];
    // Where nothing before it is UTF-8 either, the last byte is a letter by itself.
    if error.error_len().is_none() && !bytes[..at].is_ascii() {
        return format!("not UTF-8 (byte 0x{byte:02X} at {at} begins a character that is cut)");
    }
    // Letters with accents stand alone or in pairs; the letters of other scripts in long rows.
    let longest = bytes
        .split(u8::is_ascii)
        .map(<[u8]>::len)
        .max()
        .unwrap_or_default();
    let guess = match longest {
        ..=2 => "Windows-1252?",
        _ => "a code page such as Windows-1251, GBK or Shift JIS?",
    };
    format!("not UTF-8 (byte 0x{byte:02X} at {at}; {guess})")
}

/// The units of UTF-16 in a file.
struct Units<R> {
    file: R,
    big: bool,
}

impl<R: Read> Iterator for Units<R> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let mut pair = [0; 2];
        let count = self.file.read(&mut pair[..1]).ok()?;
        if count == 0 {
            return None;
        }
        match self.file.read_exact(&mut pair[1..]) {
            Ok(()) => Some(unit(pair, self.big)),
            // Half a unit: as damaged as half a pair.
            Err(_) => Some(0xd800),
        }
    }
}

/// UTF-16 as UTF-8.
struct Transcoded<I: Iterator<Item = u16>> {
    characters: std::char::DecodeUtf16<I>,
    pending: Vec<u8>,
}

impl<I: Iterator<Item = u16>> Read for Transcoded<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pending.len() < buffer.len() {
            match self.characters.next() {
                Some(Ok(character)) => {
                    let mut utf8 = [0; 4];
                    self.pending
                        .extend(character.encode_utf8(&mut utf8).as_bytes());
                }
                Some(Err(_)) => self.pending.push(0xff),
                None => break,
            }
        }
        let count = self.pending.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.pending[..count]);
        self.pending.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Ein Fuchs, café, лиса, 狐, 🦊\nund mehr";

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(to_bytes).collect()
    }

    fn streamed(bytes: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        let mut reader = utf8_reader(io::Cursor::new(bytes.to_vec())).unwrap();
        reader.read_to_end(&mut found).unwrap();
        found
    }

    #[test]
    fn unicode_is_read_with_and_without_a_mark() {
        let marked = [MARK, TEXT.as_bytes()].concat();
        let files = [
            TEXT.as_bytes().to_vec(),
            marked,
            utf16(TEXT, u16::to_le_bytes),
            utf16(TEXT, u16::to_be_bytes),
        ];
        for file in files {
            assert_eq!(decode_text(&file).unwrap(), TEXT);
            assert_eq!(streamed(&file), TEXT.as_bytes());
        }
        assert_eq!(decode_text(b"").unwrap(), "");
        // Only the first one is a mark.
        let twice = [MARK, MARK].concat();
        assert_eq!(decode_text(&twice).unwrap(), "\u{feff}");
    }

    #[test]
    fn other_encodings_are_named() {
        let little = utf16("a fox", u16::to_le_bytes);
        let big = utf16("a fox", u16::to_be_bytes);
        let broken = [0xff, 0xfe, 0x00, 0xd8, b'a', 0];
        for (bytes, expected) in [
            (&b"caf\xe9 noir"[..], "byte 0xE9 at 3; Windows-1252?"),
            (b"\xef\xbb\xbfcaf\xe9 noir", "byte 0xE9 at 3"),
            (b"\xeb\xe8\xf1\xe0", "0xEB at 0; a code page"),
            (
                "é caf\u{e9}".as_bytes().split_last().unwrap().1,
                "byte 0xC3 at 6 begins a character that is cut",
            ),
            (b"caf\xe9", "byte 0xE9 at 3; Windows-1252?"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
            (&little[2..], "UTF-16 without a byte-order mark?"),
            (&big[2..], "UTF-16 without a byte-order mark?"),
            (&little[..5], "UTF-16 that is damaged or cut"),
            (&broken, "UTF-16 that is damaged or cut"),
        ] {
            let error = decode_text(bytes).unwrap_err();
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn damage_in_a_stream_spoils_one_row() {
        let mut file = utf16("ab\ncd\nef", u16::to_le_bytes);
        // Half a pair in the place of the c.
        file[8..10].copy_from_slice(&0xd800u16.to_le_bytes());
        file.push(0);
        assert_eq!(streamed(&file), b"ab\n\xffd\nef\xff");
        assert!(utf8_reader(io::Cursor::new(b"a\0b\0c\0")).is_err());
    }
}
