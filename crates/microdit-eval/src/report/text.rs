//! Text from outside on its way into a page. The templates escape it; what is left to do is what HTML and XML have no
//! escape for.

/// The text with every control character replaced by U+FFFD: XML forbids them, and a browser would obey some.
pub(crate) fn legible(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Not characters (Unicode, section 23.7).
        '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// As [`legible`], with the line feeds and tabs of a text of several lines.
pub(super) fn legible_lines(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let parts = line.split('\t').map(legible);
        parts.collect::<Vec<_>>().join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// At most `most` characters of a text, with an ellipsis in its middle where there are more.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let (start, end) = (most / 2, most - most / 2 - 1);
    let head = text.chars().take(start);
    let tail = text.chars().skip(count - end);
    head.chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_characters_is_left() {
        assert_eq!(
            legible("a\x00b\x1b[31m\nc\u{85}"),
            "a\u{fffd}b\u{fffd}[31m c\u{fffd}"
        );
        assert_eq!(legible_lines("a\tb\x07\r\nc"), "a\tb\u{fffd}\nc");
    }

    #[test]
    fn long_texts_keep_both_ends() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("äbcdefghijk", 6), "äbc…jk");
    }
}
