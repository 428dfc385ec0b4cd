//! Repair of text that was decoded in the wrong encoding, or otherwise mangled: the fixes of ftfy 6.3
//! with its standard settings, which the reference's tokenizer and caption cleaning begin with.

mod encoding;
mod tables;

use crate::{
    code_pages::windows_1252,
    entities::{entity, unescape_html},
    pattern,
};
use encoding::Encoding;
use fancy_regex::{Captures, Regex};
use std::{borrow::Cow, sync::LazyLock};
use tables::{CLASSES, LIGATURES, WEAK_CONTINUATIONS};
use unicode_normalization::UnicodeNormalization;

/// Repairs text line by line: characters that are UTF-8 read in another encoding, HTML entities (unless there is a `<`), ligatures,
/// full-width letters, curly quotes, odd line breaks, control characters; then composes accents (NFC).
///
/// ```
/// use microdit_text::repair;
/// assert_eq!(repair("a cafÃ© in “ＰＡＲＩＳ” &amp; a ﬁsh"), "a café in \"PARIS\" & a fish");
/// ```
pub fn repair(text: &str) -> String {
    let mut markup = false;
    text.split_inclusive('\n')
        .map(|line| {
            // One line with a tag means that entities are meant as such from there on.
            markup |= line.contains('<');
            repair_line(line, !markup)
        })
        .collect()
}

fn repair_line(line: &str, entities: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let before = text.clone();
        if entities {
            text = unescape_entities(&text);
        }
        text = repair_encoding(&text);
        text = C1.replace_all(&text, c1_to_windows_1252).into_owned();
        text = text
            .chars()
            .map(Plain)
            .flat_map(Plain::characters)
            .collect();
        text = text
            .replace("\r\n", "\n")
            .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        text = TERMINAL.replace_all(&text, "").into_owned();
        text.retain(|c| !is_control(c));
        text = text.nfc().collect();
        if text == before {
            return text;
        }
    }
}

/// A sequence that is hardly ever meant: the alternatives of ftfy's badness heuristic.
static BAD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&with_classes(&[
        "[{c1}]",
        "[{bad}{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}][{bad}]",
        "[a-zA-Z][{lower_common}{upper_common}][{bad}]",
        "[{bad}][{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}]",
        "[{lower_accented}{lower_common}{box}{end_punctuation}{currency}{numeric}][{upper_accented}]",
        "[{box}{end_punctuation}{currency}{numeric}][{lower_accented}]",
        "[{lower_accented}{box}{end_punctuation}][{currency}]",
        r"\s[{upper_accented}][{currency}]",
        "[{upper_accented}{box}][{numeric}{law}]",
        "[{lower_accented}{upper_accented}{box}{currency}{end_punctuation}][{start_punctuation}][{numeric}]",
        "[{lower_accented}{upper_accented}{currency}{numeric}{box}{law}][{end_punctuation}][{start_punctuation}]",
        "[{currency}{numeric}{box}][{start_punctuation}]",
        "[a-z][{upper_accented}][{start_punctuation}{currency}]",
        "[{box}][{kaomoji}]",
        "[{lower_accented}{upper_accented}{currency}{numeric}{start_punctuation}{end_punctuation}{law}][{box}]",
        "[{box}][{end_punctuation}]",
        r"[{lower_accented}{upper_accented}][{start_punctuation}{end_punctuation}]\w",
        // The ligature OE at the end of a word.
        "[Œœ][^A-Za-z]",
        "[{upper_accented}]°",
        // What begins a two-byte sequence in Windows-1252, before a sign.
        "[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{start_punctuation}{end_punctuation}–—´]",
        "×[²³]",
        // Arabic in Windows-1252: two pairs in a row.
        "[ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»]",
        "à[²µ¹¼½¾]",
        // MacRoman.
        "√[±∂†≠®™´≤≥¥µø]",
        "≈[°¢]",
        "‚Ä[ìîïòôúùû†°¢π]",
        "‚[âó][àä°ê]",
        // Windows-1251.
        "вЂ",
        "[ВГРС][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°µ][ВГРС]",
        "ГўВЂВ.[A-Za-z ]",
        // A capital A with tilde or circumflex that rarely stands for itself.
        "Ã[\u{a0}¡]",
        r"[a-z]\s?[ÃÂ] ",
        "^[ÃÂ] ",
        "[a-z.,?!{end_punctuation}]Â[ {start_punctuation}{end_punctuation}]",
        // Windows-1253.
        "β€[™\u{a0}Ά\u{ad}®°]",
        "[ΒΓΞΟ][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°][ΒΓΞΟ]",
        // Windows-1257.
        "ā€",
    ]))
});

/// Characters that stand for the bytes of a UTF-8 sequence in some encoding.
static UTF8: LazyLock<Regex> = LazyLock::new(|| {
    let sequences = with_classes(&[
        "[{utf8_first_of_2}][{utf8_continuation}]",
        "[{utf8_first_of_3}][{utf8_continuation}]{2}",
        "[{utf8_first_of_4}][{utf8_continuation}]{3}",
    ]);
    let before = with_classes(&["[{utf8_continuation}--[{weak}]]"]);
    pattern(&format!("(?<!{before})({sequences})+"))
});

static C1: LazyLock<Regex> = LazyLock::new(|| pattern("[\u{80}-\u{9f}]"));
static TERMINAL: LazyLock<Regex> = LazyLock::new(|| pattern("\u{1b}\\[[\\d;]*[a-zA-Z]"));
static ENTITY: LazyLock<Regex> = LazyLock::new(|| pattern("&#?[0-9A-Za-z]{1,24};"));

/// Alternatives, joined, with the sets of characters in place of their names.
fn with_classes(alternatives: &[&str]) -> String {
    let classes = CLASSES.iter().chain(&[("weak", WEAK_CONTINUATIONS)]);
    classes.fold(alternatives.join("|"), |text, (name, characters)| {
        text.replace(&format!("{{{name}}}"), characters)
    })
}

fn is_bad(text: &str) -> bool {
    BAD.is_match(text).unwrap_or(false)
}

/// Entities that end in a semicolon, in capitals too where that is not another entity.
fn unescape_entities(text: &str) -> String {
    let replace = |found: &Captures<'_>| {
        let whole = &found[0];
        let name = &whole[1..];
        if let Some(characters) = entity(name) {
            return characters.to_owned();
        }
        if name.starts_with('#') {
            let characters = unescape_html(whole);
            return if characters.contains(';') {
                whole.to_owned()
            } else {
                characters
            };
        }
        let lower = name.to_lowercase();
        let shouted = name == lower.to_uppercase() && unescape_html(whole) == whole;
        match entity(&lower) {
            Some(characters) if shouted => characters.to_uppercase(),
            _ => whole.to_owned(),
        }
    };
    ENTITY.replace_all(text, replace).into_owned()
}

/// Undoes wrong decodings until the text looks sound.
fn repair_encoding(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let repaired = repair_encoding_once(&text);
        match repaired {
            Some(repaired) if repaired != text => text = repaired,
            _ => return text,
        }
    }
}

fn repair_encoding_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    for encoding in Encoding::all() {
        let decoded = encoding
            .encode(text)
            .and_then(|bytes| encoding.decode_utf8(bytes));
        if decoded.is_some() {
            return decoded;
        }
    }
    if UTF8.is_match(text).unwrap_or(false) {
        let replace = |found: &Captures<'_>| {
            let part = &found[0];
            if part.len() < text.len() && is_bad(part) {
                repair_encoding(part)
            } else {
                part.to_owned()
            }
        };
        let repaired = UTF8.replace_all(text, replace);
        if repaired != text {
            return Some(repaired.into_owned());
        }
    }
    if text.chars().all(|c| u32::from(c) < 0x100) {
        // Latin-1 that was Windows-1252, unless it has bytes that Windows-1252 lacks.
        let defined = |c: char| !matches!(c, '\u{81}' | '\u{8d}' | '\u{8f}' | '\u{90}' | '\u{9d}');
        if text.chars().all(defined) {
            let decoded: String = text.chars().map(|c| windows_1252(c as u8)).collect();
            if decoded != text {
                return Some(decoded);
            }
        }
    }
    Some(C1.replace_all(text, c1_to_windows_1252).into_owned())
}

fn c1_to_windows_1252(found: &Captures<'_>) -> String {
    found[0].chars().map(|c| windows_1252(c as u8)).collect()
}

/// A character whose plain form is sought.
struct Plain(char);

impl Plain {
    /// A ligature's letters, the usual width, a straight quote.
    fn characters(self) -> std::vec::IntoIter<char> {
        let Self(c) = self;
        let ligature = LIGATURES.iter().find(|(ligature, _)| *ligature == c);
        let plain: Cow<'_, str> = match c {
            _ if ligature.is_some() => ligature.map_or("", |(_, letters)| letters).into(),
            '\u{3000}' => " ".into(),
            '\u{ff01}'..='\u{ffef}' => std::iter::once(c).nfkc().collect::<String>().into(),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'".into(),
            '\u{201c}'..='\u{201f}' => "\"".into(),
            _ => return vec![c].into_iter(),
        };
        plain.chars().collect::<Vec<_>>().into_iter()
    }
}

/// Control characters nobody meant to write.
fn is_control(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}
