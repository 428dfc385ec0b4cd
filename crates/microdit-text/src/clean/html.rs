//! The text of HTML as Python's html.parser and Beautiful Soup see it, broken markup included.

mod tags;

use crate::{code_pages::windows_1252, entities::entity, pattern};
use fancy_regex::Regex;
use std::sync::LazyLock;
use tags::{Ahead, StartTags};

/// Elements whose text is not part of the page's text.
const SILENT: [&str; 5] = ["script", "style", "template", "rt", "rp"];

/// Elements in which nothing is markup until their end tag.
const RAW: [&str; 2] = ["script", "style"];

/// Elements without content.
const VOID: [&str; 23] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "keygen", "link", "menuitem",
    "meta", "param", "source", "track", "wbr", "basefont", "bgsound", "command", "frame", "image",
    "isindex", "nextid",
];

static NAME: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([a-zA-Z][^\t\n\r\x0c />\x00]*)(?:\s|/(?!>))*"));
static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"^</\s*([a-zA-Z][-.a-zA-Z0-9:_]*)\s*>"));
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^&([a-zA-Z][-.a-zA-Z0-9]*)[^a-zA-Z0-9]"));
static NUMERIC: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^&#([0-9]+|[xX][0-9a-fA-F]+)[^0-9a-fA-F]"));
static COMMENT_END: LazyLock<Regex> = LazyLock::new(|| pattern(r"--\s*>"));

/// The text outside tags and comments of lower-case HTML, references decoded. Takes time in proportion to its length, whatever is in it:
/// a search from one place is not repeated from the next.
pub(super) fn text_of(html: &str) -> String {
    let mut page = Page::of(html);
    let mut at = 0;
    while let Some(found) = html[at..].find(['&', '<']) {
        page.write(&html[at..at + found]);
        at += found;
        let taken = if html[at..].starts_with('<') {
            page.markup(at)
        } else {
            page.reference(&html[at..])
        };
        match taken {
            Some(taken) => at += taken,
            None => break,
        }
    }
    page.write(&html[at..]);
    page.text
}

/// What has been read.
struct Page<'a> {
    html: &'a str,
    text: String,
    /// Silent elements that are open, by their places in `SILENT`, and how many of each.
    silent: Vec<usize>,
    open: [usize; SILENT.len()],
    /// Whether something was found that could not be read without its end: html.parser then tries once more, knowing that
    /// nothing follows.
    last_pass: bool,
    tags: StartTags<'a>,
    /// Where the next of these is.
    bracket: Ahead,
    comment_end: Ahead,
    section_end: Ahead,
}

impl<'a> Page<'a> {
    fn of(html: &'a str) -> Self {
        Self {
            html,
            text: String::new(),
            silent: Vec::new(),
            open: [0; SILENT.len()],
            last_pass: false,
            tags: StartTags::of(html),
            bracket: Ahead::default(),
            comment_end: Ahead::default(),
            section_end: Ahead::default(),
        }
    }

    /// How far from `at` the next `>` is, not counting what lies before `from`.
    fn close(&mut self, at: usize, from: usize) -> Option<usize> {
        let html = self.html;
        let place = self
            .bracket
            .next(from, |from| html[from..].find('>').map(|found| (found, 1)));
        place.map(|(found, _)| found - at)
    }

    fn write(&mut self, text: &str) {
        if self.silent.is_empty() {
            self.text.push_str(text);
        }
    }

    /// Reads what begins with `<`; its length, or none at the end of the page.
    fn markup(&mut self, at: usize) -> Option<usize> {
        let (html, rest) = (self.html, &self.html[at..]);
        let second = rest[1..].chars().next()?;
        let taken = match second {
            _ if second.is_ascii_alphabetic() => self.start_tag(at),
            '/' => self.end_tag(at),
            '!' if rest.starts_with("<!--") => {
                let end = self.comment_end.next(at + 4, |from| {
                    let found = COMMENT_END.find(&html[from..]).ok().flatten()?;
                    Some((found.start(), found.as_str().len()))
                });
                end.map(|(found, length)| found + length - at)
            }
            '!' if rest.starts_with("<![") => {
                let end = self
                    .section_end
                    .next(at, |from| html[from..].find("]]>").map(|found| (found, 3)));
                end.map(|(found, length)| {
                    let section = &html[at + 3..found.max(at + 3)];
                    let named = section
                        .get(..6)
                        .is_some_and(|name| name.eq_ignore_ascii_case("CDATA["));
                    if named {
                        self.write(&section[6..]);
                    }
                    found + length - at
                })
            }
            '!' | '?' => self.close(at, at).map(|end| end + 1),
            _ => {
                self.write("<");
                Some(1)
            }
        };
        // What is never closed is text, up to what may close it.
        taken.or_else(|| {
            self.last_pass = true;
            let end = match self.close(at, at + 1) {
                Some(end) => end + 1,
                None => rest[1..].find('<').map_or(1, |next| next + 1),
            };
            self.write(&rest[..end]);
            Some(end)
        })
    }

    fn start_tag(&mut self, at: usize) -> Option<usize> {
        let rest = &self.html[at..];
        let end = self.tags.end(at) - at;
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
        let silent = SILENT.iter().position(|silent| *silent == name);
        if let Some(silent) = silent.filter(|_| !empty) {
            if RAW.contains(&name.as_str()) {
                let close = format!("</{name}");
                let length = rest[end..].find(&close);
                // Without its end tag, all that follows belongs to it.
                return Some(length.map_or(rest.len(), |length| end + length));
            }
            self.silent.push(silent);
            self.open[silent] += 1;
        }
        Some(end)
    }

    fn end_tag(&mut self, at: usize) -> Option<usize> {
        let rest = &self.html[at..];
        let close = self.close(at, at)? + 1;
        let name = if let Ok(Some(tag)) = END.captures(rest) {
            tag[1].to_lowercase()
        } else {
            let name = NAME.captures(&rest[2..]).ok().flatten();
            match name {
                Some(name) => name[1].to_lowercase(),
                None => return Some(close),
            }
        };
        // It closes what was opened since, too.
        let closed = SILENT.iter().position(|silent| *silent == name);
        if let Some(closed) = closed.filter(|&closed| self.open[closed] > 0) {
            while let Some(last) = self.silent.pop() {
                self.open[last] -= 1;
                if last == closed {
                    break;
                }
            }
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
