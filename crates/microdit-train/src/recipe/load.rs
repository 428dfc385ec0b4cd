//! From files and command line to a typed recipe.

use super::{
    Recipe, problem,
    tree::{Failure, Node, Origin, Value},
};
use crate::error::TrainError;
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Keys that belong to the run; all others are a stage's.
const RUN_KEYS: [&str; 9] = [
    "name",
    "seed",
    "sampling",
    "encoders",
    "log_every",
    "checkpoints",
    "max_broken_steps",
    "evaluation",
    "budget",
];

/// Recipes that may extend each other in a row; more are taken for a circle.
const MAX_EXTENDS: usize = 16;

impl Recipe {
    /// Reads a recipe and what it extends, and applies `path=value` overrides such as `stages.masked.steps=10` or
    /// `data.shards=train.tar`.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key or a wrong type, each with file, line and key; sizes that
    /// contradict each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let mut tree = read(path, 0)?;
        for entry in overrides {
            let missing = || (Origin::command_line(entry), "write it as path=value".into());
            let (key, value) = entry.split_once('=').ok_or_else(missing)?;
            tree.set(key, Node::parse_entry(value, entry))?;
        }
        let recipe = match Self::from_tree(tree.clone()) {
            Err(error) => Self::with_bare_strings(tree, overrides).ok_or(error)?,
            recipe => recipe?,
        };
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe if bare words of the command line are taken for strings wherever no name fits: shell quoting of
    /// strings would be a nuisance.
    fn with_bare_strings(mut tree: Node, overrides: &[String]) -> Option<Self> {
        let mut recipe = Self::from_tree(tree.clone());
        for _ in overrides {
            let Err(TrainError::Recipe { origin, .. }) = &recipe else {
                break;
            };
            let entry = overrides
                .iter()
                .find(|entry| Origin::command_line(entry).to_string() == *origin)?;
            let (key, value) = entry.split_once('=')?;
            let string = Node::parse_entry(&format!("{value:?}"), entry);
            tree.set(key, string).ok()?;
            recipe = Self::from_tree(tree.clone());
        }
        recipe.ok()
    }

    fn from_tree(mut tree: Node) -> Result<Self, TrainError> {
        let source = tree.write().0;
        let origin = tree.origin.clone();
        let stages = tree.take("stages")?;
        let mut run = Vec::new();
        for key in RUN_KEYS {
            run.extend(tree.take(key)?.map(|node| (key.to_owned(), node)));
        }
        let run = Node {
            value: Value::Struct(String::new(), run),
            origin: origin.clone(),
        };
        let stages = match stages.map(|stages| (stages.value, stages.origin)) {
            Some((Value::List(stages), _)) => stages,
            Some((_, origin)) => {
                return Err((origin, "stages are a list: [(name: ...)]".into()).into());
            }
            None => Vec::new(),
        };
        Ok(Self {
            run: typed(&run)?,
            stages: stages
                .into_iter()
                .map(|stage| typed(&tree.clone().merge(stage)))
                .collect::<Result<_, _>>()?,
            source,
        })
    }
}

/// A file, laid over the one it extends.
fn read(path: &Path, depth: usize) -> Result<Node, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let mut node = Node::parse(&text, &path.display().to_string())?;
    let Some(base) = node.take("extends")? else {
        return Ok(node);
    };
    if depth == MAX_EXTENDS {
        return Err((base.origin, "recipes extend each other in a circle".into()).into());
    }
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    Ok(read(&folder.join(base.as_text()?), depth + 1)?.merge(node))
}

/// Gives a tree its type; an error is told at the line its value came from.
fn typed<T: DeserializeOwned>(node: &Node) -> Result<T, TrainError> {
    let (text, origins) = node.write();
    let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME);
    options.from_str(&text).map_err(|error| {
        let line = error.span.end.line.clamp(1, origins.len());
        let message = explain(&error.code);
        (origins[line - 1].clone(), message).into()
    })
}

/// The parser's message, with the nearest known name where one is unknown.
fn explain(error: &ron::Error) -> String {
    let (ron::Error::NoSuchStructField {
        expected, found, ..
    }
    | ron::Error::NoSuchEnumVariant {
        expected, found, ..
    }) = error
    else {
        return error.to_string();
    };
    let near = expected
        .iter()
        .chain(&RUN_KEYS)
        .map(|name| (strsim::jaro_winkler(name, found), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => format!("{error}; did you mean `{name}`?"),
        None => error.to_string(),
    }
}

impl From<Failure> for TrainError {
    fn from((origin, message): Failure) -> Self {
        problem(&origin.to_string(), &message)
    }
}
