//! Which files of a directory are images, and how the paths in tables are resolved.

use crate::{
    error::DataError,
    image::{READ, UNREAD, looks_like_a_picture},
};
use std::{
    collections::HashSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Extensions of files found beside images: their contents need not be checked.
const OTHERS: [&str; 22] = [
    "txt", "caption", "text", "json", "jsonl", "ndjson", "csv", "tsv", "parquet", "npy", "npz",
    "tar", "zip", "gz", "zst", "md", "ron", "yaml", "yml", "html", "py", "lock",
];

/// The pictures in a directory and its directories, in the order of their paths: those that are read, and those that look like pictures
/// too. A directory reachable by several paths is visited once.
pub(super) fn pictures(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut walk = Walk {
        visited: HashSet::new(),
        paths: Vec::new(),
        linked: Vec::new(),
    };
    walk.visit(root)?;
    // Files reached by their own path keep that name.
    while let Some(folder) = walk.linked.pop() {
        walk.visit(&folder)?;
    }
    walk.paths.sort();
    Ok(walk.paths)
}

struct Walk {
    visited: HashSet<PathBuf>,
    paths: Vec<PathBuf>,
    /// Directories behind symbolic links.
    linked: Vec<PathBuf>,
}

impl Walk {
    fn visit(&mut self, root: &Path) -> Result<(), DataError> {
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let identity = folder.canonicalize().map_err(DataError::io(&folder))?;
            if !self.visited.insert(identity) {
                continue;
            }
            for entry in std::fs::read_dir(&folder).map_err(DataError::io(&folder))? {
                let entry = entry.map_err(DataError::io(&folder))?;
                let path = entry.path();
                let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                // A dangling link is not a directory.
                let kind = std::fs::metadata(&path).ok();
                match kind {
                    Some(kind) if kind.is_dir() && linked => self.linked.push(path),
                    Some(kind) if kind.is_dir() => folders.push(path),
                    kind => {
                        if is_picture(&path, kind.is_some_and(|kind| kind.is_file())) {
                            self.paths.push(path);
                        }
                    }
                }
            }
        }
        self.linked.sort_by(|one, other| other.cmp(one));
        Ok(())
    }
}

/// Judged by its extension, or by its first bytes if the extension says nothing.
fn is_picture(path: &Path, regular: bool) -> bool {
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let extension = extension.as_str();
    if READ.contains(&extension) || UNREAD.contains(&extension) {
        return true;
    }
    if OTHERS.contains(&extension) || !regular {
        return false;
    }
    let mut beginning = Vec::new();
    let file = File::open(path);
    file.is_ok_and(|file| {
        file.take(512).read_to_end(&mut beginning).is_ok() && looks_like_a_picture(&beginning)
    })
}

/// The file that a path in a table means, relative to the directory of the table: `./a`, `a//b`, `a/../b` and `a\b` are understood, and
/// names without their extension, as identifiers are.
///
/// # Errors
/// A path that leads out of the directory.
pub(super) fn resolve(root: &Path, text: &str) -> Result<PathBuf, String> {
    let plain = inside(root, text);
    // A file name may contain a backslash, but rarely does.
    if let Ok(path) = &plain
        && (path.is_file() || !text.contains('\\'))
    {
        return Ok(whole(path));
    }
    match text.contains('\\') {
        true => Ok(whole(&inside(root, &text.replace('\\', "/"))?)),
        false => plain,
    }
}

/// The path under `root`; links inside are trusted, since whoever made the directory put them there.
fn inside(root: &Path, text: &str) -> Result<PathBuf, String> {
    let out = || format!("a path that leads out of the directory: {text}");
    // A whole path may lead into the directory too.
    let relative = match Path::new(text).is_absolute() {
        true => {
            let whole = root.canonicalize().ok();
            let relative = [Some(root), whole.as_deref()].into_iter().flatten();
            let relative = relative
                .filter_map(|root| Path::new(text).strip_prefix(root).ok())
                .next();
            relative.ok_or_else(out)?.to_string_lossy().into_owned()
        }
        false => text.to_owned(),
    };
    let mut parts = Vec::new();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(out)?;
            }
            part => parts.push(part),
        }
    }
    let mut path = root.to_owned();
    path.extend(parts);
    Ok(path)
}

/// The path, or the path with an extension where only that exists. Numbers are also tried with twelve digits, as COCO writes them.
fn whole(path: &Path) -> PathBuf {
    if path.extension().is_some() || path.is_file() {
        return path.to_owned();
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let number = name.parse::<u64>().map(|number| format!("{number:012}"));
    for name in std::iter::once(name).chain(number) {
        for extension in READ {
            let candidate = path.with_file_name(format!("{name}.{extension}"));
            if candidate.is_file() {
                return candidate;
            }
        }
    }
    path.to_owned()
}
