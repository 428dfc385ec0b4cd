//! Files that are there whole or not at all.

use std::{fs::File, io, path::Path};

/// Lets `write` fill a file beside `path`, flushes it to the disk and renames it to `path`: a reader, and whoever comes
/// after a power failure, sees the old file or the new one, never a part. Two processes must not write the same path at
/// the same time.
///
/// # Errors
/// What `write` answers, or the operating system; the file beside `path` is removed then.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("note.txt");
/// microdit::write_whole(&path, |path| std::fs::write(path, "whole"))?;
/// assert_eq!(std::fs::read_to_string(path)?, "whole");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_whole<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let result = write(part).and_then(|()| {
        File::options().write(true).open(part)?.sync_all()?;
        std::fs::rename(part, path)?;
        sync_folder(path)?;
        Ok(())
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(part);
    }
    result
}

/// Flushes the directory `path` lies in, which holds its name.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Other systems do not open directories, and keep names in order themselves.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let failed = write_whole(&path, |part| {
            std::fs::write(part, "ne")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
