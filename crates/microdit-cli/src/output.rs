//! Output paths, checked before a command works: only regular files are replaced, and what cannot
//! be written is reported at once rather than at the end.

use microdit_encoders::PictureFormat;
use miette::miette;
use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

/// Checks that a file can be written at `path`, over a regular file or where there is nothing, in a directory that is
/// there.
pub(crate) fn file(path: &Path) -> miette::Result<()> {
    if path.file_name().is_none() || ends_with_separator(path) {
        return Err(miette!("{} is not the name of a file", path.display()));
    }
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            let kind = match found.file_type() {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_symlink() => "a symbolic link",
                _ => "not a regular file",
            };
            return Err(miette!(
                "{} is {kind} and is not replaced; give the name of a file",
                path.display()
            ));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(unwritable(path, error)),
        _ => {}
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(miette!(
            "{} cannot be written: there is no directory {}",
            path.display(),
            folder.display()
        ));
    }
    // Under the name it is written by first, before it is renamed.
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    match File::create_new(&part) {
        Ok(_) => fs::remove_file(&part).map_err(|error| unwritable(path, error)),
        // Left by a process that was killed.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && Path::new(&part).is_file() => {
            Ok(())
        }
        Err(error) => Err(unwritable(path, error)),
    }
}

/// As [`file`], for a picture, whose extension says how it is written.
pub(crate) fn picture(path: &Path) -> miette::Result<()> {
    if PictureFormat::of(path).is_none() {
        return Err(miette!(
            "{}: pictures are written as .png, .jpg, .jpeg or .webp; give the file such an extension",
            path.display()
        ));
    }
    file(path)
}

/// Checks that `path` is a directory, or that one can be created there with those above it.
pub(crate) fn folder(path: &Path) -> miette::Result<()> {
    let present = path
        .ancestors()
        .find(|path| path.symlink_metadata().is_ok());
    match present {
        Some(present) if !present.is_dir() => Err(miette!(
            "{} cannot be created: {} is not a directory",
            path.display(),
            present.display()
        )),
        _ => Ok(()),
    }
}

fn ends_with_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn unwritable(path: &Path, error: std::io::Error) -> miette::Report {
    miette!("{} cannot be written: {error}", path.display())
}
