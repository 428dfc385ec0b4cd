//! Where start tags end, and where what may follow begins, in linear time: a plain search would scan markup that is never closed again from
//! every place in it.

use std::collections::HashMap;

/// Where the next of something is, searched for from later and later places.
#[derive(Default)]
pub(super) struct Ahead {
    /// From where it was looked for, and where it was found, with its length.
    known: Option<(usize, Option<(usize, usize)>)>,
}

impl Ahead {
    /// Where the first is that begins at `from` or later, and its length; `find` answers with its distance.
    pub(super) fn next(
        &mut self,
        from: usize,
        find: impl FnOnce(usize) -> Option<(usize, usize)>,
    ) -> Option<(usize, usize)> {
        if let Some((since, found)) = self.known
            && since <= from
            && found.is_none_or(|(found, _)| found >= from)
        {
            return found;
        }
        let found = find(from).map(|(distance, length)| (from + distance, length));
        self.known = Some((from, found));
        found
    }
}

/// Ends of start tags, as html.parser's pattern finds them:
///
/// ```text
/// <[a-zA-Z][^\t\n\r\f />\x00]*
/// (?:[\s/]*(?:(?<=['"\s/])[^\s/>][^\s/=>]*
///   (?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*)\s*)?(?:\s|/(?!>))*)*)?\s*
/// ```
pub(super) struct StartTags<'a> {
    html: &'a str,
    /// The end of the last name.
    name_end: Ahead,
    /// Where the next quotes are, single and double.
    quotes: [Ahead; 2],
    /// Where a tag ends whose next attribute would begin at a place.
    ends: HashMap<usize, usize>,
}

impl<'a> StartTags<'a> {
    pub(super) fn of(html: &'a str) -> Self {
        Self {
            html,
            name_end: Ahead::default(),
            quotes: Default::default(),
            ends: HashMap::new(),
        }
    }

    /// Where the tag that begins at `at` ends, or cannot go on.
    pub(super) fn end(&mut self, at: usize) -> usize {
        let html = self.html;
        let delimiter = |from: usize| {
            let rest = &html[from..];
            let found = rest.find(['\t', '\n', '\r', '\x0c', ' ', '/', '>', '\0']);
            Some((found.unwrap_or(rest.len()), 0))
        };
        // The first letter belongs to the name whatever it is.
        let name = self
            .name_end
            .next(at + 2, delimiter)
            .map_or(html.len(), |(end, _)| end);
        let mut place = self.skip(name, |c| is_space(c) || c == '/');
        let mut visited = Vec::new();
        let end = loop {
            if let Some(&end) = self.ends.get(&place) {
                break end;
            }
            visited.push(place);
            match self.attribute(place) {
                Some(next) => place = next,
                None => break self.skip(place, is_space),
            }
        };
        for place in visited {
            self.ends.insert(place, end);
        }
        end
    }

    /// Where the attribute that begins at `at` ends, if one does.
    fn attribute(&mut self, at: usize) -> Option<usize> {
        let before = self.html[..at].chars().next_back()?;
        let first = self.html[at..].chars().next()?;
        let begins = matches!(before, '\'' | '"' | '/') || is_space(before);
        if !begins || is_space(first) || matches!(first, '/' | '>') {
            return None;
        }
        let after_first = at + first.len_utf8();
        let name = self.skip(after_first, |c| {
            !is_space(c) && !matches!(c, '/' | '=' | '>')
        });
        let mut end = self.value(name).unwrap_or(name);
        // White space and slashes, but not the slash of `/>`.
        loop {
            let mut rest = self.html[end..].chars();
            match rest.next() {
                Some('/') if rest.next() != Some('>') => end += 1,
                Some(c) if is_space(c) => end += c.len_utf8(),
                _ => return Some(end),
            }
        }
    }

    /// Where the value after the name of an attribute ends, with the white space after it.
    fn value(&mut self, name: usize) -> Option<usize> {
        let equals = self.skip(name, is_space);
        let signs = self.skip(equals, |c| c == '=');
        if signs == equals {
            return None;
        }
        let begin = self.skip(signs, is_space);
        let quote = self.html[begin..]
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'));
        let end = match quote {
            None => self.skip(begin, |c| c != '>' && !is_space(c)),
            Some(quote) => match self.closing(quote, begin + 1) {
                Some(close) => close + 1,
                // Of a quote that is not closed, what comes before is an empty value, or a value that begins with a sign.
                None if begin > signs => begin,
                None if signs - equals > 1 => self.skip(signs, |c| c != '>' && !is_space(c)),
                None => return None,
            },
        };
        Some(self.skip(end, is_space))
    }

    fn closing(&mut self, quote: char, from: usize) -> Option<usize> {
        let html = self.html;
        let ahead = &mut self.quotes[usize::from(quote == '"')];
        let found = ahead.next(from, |from| {
            html[from..].find(quote).map(|found| (found, 1))
        });
        found.map(|(found, _)| found)
    }

    /// Skips all characters of this kind.
    fn skip(&self, at: usize, such: impl Fn(char) -> bool) -> usize {
        let rest = &self.html[at..];
        at + (rest.len() - rest.trim_start_matches(such).len())
    }
}

/// White space as Python's patterns understand it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Equal to the pattern on random markup of what matters to it.
    #[test]
    fn ends_are_those_of_the_pattern() {
        let start = pattern(concat!(
            r"^<[a-zA-Z][^\t\n\r\x0c />\x00]*",
            r#"(?:[\s/]*(?:(?<=['"\s/])[^\s/>][^\s/=>]*"#,
            r#"(?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*)\s*)?(?:\s|/(?!>))*)*)?\s*"#,
        ));
        const SIGNS: [&str; 18] = [
            "<", "<a", "<a ", ">", "'", "\"", "=", "==", " ", "/", "/>", "b", "\0", "\n", "\u{a0}",
            "\x1c", "\x0b", "é",
        ];
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let length = random.random_range(0..24);
            let html: String = (0..length)
                .map(|_| SIGNS[random.random_range(0..SIGNS.len())])
                .collect();
            let mut tags = StartTags::of(&html);
            for (at, _) in html.match_indices('<') {
                let letter = html[at + 1..].chars().next();
                if letter.is_some_and(|c| c.is_ascii_alphabetic()) {
                    let expected = at + start.find(&html[at..]).unwrap().unwrap().end();
                    assert_eq!(tags.end(at), expected, "{html:?} at {at}");
                }
            }
        }
    }
}
