//! Other files in the language of recipes: typed in the same way, with the same errors.

use super::{
    Override,
    file::read_text,
    load::{MAX_BYTES, typed},
    problem,
    tree::{Node, Value},
};
use crate::error::TrainError;
use serde::de::DeserializeOwned;
use std::path::Path;

/// A RON file, or a value in it, that knows the lines it was written in.
#[derive(Clone, Debug)]
pub struct Document(Node);

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, or is not RON; with its line.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = read_text(path, MAX_BYTES)?;
        Ok(Self(Node::parse(&text, &path.display().to_string())?))
    }

    /// The value as a `T`.
    ///
    /// # Errors
    /// An unknown key, with the nearest known one, or a wrong type; with file and line.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, TrainError> {
        typed(&self.0)
    }

    /// The entries of the list at the key `key` of a struct; none if there is no such list.
    pub fn items(&self, key: &str) -> Vec<Self> {
        match self.field(key).map(|node| &node.value) {
            Some(Value::List(items)) => items.iter().cloned().map(Self).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it is a struct with the key `key`.
    pub fn has(&self, key: &str) -> bool {
        self.field(key).is_some()
    }

    fn field(&self, key: &str) -> Option<&Node> {
        let Value::Struct(_, fields) = &self.0.value else {
            return None;
        };
        let field = fields.iter().find(|(known, _)| known == key);
        field.map(|(_, node)| node)
    }

    /// This string as an override that stands in this file.
    ///
    /// # Errors
    /// If it is not a string.
    pub fn as_override(&self) -> Result<Override, TrainError> {
        Ok(Override::of_file(&self.0.as_text()?, &self.0.origin))
    }

    /// What is wrong with the value at a dotted path, at the line it was written in.
    pub fn problem(&self, path: &str, message: &dyn std::fmt::Display) -> TrainError {
        problem(&self.0.origin_of(path).to_string(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Values {
        name: String,
        sets: Vec<String>,
    }

    fn written(text: &str) -> (tempfile::TempDir, Document) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.ron");
        std::fs::write(&path, text).unwrap();
        let document = Document::read(&path).unwrap();
        (folder, document)
    }

    #[test]
    fn errors_name_the_line_and_the_nearest_key() {
        let (_folder, document) = written("(\n name: \"a\",\n set: [],\n)");
        let said = document.typed::<Values>().unwrap_err().to_string();
        assert!(said.contains("values.ron:3: "), "{said}");
        assert!(said.contains("did you mean `sets`"), "{said}");
        let said = document.problem("name", &"is odd").to_string();
        assert!(said.ends_with("values.ron:2: is odd"), "{said}");
    }

    #[test]
    fn overrides_of_a_file_are_named_by_their_line() {
        let text = "(\n name: \"a\",\n sets: [\n \"batch=5\", \"data.shards=a b\",\n \"modle.dim=8\", \"batch\"],\n)";
        let (_folder, document) = written(text);
        let values: Values = document.typed().unwrap();
        assert_eq!((values.name.as_str(), values.sets.len()), ("a", 4));
        let sets = document.items("sets");
        let sets: Vec<Override> = sets.iter().map(|set| set.as_override().unwrap()).collect();
        assert_eq!(sets[1].key(), "data.shards");
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let data = Override::of_command_line("data=Latents(image_size: 256, tokens: 7)");
        let load = |sets: &[&Override]| {
            let sets: Vec<Override> = sets.iter().map(|&set| set.clone()).collect();
            Recipe::load_with(&quickstart, &sets).map_err(|error| error.to_string())
        };
        // A bare word in a line with another override is still a string.
        let recipe = load(&[&sets[0], &data, &sets[1]]).unwrap();
        assert_eq!(
            (recipe.stages[0].batch, recipe.stages[0].data.lists()[0].0),
            (5, "a b")
        );
        let said = load(&[&sets[2]]).unwrap_err();
        assert!(said.contains("values.ron:5, modle.dim=8: "), "{said}");
        assert!(said.contains("did you mean `model`"), "{said}");
        let said = load(&[&sets[3]]).unwrap_err();
        assert!(
            said.contains("values.ron:5, batch: write it as path=value"),
            "{said}"
        );
    }
}
