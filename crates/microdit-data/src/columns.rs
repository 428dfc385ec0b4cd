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
}
