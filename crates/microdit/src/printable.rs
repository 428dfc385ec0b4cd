//! Text from outside on its way to a terminal or a log.
//!
//! Keys, captions, names in files, arguments and answers of servers may hold characters that a terminal obeys instead of
//! showing them. Whoever prints calls [`text()`] or [`line()`]; nobody else needs to think of it.

use std::borrow::Cow;

/// Whether a terminal would obey a character, or show something else because of it: controls (C0, DEL, C1), line
/// separators, changes of the writing direction, and characters without width. Joiners stay: scripts and emoji need them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Text of one or more lines, safe to print: what a terminal would obey, except line feeds and tabs, is escaped as in
/// JSON, so that JSON keeps its meaning.
///
/// ```
/// use microdit::printable;
/// assert_eq!(printable::text("a red fox,\n\ta blue one"), "a red fox,\n\ta blue one");
/// assert_eq!(printable::text("\x1b[31mred\r\u{202e}"), r"\u001b[31mred\u000d\u202e");
/// ```
pub fn text(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

/// Text of one line: line feeds and tabs are escaped too, so that what comes from outside cannot add lines of its own.
///
/// ```
/// assert_eq!(microdit::printable::line("key\nERROR"), r"key\u000aERROR");
/// ```
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_unsafe)
}

fn escape(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unsafe(c) {
            true => {
                let units = &mut [0; 2];
                for unit in c.encode_utf16(units) {
                    shown += &format!("\\u{unit:04x}");
                }
            }
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_and_no_turn_of_direction_is_left() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let (text, line) = (text(&all), line(&all));
        assert_eq!(text.matches(['\n', '\t']).count(), 2);
        assert!(!line.contains(['\n', '\t']));
        for shown in [text, line] {
            let left = shown
                .chars()
                .filter(|&c| c.is_control() && !matches!(c, '\n' | '\t'));
            assert_eq!(left.count(), 0);
            let turns = ['\u{61c}', '\u{200e}', '\u{200f}'];
            let turns = turns.into_iter().chain('\u{202a}'..='\u{202e}');
            for turn in turns.chain('\u{2066}'..='\u{2069}') {
                assert!(!shown.contains(turn), "{turn:?}");
            }
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        // Of these, serde escapes only the first.
        let value = "\x1b \x7f \u{9b} \u{202e} \u{e0041} \u{1f98a} \\u0041";
        let json = serde_json::to_string(value).unwrap();
        let shown = line(&json);
        assert_ne!(shown, json);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
    }
}
