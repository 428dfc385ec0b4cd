//! The text of HTML as Python's html.parser and Beautiful Soup see it, broken markup included.

use fancy_regex::Regex;
use microdit_encoders::text::{entity, pattern, windows_1252};
use std::sync::LazyLock;

/// Elements whose text is no text of the page.
const SILENT: [&str; 5] = ["script", "style", "template", "rt", "rp"];

/// Elements up to whose end tag nothing is markup.
const RAW: [&str; 2] = ["script", "style"];

/// Elements without content.
const VOID: [&str; 23] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "keygen", "link", "menuitem",
    "meta", "param", "source", "track", "wbr", "basefont", "bgsound", "command", "frame", "image",
    "isindex", "nextid",
];

/// A start tag up to its end, or to where it cannot go on.
static START: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^<[a-zA-Z][^\t\n\r\x0c />\x00]*",
        r#"(?:[\s/]*(?:(?<=['"\s/])[^\s/>][^\s/=>]*"#,
        r#"(?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*)\s*)?(?:\s|/(?!>))*)*)?\s*"#,
    ))
});
static NAME: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([a-zA-Z][^\t\n\r\x0c />\x00]*)(?:\s|/(?!>))*"));
static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"^</\s*([a-zA-Z][-.a-zA-Z0-9:_]*)\s*>"));
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^&([a-zA-Z][-.a-zA-Z0-9]*)[^a-zA-Z0-9]"));
static NUMERIC: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^&#([0-9]+|[xX][0-9a-fA-F]+)[^0-9a-fA-F]"));
static COMMENT_END: LazyLock<Regex> = LazyLock::new(|| pattern(r"--\s*>"));

/// The text outside tags and comments of lower-case HTML, references decoded.
pub(super) fn text_of(html: &str) -> String {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(at) = rest.find(['&', '<']) {
        page.write(&rest[..at]);
        rest = &rest[at..];
        let taken = if rest.starts_with('<') {
            page.markup(rest)
        } else {
            page.reference(rest)
        };
        match taken {
            Some(taken) => rest = &rest[taken..],
            None => break,
        }
    }
    page.write(rest);
    page.text
}

/// What has been read.
#[derive(Default)]
struct Page {
    text: String,
    /// Silent elements that are open.
    silent: Vec<String>,
    /// Whether something was met that could not be read without its end: html.parser then tries once more, knowing that
    /// nothing follows.
    last_pass: bool,
}

impl Page {
    fn write(&mut self, text: &str) {
        if self.silent.is_empty() {
            self.text.push_str(text);
        }
    }

    /// Reads what begins with `<`; its length, or none at the end of the page.
    fn markup(&mut self, rest: &str) -> Option<usize> {
        let second = rest[1..].chars().next()?;
        let taken = match second {
            _ if second.is_ascii_alphabetic() => self.start_tag(rest),
            '/' => self.end_tag(rest),
            '!' if rest.starts_with("<!--") => COMMENT_END
                .find(&rest[4..])
                .ok()
                .flatten()
                .map(|end| 4 + end.end()),
            '!' if rest.starts_with("<![") => rest.find("]]>").map(|end| {
                let section = &rest[3..end];
                if let Some(data) = section
                    .to_uppercase()
                    .starts_with("CDATA[")
                    .then(|| &section[6..])
                {
                    self.write(data);
                }
                end + 3
            }),
            '!' | '?' => rest.find('>').map(|end| end + 1),
            _ => {
                self.write("<");
                Some(1)
            }
        };
        // What is never closed is text, up to what may close it.
        taken.or_else(|| {
            self.last_pass = true;
            let end = match (rest[1..].find('>'), rest[1..].find('<')) {
                (Some(end), _) => end + 2,
                (None, Some(next)) => next + 1,
                (None, None) => 1,
            };
            self.write(&rest[..end]);
            Some(end)
        })
    }

    fn start_tag(&mut self, rest: &str) -> Option<usize> {
        let found = START.find(rest).ok().flatten()?;
        let end = found.end();
        let next = rest[end..].chars().next();
        let end = match next {
            Some('>') => end + 1,
            Some('/') if rest[end..].starts_with("/>") => end + 2,
            // More of it might come.
            None | Some('/' | '=') => return None,
            Some(c) if c.is_ascii_alphabetic() => return None,
            Some(_) => {
                self.write(&rest[..end]);
                return Some(end);
            }
        };
        let name = NAME.captures(&rest[1..]).ok().flatten()?[1].to_lowercase();
        let empty = rest[..end].ends_with("/>") || VOID.contains(&name.as_str());
        if SILENT.contains(&name.as_str()) && !empty {
            if RAW.contains(&name.as_str()) {
                let close = format!("</{name}");
                let length = rest[end..].find(&close);
                // Without its end tag, all that follows belongs to it.
                return Some(length.map_or(rest.len(), |length| end + length));
            }
            self.silent.push(name);
        }
        Some(end)
    }

    fn end_tag(&mut self, rest: &str) -> Option<usize> {
        let close = rest.find('>')? + 1;
        let name = if let Ok(Some(tag)) = END.captures(rest) {
            tag[1].to_lowercase()
        } else {
            let name = NAME.captures(&rest[2..]).ok().flatten();
            match name {
                Some(name) => name[1].to_lowercase(),
                None => return Some(close),
            }
        };
        if let Some(at) = self.silent.iter().rposition(|open| *open == name) {
            self.silent.truncate(at);
        }
        Some(close)
    }

    /// Reads what begins with `&`; its length, or none at the end of the page.
    fn reference(&mut self, rest: &str) -> Option<usize> {
        // The sign after a reference belongs to it only if it is a semicolon.
        let length = |whole: &str| {
            let last = whole.chars().next_back().map_or(0, char::len_utf8);
            whole.len() - if whole.ends_with(';') { 0 } else { last }
        };
        if let Ok(Some(found)) = NUMERIC.captures(rest) {
            let character = numeric(&found[1]);
            self.write(&character.to_string());
            return Some(length(&found[0]));
        }
        if let Some(after) = rest.strip_prefix("&#") {
            // The second time, html.parser takes the rest for text; without a semicolon to come, the first time.
            if !rest.contains(';') {
                return None;
            }
            self.write("&#");
            if self.last_pass {
                self.write(after);
                return Some(rest.len());
            }
            self.last_pass = true;
            return Some(2);
        }
        if let Ok(Some(found)) = NAMED.captures(rest) {
            let name = &found[1];
            match entity(&format!("{name};")) {
                Some(characters) => self.write(characters),
                None => self.write(&format!("&{name}")),
            }
            return Some(length(&found[0]));
        }
        let unfinished = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic());
        if unfinished {
            // It ends with the page. Of two characters, html.parser loses the sign.
            return (rest.len() == 2).then_some(1);
        }
        self.write("&");
        Some(1)
    }
}

fn numeric(number: &str) -> char {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    let code = code.unwrap_or(u32::MAX);
    match u8::try_from(code) {
        Ok(byte) => windows_1252(byte),
        Err(_) => char::from_u32(code).unwrap_or('\u{fffd}'),
    }
}
