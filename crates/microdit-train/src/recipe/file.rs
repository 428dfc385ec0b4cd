//! What a recipe's file may contain, and which names are valid.

use super::{bundled, problem};
use crate::error::TrainError;
use microdit::range::{OutOfRange, require};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Most characters of a name.
const MAX_NAME: usize = 100;

/// Most bytes of a name: with the time appended, it must be valid for a directory.
const MAX_NAME_BYTES: usize = 200;

/// The text of a recipe's file, `room` bytes at most, without the mark some editors put before it.
pub(super) fn read_text(path: &Path, room: usize) -> Result<String, TrainError> {
    if let Some(text) = bundled::text(path) {
        return text.map_err(TrainError::io(path));
    }
    let wrong = |message: &str| problem(&path.display().to_string(), &message);
    let is_file = fs::metadata(path).map_err(TrainError::io(path))?.is_file();
    // A pipe would be waited for, a device read without end.
    if !is_file {
        return Err(wrong("is not a regular file; a recipe is one"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(TrainError::io(path))?;
    let read = file.take(room as u64 + 1).read_to_end(&mut bytes);
    read.map_err(TrainError::io(path))?;
    if bytes.len() > room {
        return Err(wrong(
            "is too long for a recipe, which has a MiB with all it extends",
        ));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(wrong("is UTF-16 text; save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        wrong(&format!(
            "is not UTF-8 text at byte {place}; save it as UTF-8"
        ))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

/// Checks the value of a key `name`, which becomes part of a path: of a directory with `dots`, else of a `--set`.
pub(super) fn validate_name(name: &str, dots: bool) -> Result<(), OutOfRange> {
    let mark = |c: char| " -_+".contains(c) || (dots && c == '.');
    let known = name.chars().all(|c| c.is_alphanumeric() || mark(c));
    let count = name.chars().count();
    let edges = name.trim() == name && !name.starts_with('.');
    let holds = known && edges && (1..=MAX_NAME).contains(&count) && name.len() <= MAX_NAME_BYTES;
    require(holds, "name", || {
        let marks = if dots {
            "`-`, `_`, `+` and `.`"
        } else {
            "`-`, `_` and `+`"
        };
        let shown: String = name.chars().take(MAX_NAME).collect();
        format!(
            "a name is 1 to {MAX_NAME} letters, digits, {marks} (spaces inside), in {MAX_NAME_BYTES} bytes, and begins with no dot, unlike {shown:?}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_where_they_are_put() {
        for name in ["tiny", "256-masked", "XL 2", "été", "a+b_c", "v1.2"] {
            assert!(validate_name(name, true).is_ok(), "{name}");
        }
        let long = "a".repeat(300);
        let wide = "漢".repeat(100);
        let broken = [
            "",
            ".",
            "..",
            ".hidden",
            "../x",
            "../../x",
            "/tmp/x",
            "a/b",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
            "\u{1b}[31m",
            " a",
            "a ",
            "a*",
            "~",
            "$HOME",
            "\u{202e}x",
            &long,
            &wide,
        ];
        for name in broken {
            assert!(validate_name(name, true).is_err(), "{name:?}");
        }
        assert!(validate_name("v1.2", false).is_err());
    }

    #[test]
    fn only_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ron");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_text(&path, 20).map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}(a: 1)".as_bytes()).unwrap(), "(a: 1)");
        assert!(read(&[0xff, 0xfe, b'(', 0]).unwrap_err().contains("UTF-16"));
        assert!(read(b"(a: \xe9)").unwrap_err().contains("byte 4"));
        assert!(read(&[b' '; 20]).is_ok());
        assert!(read(&[b' '; 21]).unwrap_err().contains("too long"));
        for path in [folder.path(), Path::new("/dev/zero")] {
            let error = read_text(path, 20).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }
}
