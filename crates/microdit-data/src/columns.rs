//! The names of images and captions: columns of tables and of MDS shards, members of tars.

use serde::{Deserialize, Serialize};

/// Names of what holds a picture and a caption: columns of a table or of an MDS shard, or the endings of the members of a tar. Without
/// names, the common ones are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The picture, or in tables its path relative to the directory; of several names the first that exists.
    pub image: Names,
    /// Its caption; of several names the first that exists.
    pub caption: Names,
    /// Whether every caption makes a sample, not only the first.
    pub every_caption: bool,
    /// In place of `caption`: several captions that a sample keeps side by side, such as a long one and a short one, from which training
    /// draws. A sample needs one of them.
    pub captions: Vec<String>,
}

impl Columns {
    /// Several captions by these names.
    pub fn of_captions(names: &[String]) -> Self {
        Self {
            captions: names.to_vec(),
            ..Self::default()
        }
    }

    /// The names of captions: those of several, or else of one, or the common ones.
    pub(crate) fn captions_or<'a>(&'a self, common: &'a [&'a str]) -> Vec<&'a str> {
        match &self.captions[..] {
            [] => self.caption.or(common).collect(),
            names => names.iter().map(String::as_str).collect(),
        }
    }

    /// Checks the names of several captions.
    ///
    /// # Errors
    /// The key, what was expected, what was found.
    pub fn validate(&self) -> Result<(), String> {
        check_names(&self.captions).map_err(|error| format!("captions: {error}"))?;
        let one = self.caption != Names::default() || self.every_caption;
        if one && !self.captions.is_empty() {
            return Err("captions: several captions are named besides `caption` or `every_caption`; name all of them here, and nothing there".into());
        }
        Ok(())
    }
}

/// Longest name of one of several captions, in bytes: it is part of the names of files.
const MAX_NAME: usize = 60;

/// Checks names of several captions: each 1 to 60 letters, digits, `-`, `_` and `.`, and none twice.
///
/// # Errors
/// What was expected, what was found.
pub fn check_names(names: &[String]) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            return Err(format!(
                "{name:?} is no name of a caption; expected 1 to {MAX_NAME} letters, digits, -, _ and ."
            ));
        }
        if names[..i].contains(name) {
            return Err(format!("{name} is listed twice"));
        }
    }
    Ok(())
}

/// A name or several: `"caption"` or `["caption", "text"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct Names(Vec<String>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Names {
    fn from(names: OneOrMany) -> Self {
        match names {
            OneOrMany::One(name) => Self(vec![name]),
            OneOrMany::Many(names) => Self(names),
        }
    }
}

impl From<Names> for OneOrMany {
    fn from(Names(mut names): Names) -> Self {
        match names.len() {
            1 => Self::One(names.remove(0)),
            _ => Self::Many(names),
        }
    }
}

impl Names {
    /// Those given, or else the common ones.
    pub(crate) fn or<'a>(&'a self, common: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        let common = if self.0.is_empty() { common } else { &[] };
        self.0
            .iter()
            .map(String::as_str)
            .chain(common.iter().copied())
    }
}

impl<const N: usize> From<[&str; N]> for Names {
    fn from(names: [&str; N]) -> Self {
        Self(names.map(str::to_owned).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_or_several_are_read_and_written() {
        for (text, image) in [
            ("(image: \"a\")", vec!["a"]),
            ("(image: [\"a\", \"b\"])", vec!["a", "b"]),
            ("()", vec!["x"]),
        ] {
            let columns: Columns = ron::from_str(text).unwrap();
            assert_eq!(columns.image.or(&["x"]).collect::<Vec<_>>(), image);
            let json = serde_json::to_string(&columns).unwrap();
            assert_eq!(serde_json::from_str::<Columns>(&json).unwrap(), columns);
        }
        assert!(ron::from_str::<Columns>("(picture: \"a\")").is_err());
    }

    #[test]
    fn names_of_several_captions_are_checked() {
        let check = |text: &str| ron::from_str::<Columns>(text).unwrap().validate();
        assert_eq!(check(r#"(captions: ["long", "short.txt"])"#), Ok(()));
        for (text, part) in [
            (r#"(captions: ["a", "a"])"#, "a is listed twice"),
            (r#"(captions: ["a/b"])"#, "no name of a caption"),
            (r#"(captions: [""])"#, "no name of a caption"),
            (r#"(captions: ["a"], caption: "b")"#, "besides `caption`"),
            (r#"(captions: ["a"], every_caption: true)"#, "every_caption"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
