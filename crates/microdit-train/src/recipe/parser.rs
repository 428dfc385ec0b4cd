//! The part of RON's grammar that recipes use, read with line numbers.

use super::tree::{Failure, Node, Origin, Value};
use std::sync::Arc;

/// Reads a tree.
pub(super) struct Parser<'a> {
    rest: &'a str,
    line: usize,
    source: Arc<str>,
}

/// How deep values may be nested: recipes need six levels, the stack has room for many more.
pub(super) const MAX_DEPTH: usize = 64;

/// Most fields of a value: recipes have twenty, and each is compared with those before.
const MAX_FIELDS: usize = 1000;

impl<'a> Parser<'a> {
    /// A parser of `text`, whose errors name `source`.
    pub(super) fn new(text: &'a str, source: &str) -> Self {
        Self {
            rest: text,
            line: 1,
            source: source.into(),
        }
    }

    /// The value that is the whole text.
    pub(super) fn document(&mut self) -> Result<Node, Failure> {
        let node = self.value(0)?;
        self.skip_blank()?;
        if self.rest.is_empty() {
            return Ok(node);
        }
        self.fail("text after the end of the recipe; is a comma or a parenthesis missing?")
    }

    fn origin(&self) -> Origin {
        Origin {
            source: self.source.clone(),
            line: Some(self.line),
        }
    }

    fn fail<T>(&self, message: &str) -> Result<T, Failure> {
        Err((self.origin(), message.to_owned()))
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let (read, rest) = self.rest.split_at(bytes);
        self.line += read.matches('\n').count();
        self.rest = rest;
        read
    }

    /// Blanks and comments.
    fn skip_blank(&mut self) -> Result<(), Failure> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if self.rest.starts_with("//") {
                self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                match self.rest.find("*/") {
                    Some(end) => self.advance(end + 2),
                    None => return self.fail("a comment without an end"),
                };
            } else {
                return Ok(());
            }
        }
    }

    fn eat(&mut self, symbol: char) -> Result<bool, Failure> {
        self.skip_blank()?;
        let found = self.rest.starts_with(symbol);
        if found {
            self.advance(symbol.len_utf8());
        }
        Ok(found)
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || "_.+-#".contains(c)));
        self.advance(end.unwrap_or(self.rest.len()))
    }

    fn value(&mut self, depth: usize) -> Result<Node, Failure> {
        if depth > MAX_DEPTH {
            return self.fail("values are nested too deeply");
        }
        self.skip_blank()?;
        let origin = self.origin();
        let value = match self.rest.chars().next() {
            None => return self.fail("the text ends where a value was expected"),
            Some('"') => Value::Literal(self.string()?.to_owned()),
            Some('[') => {
                self.advance(1);
                Value::List(self.items(']', depth)?)
            }
            Some('(') => self.body("", depth)?,
            Some(_) => match self.word() {
                "" => return self.fail("expected a value"),
                word => {
                    self.skip_blank()?;
                    if self.rest.starts_with('(') {
                        match self.body(word, depth)? {
                            // An option that is present is written like the value itself.
                            Value::Tuple(name, mut items) if name == "Some" && items.len() == 1 => {
                                return Ok(items.remove(0));
                            }
                            body => body,
                        }
                    } else {
                        Value::Literal(word.to_owned())
                    }
                }
            },
        };
        Ok(Node { value, origin })
    }

    fn string(&mut self) -> Result<&'a str, Failure> {
        let mut escaped = false;
        for (place, symbol) in self.rest.char_indices().skip(1) {
            match symbol {
                '"' if !escaped => return Ok(self.advance(place + 1)),
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        self.fail("a string without an end")
    }

    /// Values up to `close`.
    fn items(&mut self, close: char, depth: usize) -> Result<Vec<Node>, Failure> {
        let mut items = Vec::new();
        while !self.eat(close)? {
            items.push(self.value(depth + 1)?);
            if !self.eat(',')? && !self.rest.starts_with(close) {
                return self.fail(&format!("expected `,` or `{close}`"));
            }
        }
        Ok(items)
    }

    /// The content of parentheses: fields if the first word is followed by a colon, else values.
    fn body(&mut self, name: &str, depth: usize) -> Result<Value, Failure> {
        self.advance(1);
        self.skip_blank()?;
        let (rest, line) = (self.rest, self.line);
        let key = self.word();
        let named = !key.is_empty() && self.eat(':')?;
        (self.rest, self.line) = (rest, line);
        // `()` is taken for a struct without fields.
        let empty = name.is_empty() && rest.starts_with(')');
        if !named && !empty {
            return Ok(Value::Tuple(name.to_owned(), self.items(')', depth)?));
        }
        let mut fields: Vec<(String, Node)> = Vec::new();
        while !self.eat(')')? {
            self.skip_blank()?;
            let key = self.word();
            if key.is_empty() || !self.eat(':')? {
                return self.fail("expected `key: value`");
            }
            if fields.iter().any(|(known, _)| known == key) {
                return self.fail(&format!("`{key}` occurs here twice"));
            }
            if fields.len() == MAX_FIELDS {
                return self.fail(&format!("more than {MAX_FIELDS} keys"));
            }
            fields.push((key.to_owned(), self.value(depth + 1)?));
            if !self.eat(',')? && !self.rest.starts_with(')') {
                return self.fail("expected `,` or `)`");
            }
        }
        Ok(Value::Struct(name.to_owned(), fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_text_is_an_error_with_its_line() {
        for (text, line) in [
            ("(\n a: 1\n b: 2)", 3),
            ("(a: \"x", 1),
            ("(\n\n a: 1, a: 2)", 3),
            ("(a: [1, 2)", 1),
            ("(a: 1) (", 1),
            ("(a:", 1),
            ("/* a", 1),
            ("(a: 1, 2)", 1),
        ] {
            let (origin, _) = Node::parse(text, "f.ron").unwrap_err();
            assert_eq!(origin.to_string(), format!("f.ron:{line}"), "{text}");
        }
        for open in ["[", "(", "a(", "(a: ", "[(a: "] {
            let deep = open.repeat(100_000);
            assert!(Node::parse(&deep, "f.ron").is_err(), "{open}");
        }
        let many: String = (0..100_000).map(|i| format!("k{i}: 1,")).collect();
        let (_, message) = Node::parse(&format!("({many})"), "f.ron").unwrap_err();
        assert!(message.contains("more than 1000 keys"), "{message}");
    }
}
