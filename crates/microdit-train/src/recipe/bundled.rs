//! The recipes that come with the library, so that an installed program needs no checkout.
//!
//! Such a file has a path that begins with `bundled:`, which recipes may extend and sweeps may name as their base.

use super::Document;
use include_dir::{Dir, include_dir};
use std::path::{Component, Path, PathBuf};

/// What paths of bundled files begin with.
const BUNDLED: &str = "bundled:";

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../recipes");

/// The extension of recipes, which have pictures among them.
const EXTENSION: &str = ".ron";

/// A bundled recipe or definition of a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundled {
    /// Its path below `recipes/`, without the extension, such as `quickstart` or `ablations/cifar10-moe`.
    pub name: String,
    /// Its text, with comments.
    pub text: String,
}

impl Bundled {
    /// All of them, by name.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        add(&FILES, &mut all);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The one called `name`, by its whole name or, if no other ends in it, by what follows the last `/`.
    pub fn find(name: &str) -> Option<Self> {
        let all = Self::all();
        let exact = all.iter().find(|one| one.name == name);
        let last = |one: &&Self| one.name.rsplit('/').next() == Some(name);
        let mut alike = all.iter().filter(last);
        let only = alike.next().filter(|_| alike.next().is_none());
        exact.or(only).cloned()
    }

    /// The name most like `name`, if one is.
    pub fn nearest(name: &str) -> Option<String> {
        let all = Self::all().into_iter().map(|one| one.name);
        let rated = all.map(|known| (strsim::jaro_winkler(&known, name), known));
        let near = rated.filter(|(similarity, _)| *similarity > 0.7);
        let near = near.max_by(|a, b| a.0.total_cmp(&b.0));
        near.map(|(_, name)| name)
    }

    /// Whether it is a whole recipe: sweeps, and pieces that others extend, have no name.
    pub fn is_recipe(&self) -> bool {
        Document::read(&self.path()).is_ok_and(|document| document.has("name"))
    }

    /// The path it is read by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("{BUNDLED}/{}{EXTENSION}", self.name))
    }

    /// The comment it begins with, as one line; empty if it has none.
    pub fn about(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("//"));
        let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        words.join(" ")
    }

    /// Its text for a file anywhere: what it extends or is based on is named as bundled.
    pub fn copy(&self) -> String {
        let path = self.path();
        let mut text = self.text.clone();
        for key in ["extends: \"", "base: \""] {
            let Some(begin) = text.find(key).map(|place| place + key.len()) else {
                continue;
            };
            let Some(end) = text[begin..].find('"').map(|length| begin + length) else {
                continue;
            };
            let file = beside(&path, &text[begin..end]);
            text.replace_range(begin..end, &file.to_string_lossy());
        }
        text
    }
}

/// The file that `path` names by the name `other`: beside it, unless `other` is bundled itself.
pub fn beside(path: &Path, other: &str) -> PathBuf {
    let joined = match path.parent() {
        Some(folder) if !other.starts_with(BUNDLED) => folder.join(other),
        _ => PathBuf::from(other),
    };
    match within(&joined) {
        Some(file) => PathBuf::from(format!("{BUNDLED}/{file}")),
        None => joined,
    }
}

/// The text of a bundled file; none if `path` is not one, and an error if there is no such file.
pub(super) fn text(path: &Path) -> Option<Result<String, std::io::Error>> {
    let file = within(path)?;
    let text = FILES.get_file(file).and_then(|file| file.contents_utf8());
    Some(text.map(str::to_owned).ok_or_else(|| {
        std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "no such file comes with the program",
        )
    }))
}

/// Adds the files in `folder`, and in those below.
fn add(folder: &Dir<'_>, all: &mut Vec<Bundled>) {
    for file in folder.files() {
        let name = file
            .path()
            .to_str()
            .and_then(|path| path.strip_suffix(EXTENSION));
        if let (Some(name), Some(text)) = (name, file.contents_utf8()) {
            all.push(Bundled {
                name: name.to_owned(),
                text: text.to_owned(),
            });
        }
    }
    folder.dirs().for_each(|folder| add(folder, all));
}

/// The part after `bundled:/`, without `.` and `..`.
fn within(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let mut components = path.components();
    let first = components.next()?;
    if first != Component::Normal(BUNDLED.as_ref()) {
        return None;
    }
    for component in components {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;
    use std::fs;

    #[test]
    fn bundled_recipes_are_the_files_and_so_are_their_copies() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy.ron");
        for bundled in Bundled::all() {
            assert!(!bundled.about().is_empty(), "{}", bundled.name);
            // Sweeps have a base, and pieces neither that nor a name.
            let named = bundled.text.contains("\n    name: \"");
            assert_eq!(bundled.is_recipe(), named, "{}", bundled.name);
            let file = folder.join(format!("{}.ron", bundled.name));
            let recipe = match Recipe::load(&file, &[]) {
                Ok(recipe) => recipe,
                Err(error) => {
                    // The definition of a sweep, or what only others extend.
                    assert!(!bundled.is_recipe(), "{error}");
                    continue;
                }
            };
            let embedded = Recipe::load(&bundled.path(), &[]).unwrap();
            assert_eq!(embedded.source, recipe.source, "{}", bundled.name);
            fs::write(&copy, bundled.copy()).unwrap();
            let copied = Recipe::load(&copy, &[]).unwrap();
            assert_eq!(copied.source, recipe.source, "{}", bundled.name);
        }
    }

    #[test]
    fn names_are_whole_or_clear() {
        let named = |name| Bundled::find(name).map(|found| found.name);
        assert_eq!(named("quickstart").unwrap(), "quickstart");
        // Also the last part of another one.
        assert_eq!(named("cifar10").unwrap(), "cifar10");
        assert_eq!(named("cifar10-moe").unwrap(), "ablations/cifar10-moe");
        for name in [
            "",
            "quick",
            "quickstart.ron",
            "../quickstart",
            "/quickstart",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    #[test]
    fn paths_stay_within_what_is_bundled() {
        for (path, other, expected) in [
            ("bundled:/a/b.ron", "c.ron", "bundled:/a/c.ron"),
            ("bundled:/a/b.ron", "../c.ron", "bundled:/c.ron"),
            ("bundled:/b.ron", "../../c.ron", "bundled:/c.ron"),
            ("x/b.ron", "c.ron", "x/c.ron"),
            ("x/b.ron", "bundled:/c.ron", "bundled:/c.ron"),
            ("bundled:/b.ron", "/etc/passwd", "/etc/passwd"),
        ] {
            assert_eq!(beside(Path::new(path), other), Path::new(expected));
        }
        let said = Recipe::load(Path::new("bundled:/none.ron"), &[]).unwrap_err();
        assert!(said.to_string().contains("no such file comes"), "{said}");
    }
}
