//! A recipe before it has types: a tree of what the files and the command line say, each value with its origin.
//!
//! Recipes extend each other and stages override their base, which needs a form in which some values are still absent.
//! Types are given afterwards, by writing the merged tree down again line by line: an error in such a line is reported
//! at the place its value came from.

use std::rc::Rc;

/// Where a value was written: a file and line, or a `--set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    source: Rc<str>,
    line: Option<usize>,
}

impl Origin {
    /// The command line's `--set`.
    pub(crate) fn command_line(entry: &str) -> Self {
        Self {
            source: format!("--set {entry}").into(),
            line: None,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// The shapes of RON that recipes are made of.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A number, string, truth value or bare name, as written.
    Literal(String),
    /// `[a, b]`.
    List(Vec<Node>),
    /// `Name(a, b)`; the name may be empty. `Some(a)` is read as `a`.
    Tuple(String, Vec<Node>),
    /// `Name(key: a, key: b)`; the name may be empty.
    Struct(String, Vec<(String, Node)>),
}

/// What is wrong, and where.
pub(crate) type Failure = (Origin, String);

impl Node {
    /// Reads RON.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Self, Failure> {
        Parser {
            rest: text,
            line: 1,
            source: source.into(),
        }
        .document()
    }

    /// Reads the value of a `--set`; what is no RON is a string.
    pub(crate) fn parse_entry(text: &str, entry: &str) -> Self {
        let origin = Origin::command_line(entry);
        let mut node = Self::parse(text, entry).unwrap_or_else(|_| Self {
            value: Value::Literal(format!("{text:?}")),
            origin: origin.clone(),
        });
        node.relocate(&origin);
        node
    }

    fn relocate(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Literal(_) => {}
            Value::List(items) | Value::Tuple(_, items) => {
                items.iter_mut().for_each(|item| item.relocate(origin));
            }
            Value::Struct(_, fields) => fields
                .iter_mut()
                .for_each(|(_, node)| node.relocate(origin)),
        }
    }

    /// The fields of an unnamed struct.
    pub(crate) fn fields(&mut self) -> Result<&mut Vec<(String, Node)>, Failure> {
        match &mut self.value {
            Value::Struct(name, fields) if name.is_empty() => Ok(fields),
            _ => Err((
                self.origin.clone(),
                "expected fields in parentheses, such as (name: \"a\")".into(),
            )),
        }
    }

    /// Takes a field out.
    pub(crate) fn take(&mut self, key: &str) -> Result<Option<Node>, Failure> {
        let fields = self.fields()?;
        let place = fields.iter().position(|(name, _)| name == key);
        Ok(place.map(|place| fields.remove(place).1))
    }

    /// The text of a string literal.
    pub(crate) fn as_text(&self) -> Result<String, Failure> {
        let Value::Literal(text) = &self.value else {
            return Err((self.origin.clone(), "expected a string".into()));
        };
        ron::from_str(text).map_err(|error| (self.origin.clone(), error.code.to_string()))
    }

    /// Lays `over` on top: fields of structs one by one, everything else as a whole.
    pub(crate) fn merge(self, over: Node) -> Node {
        match (self.value, over.value) {
            (Value::Struct(name, mut fields), Value::Struct(other, overrides)) if name == other => {
                for (key, node) in overrides {
                    match fields.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, old)) => *old = old.clone().merge(node),
                        None => fields.push((key, node)),
                    }
                }
                Node {
                    value: Value::Struct(name, fields),
                    origin: over.origin,
                }
            }
            (_, value) => Node {
                value,
                origin: over.origin,
            },
        }
    }

    /// Replaces the value at a dotted path; lists take an index, or the `name` of their entry.
    pub(crate) fn set(&mut self, path: &str, value: Node) -> Result<(), Failure> {
        let (key, rest) = match path.split_once('.') {
            Some((key, rest)) => (key, Some(rest)),
            None => (path, None),
        };
        let origin = value.origin.clone();
        let fail = |message: String| Err((origin.clone(), message));
        let child = match &mut self.value {
            Value::List(items) | Value::Tuple(_, items) => {
                let named = items.iter_mut().position(|item| {
                    let name = item.fields().ok().and_then(|fields| {
                        let (_, name) = fields.iter().find(|(key, _)| key == "name")?;
                        name.as_text().ok()
                    });
                    name.as_deref() == Some(key)
                });
                let count = items.len();
                let place = named.or_else(|| key.parse().ok());
                match place.and_then(|place: usize| items.get_mut(place)) {
                    Some(item) => item,
                    None => {
                        return fail(format!(
                            "`{key}` is neither the name nor an index of one of the {count} entries"
                        ));
                    }
                }
            }
            Value::Struct(_, fields) => {
                if !fields.iter().any(|(known, _)| known == key) {
                    // The types will tell whether there is such a key.
                    let empty = Node {
                        value: Value::Struct(String::new(), Vec::new()),
                        origin: origin.clone(),
                    };
                    fields.push((key.to_owned(), empty));
                }
                let (_, node) = fields
                    .iter_mut()
                    .find(|(known, _)| known == key)
                    .expect("just added if it was not there");
                node
            }
            Value::Literal(text) => {
                return fail(format!("nothing lies below {text}: it is a plain value"));
            }
        };
        match rest {
            Some(rest) => child.set(rest, value),
            None => {
                *child = value;
                Ok(())
            }
        }
    }

    /// RON again, one value a line, and the origin of each line.
    pub(crate) fn write(&self) -> (String, Vec<Origin>) {
        let mut writer = Writer::default();
        writer.node(self, "", "");
        (writer.text, writer.origins)
    }
}

/// Writes a tree.
#[derive(Default)]
struct Writer {
    text: String,
    origins: Vec<Origin>,
    depth: usize,
}

impl Writer {
    fn line(&mut self, text: &str, origin: &Origin) {
        self.text.push_str(&"    ".repeat(self.depth));
        self.text.push_str(text);
        self.text.push('\n');
        self.origins.push(origin.clone());
    }

    fn node(&mut self, node: &Node, before: &str, after: &str) {
        let origin = &node.origin;
        let (open, close, children): (_, _, Vec<(String, &Node)>) = match &node.value {
            Value::Literal(text) => return self.line(&format!("{before}{text}{after}"), origin),
            Value::List(items) => {
                let items = items.iter().map(|item| (String::new(), item));
                ("[".to_owned(), "]", items.collect())
            }
            Value::Tuple(name, items) => {
                let items = items.iter().map(|item| (String::new(), item));
                (format!("{name}("), ")", items.collect())
            }
            Value::Struct(name, fields) => {
                let fields = fields.iter().map(|(key, item)| (format!("{key}: "), item));
                (format!("{name}("), ")", fields.collect())
            }
        };
        if children.is_empty() {
            return self.line(&format!("{before}{open}{close}{after}"), origin);
        }
        self.line(&format!("{before}{open}"), origin);
        self.depth += 1;
        for (key, child) in children {
            self.node(child, &key, ",");
        }
        self.depth -= 1;
        self.line(&format!("{close}{after}"), origin);
    }
}

/// Reads a tree.
struct Parser<'a> {
    rest: &'a str,
    line: usize,
    source: Rc<str>,
}

/// How deep values may lie in each other: recipes need six levels, the stack has room for many more.
const MAX_DEPTH: usize = 64;

impl<'a> Parser<'a> {
    fn document(&mut self) -> Result<Node, Failure> {
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
            return self.fail("values lie too deep in each other");
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
                            // An option that is there is written like the value itself.
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

    /// What stands in parentheses: fields if the first word is followed by a colon, else values.
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
                return self.fail(&format!("`{key}` stands here twice"));
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

    const BASE: &str = r#"(
    // a comment, with (brackets
    name: "a \"quoted\" name", /* and another */
    model: (dim: 8, mixer: Some((dim: 4, depth: 2))),
    list: [(name: "one", x: 1.5e-3), (name: "two", x: -2)],
    mask: Deferred(ratio: 0.75),
)"#;

    fn flat(node: &Node) -> String {
        node.write().0.split_whitespace().collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let node = Node::parse(BASE, "base.ron").unwrap();
        let (text, origins) = node.write();
        assert_eq!(flat(&Node::parse(&text, "again").unwrap()), flat(&node));
        let place = text
            .lines()
            .position(|line| line.contains("x: -2"))
            .unwrap();
        assert_eq!(origins[place].to_string(), "base.ron:5");
    }

    #[test]
    fn fields_are_merged_and_the_rest_replaced() {
        let base = Node::parse(BASE, "base.ron").unwrap();
        let over = "(model: (mixer: Some((depth: 6))), mask: Naive(ratio: 0.5), list: [])";
        let merged = flat(&base.merge(Node::parse(over, "over.ron").unwrap()));
        assert!(merged.contains("mixer:(dim:4,depth:6,)"), "{merged}");
        assert!(merged.contains("dim:8") && merged.contains("mask:Naive(ratio:0.5,)"));
        assert!(merged.contains("list:[]"));
    }

    #[test]
    fn paths_reach_fields_and_list_entries() {
        let mut node = Node::parse(BASE, "base.ron").unwrap();
        for (path, value) in [
            ("model.mixer.dim", "5"),
            ("list.two.x", "7"),
            ("list.0.x", "6"),
            ("name", "plain words"),
            ("mask", "None"),
            ("new", "3"),
        ] {
            let value = Node::parse_entry(value, path);
            node.set(path, value).unwrap();
        }
        let text = flat(&node);
        for part in [
            "(dim:5,depth:2,)",
            "x:6,",
            "x:7,",
            "\"plainwords\"",
            "mask:None",
            "new:3",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let value = Node::parse_entry("1", "list.three.x=1");
        let (origin, message) = node.set("list.three.x", value).unwrap_err();
        assert_eq!(origin.to_string(), "--set list.three.x=1");
        assert!(message.contains("three"), "{message}");
    }

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
        let deep = "[".repeat(100_000);
        assert!(Node::parse(&deep, "f.ron").is_err());
    }
}
