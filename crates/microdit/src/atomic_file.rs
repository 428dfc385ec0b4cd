//! Files that are written whole or not at all.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// End of the name of a file that is being written.
const PART: &str = ".part";

/// Lets `fill` write a file beside `path`, flushes it to the disk and renames it to `path`: a reader sees the old file or
/// the new one, never a part, even after a power failure. Of two processes that write the same path, the last to finish
/// wins. A process that is killed may leave a file that [`is_part`] recognizes.
///
/// # Errors
/// An error of `fill` or of the operating system; the file beside `path` is then removed.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("note.txt");
/// microdit::atomic_file::write(&path, |path| std::fs::write(path, "whole"))?;
/// assert_eq!(std::fs::read_to_string(path)?, "whole");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let part = reserve(path)?;
    let result = fill(&part).and_then(|()| {
        File::options().write(true).open(&part)?.sync_all()?;
        std::fs::rename(&part, path)?;
        sync_folder(path)?;
        Ok(())
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&part);
    }
    result
}

/// Whether `name` is that of a file [`write()`] has not finished: `NAME.PROCESS-NUMBER.part`.
pub fn is_part(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_suffix(PART)
        .and_then(|name| name.rsplit_once('.'))
        .and_then(|(name, number)| Some((name, number.split_once('-')?)))
        .is_some_and(|(name, (process, number))| {
            !name.is_empty() && digits(process) && digits(number)
        })
}

/// An empty file beside `path` that no other process or thread has.
fn reserve(path: &Path) -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut part = OsString::from(path);
        part.push(format!(".{}-{number}{PART}", process::id()));
        match File::create_new(&part) {
            Ok(_) => return Ok(part.into()),
            // Left by a killed process of the same number, or taken by one on another machine.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
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
    use std::fs;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let failed = write(&path, |part| {
            fs::write(part, "ne")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writers_of_one_path_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let texts: Vec<String> = (0..8).map(|i| i.to_string().repeat(1 << 16)).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                let path = &path;
                scope.spawn(move || write(path, |part| fs::write(part, text)).unwrap());
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert!(texts.contains(&text), "a mixture of two files");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_our_own_parts_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.b.json");
        let part = reserve(&path).unwrap();
        assert!(is_part(part.file_name().unwrap().to_str().unwrap()));
        for foreign in [
            "a.part",
            "notes.v1-2.part",
            ".1-2.part",
            "a.1-2",
            "a.1-.part",
        ] {
            assert!(!is_part(foreign), "{foreign}");
        }
    }
}
