//! Values that replace those of a recipe, from the command line or from another file.

use super::tree::{Failure, Node, Origin};

/// A value to replace, as `path=value`, and where it was written.
#[derive(Clone, Debug)]
pub struct Override {
    entry: String,
    origin: Origin,
}

impl Override {
    /// What `--set` is given.
    pub fn of_command_line(entry: &str) -> Self {
        Self {
            entry: entry.to_owned(),
            origin: Origin::command_line(entry),
        }
    }

    /// What a file says at `origin`.
    pub(super) fn of_file(entry: &str, origin: &Origin) -> Self {
        Self {
            entry: entry.to_owned(),
            origin: origin.with_entry(entry),
        }
    }

    /// The override as it was written.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The path: names and indices joined by dots.
    pub fn key(&self) -> &str {
        self.entry
            .split_once('=')
            .map_or(&self.entry, |(key, _)| key)
    }

    /// Whether errors call its place `origin`.
    pub(super) fn is_at(&self, origin: &str) -> bool {
        self.origin.to_string() == origin
    }

    fn set(&self, tree: &mut Node) -> Result<(), Failure> {
        let missing = || (self.origin.clone(), "write it as path=value".into());
        let (key, value) = self.entry.split_once('=').ok_or_else(missing)?;
        tree.set(key, Node::parse_entry(value, &self.origin))
    }

    /// Sets the value as a string, whatever it looks like.
    pub(super) fn set_as_string(&self, tree: &mut Node) -> Result<(), Failure> {
        let (key, value) = self.entry.split_once('=').unwrap_or((&self.entry, ""));
        let string = Node::parse_entry(&format!("{value:?}"), &self.origin);
        tree.set(key, string)
    }
}

/// Replaces values of a tree.
pub(super) fn lay_over(tree: &mut Node, overrides: &[Override]) -> Result<(), Failure> {
    overrides.iter().try_for_each(|one| one.set(tree))
}
