//! Lines of a text, one by one, in memory that does not depend on the text.

use crate::text::{decode_text, utf8_reader};
use std::io::{self, BufRead, BufReader, Read};

/// The lines of a text in UTF-8 with or without a byte-order mark, or in UTF-16 with one.
///
/// ```
/// use microdit_data::{LineError, Lines};
/// let mut lines = Lines::of(&b"a fox\r\nun caf\xe9\n"[..], 100)?;
/// let line = lines.next_line()?.unwrap();
/// assert_eq!((line.number, line.text), (1, Ok("a fox".into())));
/// let line = lines.next_line()?.unwrap();
/// assert!(matches!((line.number, line.text), (2, Err(LineError::Foreign(_)))));
/// assert!(lines.next_line()?.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Lines {
    reader: Box<dyn BufRead>,
    utf16: bool,
    most: usize,
    bytes: Vec<u8>,
    number: u64,
    /// Whether the rest of the last line, which was too long, is still to be passed over.
    inside: bool,
}

/// A line of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// What it holds, without its end; or why that cannot be read.
    pub text: Result<String, LineError>,
}

/// Why a line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is longer than was asked for.
    #[error("it has more than {0} bytes")]
    Long(usize),
    /// It is not Unicode text.
    #[error("{0}")]
    Foreign(String),
}

impl Lines {
    /// The lines of what `reader` gives, of at most `most` bytes each in UTF-8.
    ///
    /// # Errors
    /// If it cannot be read, or begins with a text in an encoding that is not read, which is named.
    pub fn of(reader: impl Read + 'static, most: usize) -> io::Result<Self> {
        let mut reader = BufReader::new(reader);
        let beginning = reader.fill_buf()?;
        let utf16 = matches!(beginning, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        Ok(Self {
            reader: utf8_reader(reader)?,
            utf16,
            most,
            bytes: Vec::new(),
            number: 0,
            inside: false,
        })
    }

    /// The next line; none after the last. One that cannot be read ends nothing.
    ///
    /// # Errors
    /// If the text cannot be read any further.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        while self.inside {
            let buffer = self.reader.fill_buf()?;
            let end = memchr::memchr(b'\n', buffer);
            let count = end.map_or(buffer.len(), |end| end + 1);
            self.inside = end.is_none() && count > 0;
            self.reader.consume(count);
        }
        self.bytes.clear();
        // One byte more, and the line's end.
        let most = (self.most as u64).saturating_add(2);
        let mut part = (&mut self.reader).take(most);
        if part.read_until(b'\n', &mut self.bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = self.bytes.pop_if(|byte| *byte == b'\n').is_some();
        if ended {
            self.bytes.pop_if(|byte| *byte == b'\r');
        }
        let text = if self.bytes.len() > self.most {
            self.inside = !ended;
            Err(LineError::Long(self.most))
        } else {
            let text = decode_text(&self.bytes).map(|text| text.into_owned());
            text.map_err(|error| match self.utf16 {
                true => LineError::Foreign("UTF-16 that is damaged or cut".into()),
                false => LineError::Foreign(error),
            })
        };
        Ok(Some(Line {
            number: self.number,
            text,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], most: usize) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines::of(io::Cursor::new(bytes.to_vec()), most).unwrap();
        let next = || lines.next_line().unwrap();
        let lines = std::iter::from_fn(next);
        lines
            .map(|line| (line.number, line.text.map_err(|error| error.to_string())))
            .collect()
    }

    fn sound(found: Vec<(u64, Result<String, String>)>) -> Vec<String> {
        let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=found.len() as u64).collect::<Vec<_>>());
        found.into_iter().map(|(_, text)| text.unwrap()).collect()
    }

    #[test]
    fn lines_end_as_they_do_anywhere() {
        assert_eq!(sound(lines(b"", 9)), [""; 0]);
        assert_eq!(sound(lines(b"\n", 9)), [""]);
        assert_eq!(sound(lines(b"a\r\n\r\nb\rc", 9)), ["a", "", "b\rc"]);
        assert_eq!(sound(lines(b"\xef\xbb\xbfa\nb\n", 9)), ["a", "b"]);
        let units = "\u{feff}f\u{fc}\n狐".encode_utf16();
        let bytes: Vec<u8> = units.flat_map(u16::to_be_bytes).collect();
        assert_eq!(sound(lines(&bytes, 9)), ["fü", "狐"]);
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_only_itself() {
        let most = 4;
        for (long, fits) in [("12345", false), ("1234", true), ("12345678901", false)] {
            for end in ["\n", "\r\n"] {
                let found = lines(format!("a{end}{long}{end}b").as_bytes(), most);
                assert_eq!(found.len(), 3, "{long:?} {end:?}");
                assert_eq!(found[1].1.is_ok(), fits, "{long:?} {end:?}");
                assert_eq!(found[2], (3, Ok("b".into())), "{long:?} {end:?}");
            }
        }
        let last = lines(b"a\n12345678", most);
        assert_eq!(last[1], (2, Err("it has more than 4 bytes".into())));
        assert_eq!(last.len(), 2);
        let found = lines(b"a\n\xe9t\xe9\nb", 9);
        assert!(found[1].1.as_ref().unwrap_err().contains("byte 0xE9 at 0"));
        assert_eq!(found[2], (3, Ok("b".into())));
        // Half a pair of surrogates.
        let found = lines(b"\xff\xfea\0\x00\xd8\n\0b\0", 9);
        assert_eq!(found[0], (1, Err("UTF-16 that is damaged or cut".into())));
        assert_eq!(found[1], (2, Ok("b".into())));
    }

    /// What never ends is given up on before its end is looked for.
    #[test]
    fn an_endless_line_is_given_up_on() {
        let mut lines = Lines::of(io::repeat(b'x'), 1000).unwrap();
        let line = lines.next_line().unwrap().unwrap();
        assert_eq!(line.text, Err(LineError::Long(1000)));
        assert!(lines.bytes.capacity() < 10_000);
    }
}
