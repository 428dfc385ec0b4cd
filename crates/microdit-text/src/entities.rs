//! HTML character references to characters, as Python's `html.unescape` reads them: captions come from the web, and the
//! reference's tokenizer and caption cleaning read them so.

use crate::{code_pages::windows_1252, pattern};
use fancy_regex::{Captures, Regex};
use std::sync::LazyLock;

/// What may be a reference.
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\x0c <&#;]{1,32};?)"));

/// Replaces every character reference, with or without its semicolon; everything else stays.
///
/// ```
/// use microdit_text::unescape_html;
/// assert_eq!(unescape_html("&lt;3 &amp cats &#8212; &notit; &unknown;"), "<3 & cats — ¬it; &unknown;");
/// ```
pub fn unescape_html(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let replace = |found: &Captures<'_>| {
        let reference = &found[1];
        match reference.strip_prefix('#') {
            Some(number) => numeric(number),
            None => named(reference).unwrap_or_else(|| format!("&{reference}")),
        }
    };
    REFERENCE.replace_all(text, replace).into_owned()
}

/// The characters of an entity, named as between `&` and what follows: `amp;`, or `amp`, which browsers know too.
pub(crate) fn entity(name: &str) -> Option<&'static str> {
    let characters = htmlize::ENTITIES.get(format!("&{name}").as_bytes())?;
    std::str::from_utf8(characters).ok()
}

/// A name, or one of the names without a semicolon and what follows it.
fn named(reference: &str) -> Option<String> {
    if let Some(characters) = entity(reference) {
        return Some(characters.to_owned());
    }
    let ends = reference.char_indices().map(|(end, _)| end).skip(2);
    // The longest name counts.
    ends.collect::<Vec<_>>().into_iter().rev().find_map(|end| {
        Some(format!(
            "{}{}",
            entity(&reference[..end])?,
            &reference[end..]
        ))
    })
}

/// A number, decimal or with an x hexadecimal.
fn numeric(number: &str) -> String {
    let number = number.trim_end_matches(';');
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    // Numbers beyond 32 bits are not characters either.
    let code = code.unwrap_or(u32::MAX);
    match code {
        0 => "\u{fffd}".into(),
        // Meant as Windows-1252, as browsers take them.
        0x80..=0x9f => windows_1252(code as u8).to_string(),
        0xd => "\r".into(),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        _ if code & 0xfffe == 0xfffe && code <= 0x10ffff => String::new(),
        _ => char::from_u32(code).unwrap_or('\u{fffd}').to_string(),
    }
}
