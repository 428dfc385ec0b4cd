//! Patterns with the classes of Python's `re`, which differ from those of Rust's `regex`.

use fancy_regex::Regex;

/// Compiles one of this crate's patterns, in which `\w`, `\s`, `\S`, `\b` mean what they mean in Python.
///
/// # Panics
/// If the pattern is invalid.
pub(crate) fn pattern(python: &str) -> Regex {
    let mut rust = String::with_capacity(2 * python.len());
    let (mut class, mut escaped) = (false, false);
    for c in python.chars() {
        if !escaped {
            match c {
                '\\' => escaped = true,
                _ => {
                    class = (class || c == '[') && c != ']';
                    rust.push(c);
                }
            }
            continue;
        }
        escaped = false;
        // Python: letters and numbers of all kinds and the underscore, no marks; the information separators are spaces.
        match (c, class) {
            ('w', true) => rust.push_str(r"\p{L}\p{N}_"),
            ('w', false) => rust.push_str(r"[\p{L}\p{N}_]"),
            ('s', true) => rust.push_str(r"\s\x1c-\x1f"),
            ('s', false) => rust.push_str(r"[\s\x1c-\x1f]"),
            ('S', _) => rust.push_str(r"[^\s\x1c-\x1f]"),
            ('W', _) => rust.push_str(r"[^\p{L}\p{N}_]"),
            ('b', _) => {
                let word = r"[\p{L}\p{N}_]";
                rust.push_str(&format!("(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"));
            }
            _ => rust.extend(['\\', c]),
        }
    }
    Regex::new(&rust).unwrap_or_else(|error| panic!("{python}: {error}"))
}
