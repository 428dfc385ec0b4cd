//! Text back into the bytes it was wrongly decoded from, and these bytes read as the UTF-8 they were.

use crate::code_pages::CODE_PAGES;
use regex::bytes;
use std::sync::LazyLock;

/// UTF-8 in which a byte a0, a no-break space in most encodings, has become a space.
static SPACED: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_pattern(&[
        r"[\xc2\xc3\xc5\xce\xd0\xd9]\x20",
        r"[\xe2\xe3]\x20[\x80-\x84\x86-\x9f\xa1-\xbf]",
        r"[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf]\x20",
        r"\xf0\x20[\x80-\xbf][\x80-\xbf]",
        r"\xf0[\x80-\xbf]\x20[\x80-\xbf]",
        r"\xf0[\x80-\xbf][\x80-\xbf]\x20",
    ])
});

/// UTF-8 in which a byte has been lost.
static LOSSY: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_pattern(&[
        r"[\xc2-\xdf]\x1a",
        r"[\xc2\xc3]\?",
        r"\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
        r"\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
        r"[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
        r"[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
        r"[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
        r"\x1a",
    ])
});

fn byte_pattern(alternatives: &[&str]) -> bytes::Regex {
    bytes::Regex::new(&format!("(?-u:{})", alternatives.join("|"))).expect("a sound pattern")
}

/// A one-byte encoding.
#[derive(Clone, Copy)]
pub(super) struct Encoding {
    name: &'static str,
    /// Characters of the bytes 0x80 to 0xff; none: Latin-1.
    page: Option<&'static str>,
}

impl Encoding {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let latin_1 = Self {
            name: "latin-1",
            page: None,
        };
        let paged = CODE_PAGES.iter().map(|&(name, page)| Self {
            name,
            page: Some(page),
        });
        std::iter::once(latin_1).chain(paged)
    }

    /// Whether it has holes, where lost characters may have been.
    fn has_holes(self) -> bool {
        self.name.starts_with("windows")
    }

    /// The text's bytes, if all its characters are in the encoding; where it has holes, the replacement character becomes
    /// byte 1a.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        let byte = |c: char| match c {
            '\u{1a}' if self.has_holes() => None,
            '\u{fffd}' if self.has_holes() => Some(0x1a),
            _ if c.is_ascii() => Some(c as u8),
            _ => match self.page {
                None => u8::try_from(u32::from(c)).ok(),
                Some(page) => {
                    let place = page.chars().position(|known| known == c)?;
                    Some(0x80 + place as u8)
                }
            },
        };
        text.chars().map(byte).collect()
    }

    /// Bytes in this encoding as the UTF-8 they probably were.
    pub(super) fn decode_utf8(self, mut bytes: Vec<u8>) -> Option<String> {
        if self.name != "macroman" && SPACED.is_match(&bytes) {
            bytes = restore_a0(&bytes);
        }
        if self.has_holes() {
            bytes = LOSSY
                .replace_all(&bytes, "\u{fffd}".as_bytes())
                .into_owned();
        }
        if bytes.contains(&0xed) || bytes.contains(&0xc0) {
            bytes = standard_utf8(&bytes);
        }
        String::from_utf8(bytes).ok()
    }
}

/// Puts back the no-break spaces that belong to UTF-8 sequences; a lone `Ã ` is mostly the French or Italian word à.
fn restore_a0(bytes: &[u8]) -> Vec<u8> {
    /// Other continuations: more words of Portuguese and Italian.
    const OTHERS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut grave = Vec::with_capacity(bytes.len() + 8);
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        grave.push(byte);
        if byte == 0xc3
            && let Some(after) = tail.strip_prefix(b" ")
            && !OTHERS.iter().any(|other| after.starts_with(other))
        {
            grave.extend(b"\xa0 ");
            rest = after;
        }
    }
    let space = |found: &bytes::Captures<'_>| -> Vec<u8> {
        found[0]
            .iter()
            .map(|&byte| if byte == b' ' { 0xa0 } else { byte })
            .collect()
    };
    SPACED.replace_all(&grave, space).into_owned()
}

/// Variants of UTF-8 as UTF-8: zero bytes as c0 80 (Java), and surrogate pairs encoded one by one (CESU-8).
fn standard_utf8(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        rest = match rest {
            [] => return out,
            [0xc0, 0x80, tail @ ..] => {
                out.push(0);
                tail
            }
            [
                0xed,
                a @ 0xa0..=0xaf,
                b @ 0x80..=0xbf,
                0xed,
                c @ 0xb0..=0xbf,
                d @ 0x80..=0xbf,
                tail @ ..,
            ] => {
                let bits = |byte: &u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let code =
                    bits(a, 0x0f, 16) + bits(b, 0x3f, 10) + bits(c, 0x0f, 6) + bits(d, 0x3f, 0);
                let character = char::from_u32(0x1_0000 + code).unwrap_or('\u{fffd}');
                out.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}
