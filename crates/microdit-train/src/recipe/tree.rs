//! A recipe before it has types: a tree of what the files and the command line say, each value with its origin.
//!
//! Recipes extend each other and stages override their base, which needs a form in which some values are still absent.
//! Types are given afterwards, by writing the merged tree out again line by line: an error in such a line is reported
//! at the place its value came from.

use super::parser::{MAX_DEPTH, Parser};
use std::sync::Arc;

/// Characters of a `--set` or a line that a message quotes.
const MAX_SHOWN: usize = 120;

/// The text, or its beginning if it is long.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where a value was written: a file and line, or a `--set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) source: Arc<str>,
    pub(super) line: Option<usize>,
}

impl Origin {
    /// The command line's `--set`.
    pub(super) fn command_line(entry: &str) -> Self {
        Self {
            source: format!("--set {}", shortened(entry)).into(),
            line: None,
        }
    }

    /// An override that stands here in a file; several may stand in one line.
    pub(super) fn with_entry(&self, entry: &str) -> Self {
        Self {
            source: format!("{self}, {}", shortened(entry)).into(),
            line: None,
        }
    }

    /// Whether it is an override of nothing but the key `key`, which it names.
    pub(super) fn is_of(&self, key: &str) -> bool {
        let path = self.source.split_once('=').map(|(path, _)| path);
        let last = path.and_then(|path| path.rsplit(['.', ' ']).next());
        self.line.is_none() && last == Some(key)
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
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The shapes of RON that recipes are made of.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number, string, boolean or bare name, as written.
    Literal(String),
    /// `[a, b]`.
    List(Vec<Node>),
    /// `Name(a, b)`; the name may be empty. `Some(a)` is read as `a`.
    Tuple(String, Vec<Node>),
    /// `Name(key: a, key: b)`; the name may be empty.
    Struct(String, Vec<(String, Node)>),
}

/// What is wrong, and where.
pub(super) type Failure = (Origin, String);

impl Node {
    /// Reads RON.
    pub(super) fn parse(text: &str, source: &str) -> Result<Self, Failure> {
        Parser::new(text, source).document()
    }

    /// Reads the value of a `--set` written at `origin`; what is not RON is a string.
    pub(super) fn parse_entry(text: &str, origin: &Origin) -> Self {
        let mut node = Self::parse(text, "").unwrap_or_else(|_| Self {
            value: Value::Literal(format!("{text:?}")),
            origin: origin.clone(),
        });
        node.relocate(origin);
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
    pub(super) fn fields(&mut self) -> Result<&mut Vec<(String, Node)>, Failure> {
        match &mut self.value {
            Value::Struct(name, fields) if name.is_empty() => Ok(fields),
            _ => Err((
                self.origin.clone(),
                "expected fields in parentheses, such as (name: \"a\")".into(),
            )),
        }
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, key: &str) -> Result<Option<Node>, Failure> {
        let fields = self.fields()?;
        let place = fields.iter().position(|(name, _)| name == key);
        Ok(place.map(|place| fields.remove(place).1))
    }

    /// Gives the struct `key` the name `name` if it has none.
    pub(super) fn name(&mut self, key: &str, name: &str) {
        if let Value::Struct(_, fields) = &mut self.value
            && let Some((_, node)) = fields.iter_mut().find(|(known, _)| known == key)
            && let Value::Struct(own, _) = &mut node.value
            && own.is_empty()
        {
            *own = name.to_owned();
        }
    }

    /// The text of a string literal.
    pub(super) fn as_text(&self) -> Result<String, Failure> {
        let Value::Literal(text) = &self.value else {
            return Err((self.origin.clone(), "expected a string".into()));
        };
        ron::from_str(text).map_err(|error| (self.origin.clone(), error.code.to_string()))
    }

    /// Lays `over` on top: fields of structs one by one, everything else as a whole. Fields without a name before them are
    /// merged into whatever variant there is.
    pub(super) fn merge(self, over: Node) -> Node {
        match (self.value, over.value) {
            (Value::Struct(name, mut fields), Value::Struct(other, overrides))
                if name == other || other.is_empty() =>
            {
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

    /// Replaces the value at a dotted path; lists take an index, or the `name` of their entry. Fields without a name before them
    /// are [merged](Self::merge) into what there is, as those of a file that extends another are; `()` puts back the defaults.
    pub(super) fn set(&mut self, path: &str, value: Node) -> Result<(), Failure> {
        let keys: Vec<&str> = path.split('.').collect();
        let fail = |message: String| Err((value.origin.clone(), message));
        if keys.len() > MAX_DEPTH {
            return fail(format!("values may be nested at most {MAX_DEPTH} deep"));
        }
        let name = |key: &&str| {
            let letters = |c: char| c.is_alphanumeric() || " -_+".contains(c);
            !key.is_empty() && key.chars().all(letters)
        };
        if let Some(key) = keys.iter().find(|key| !name(key)) {
            let key = shortened(key);
            return fail(format!(
                "{key:?} is not a key; a path is names and indices joined by dots, such as stages.0.steps"
            ));
        }
        let mut place = self;
        for key in keys {
            place = place.child(key, &value.origin)?;
        }
        *place = match &value.value {
            Value::Struct(name, fields) if name.is_empty() && !fields.is_empty() => {
                place.clone().merge(value)
            }
            _ => value,
        };
        Ok(())
    }

    /// The child `key`, which is added where a struct lacks it: the types decide whether there is such a key.
    fn child(&mut self, key: &str, origin: &Origin) -> Result<&mut Node, Failure> {
        let fail = |message: String| (origin.clone(), message);
        match &mut self.value {
            Value::List(items) | Value::Tuple(_, items) => {
                let count = items.len();
                let place = position(items, key);
                place.and_then(|place| items.get_mut(place)).ok_or_else(|| {
                    fail(format!(
                        "`{key}` is neither the name nor an index of one of the {count} entries"
                    ))
                })
            }
            Value::Struct(_, fields) => {
                let place = fields.iter().position(|(known, _)| known == key);
                let place = place.unwrap_or_else(|| {
                    let empty = Node {
                        value: Value::Struct(String::new(), Vec::new()),
                        origin: origin.clone(),
                    };
                    fields.push((key.to_owned(), empty));
                    fields.len() - 1
                });
                Ok(&mut fields[place].1)
            }
            Value::Literal(text) => Err(fail(format!(
                "nothing lies below {}: it is a plain value",
                shortened(text)
            ))),
        }
    }

    /// Whether the value at a dotted path is written, or lies within one that is a list or has no keys.
    pub(super) fn has(&self, path: &str) -> bool {
        let mut node = self;
        for key in path.split('.') {
            let Value::Struct(_, fields) = &node.value else {
                return true;
            };
            match fields.iter().find(|(known, _)| known == key) {
                Some((_, child)) => node = child,
                None => return false,
            }
        }
        true
    }

    /// Where the value at a dotted path was written; of one that is absent, the nearest above it.
    pub(super) fn origin_of(&self, path: &str) -> &Origin {
        let mut node = self;
        for key in path.split('.') {
            let child = match &node.value {
                Value::List(items) | Value::Tuple(_, items) => {
                    position(items, key).and_then(|place| items.get(place))
                }
                Value::Struct(_, fields) => {
                    let field = fields.iter().find(|(known, _)| known == key);
                    field.map(|(_, node)| node)
                }
                Value::Literal(_) => None,
            };
            match child {
                Some(child) => node = child,
                None => break,
            }
        }
        &node.origin
    }

    /// RON again, one value a line, and the origin of each line.
    pub(super) fn write(&self) -> (String, Vec<Origin>) {
        let mut writer = Writer::default();
        writer.node(self, "", "");
        (writer.text, writer.origins)
    }
}

/// The place of the entry whose `name` is `key`, or whose index it is.
fn position(items: &[Node], key: &str) -> Option<usize> {
    let named = items.iter().position(|item| {
        let Value::Struct(_, fields) = &item.value else {
            return false;
        };
        let name = fields.iter().find(|(known, _)| known == "name");
        name.and_then(|(_, name)| name.as_text().ok()).as_deref() == Some(key)
    });
    named.or_else(|| key.parse().ok())
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
        // What has no name keeps the existing one.
        let base = Node::parse(BASE, "base.ron").unwrap();
        let merged = flat(&base.merge(Node::parse("(mask: (ratio: 0.5))", "over.ron").unwrap()));
        assert!(merged.contains("mask:Deferred(ratio:0.5,)"), "{merged}");
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
            let value = Node::parse_entry(value, &Origin::command_line(path));
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
        assert_eq!(node.origin_of("list.1.x").to_string(), "--set list.two.x");
        assert_eq!(node.origin_of("list.1.absent").to_string(), "base.ron:5");
        let value = Node::parse_entry("1", &Origin::command_line("list.three.x=1"));
        let (origin, message) = node.set("list.three.x", value).unwrap_err();
        assert_eq!(origin.to_string(), "--set list.three.x=1");
        assert!(message.contains("three"), "{message}");
    }

    #[test]
    fn hostile_paths_and_values_are_errors() {
        let deep = ["a"; 10_000].join(".");
        let huge = format!("list.{}", u128::MAX);
        for path in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.",
            "seed: 5, name",
            "a)",
            "a\n",
            "list.2",
            &huge,
            &deep,
        ] {
            let mut node = Node::parse(BASE, "base.ron").unwrap();
            let origin = Origin::command_line(&format!("{path}=1"));
            let value = Node::parse_entry("1", &origin);
            let (origin, message) = node.set(path, value).unwrap_err();
            assert!(
                origin.to_string().len() < 200 && message.len() < 200,
                "{message}"
            );
        }
        // A value that is nested too deeply is kept as a string, which no number accepts.
        for value in [
            "(".repeat(100_000),
            "[".repeat(100_000),
            "a(".repeat(100_000),
        ] {
            let node = Node::parse_entry(&value, &Origin::command_line("seed"));
            assert!(matches!(node.value, Value::Literal(_)));
        }
    }
}
