//! What a file is, by its first bytes: extensions are given by people and may be wrong.

use super::{WeightsError, format_error, io_error};
use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

/// The formats weights are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    /// A zip archive of `torch.save`.
    Torch,
    /// A list of files, in JSON.
    Index,
}

/// Beginnings of files that are no weights, and what they are.
const FOREIGN: [(&[u8], &str); 9] = [
    (
        b"version https://git-lfs",
        "it is a pointer of git-lfs, not the file itself; get that with: git lfs pull",
    ),
    (
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
        "it is a file of PyTorch before 1.6, without a zip archive; load it in PyTorch and save it again",
    ),
    (
        b"\x80",
        "it is a bare pickle, not a file of torch.save; save a state dict with torch.save, or as safetensors",
    ),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first"),
    (
        b"(\xb5/\xfd",
        "it is compressed by Zstandard; unpack it first",
    ),
    (b"GGUF", "it is a GGUF file, which is not read"),
    (b"\x89HDF", "it is an HDF5 file, which is not read"),
    (b"\x93NUMPY", "it is a NumPy array, not a state dict"),
    (b"7z\xbc\xaf", "it is a 7z archive; unpack it first"),
];

/// Opens a regular file and says what it is.
///
/// # Errors
/// If there is none, or it is of another kind, which is named.
pub(super) fn open(path: &Path) -> Result<(File, Format), WeightsError> {
    // Opening a named pipe would wait for somebody to write into it.
    let metadata = std::fs::metadata(path).map_err(io_error(path))?;
    if !metadata.is_file() {
        let message = if metadata.is_dir() {
            "it is a directory; expected a file of weights"
        } else {
            "it is not a regular file"
        };
        return Err(format_error(path, message));
    }
    let mut file = File::open(path).map_err(io_error(path))?;
    let mut head = Vec::new();
    let read = (&mut file).take(64).read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(io_error(path))?;
    match format(&head, metadata.len()) {
        Ok(format) => Ok((file, format)),
        Err(message) => Err(format_error(path, &message)),
    }
}

/// The format of a file of `length` bytes that begins with `head`.
fn format(head: &[u8], length: u64) -> Result<Format, String> {
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Format::Torch);
    }
    // A length of 64 bits, and a header in JSON.
    if let Some((_, [b'{', ..])) = head.split_first_chunk::<8>() {
        return Ok(Format::Safetensors);
    }
    let found = FOREIGN.iter().find(|(begin, _)| head.starts_with(begin));
    if let Some((_, message)) = found {
        return Err((*message).to_owned());
    }
    let text = head.trim_ascii_start();
    if text.starts_with(b"{") {
        return Ok(Format::Index);
    }
    if text.starts_with(b"<") {
        return Err("it is a web page (HTML or XML): what was saved is not the file, but a page about it or an error".into());
    }
    if length == 0 {
        return Err("it is empty".into());
    }
    if head.iter().all(|&byte| byte == 0) {
        return Err(format!(
            "it begins with zeros: not even the first of its {length} bytes have arrived"
        ));
    }
    Err(format!(
        "its {length} bytes are neither a safetensors file nor an archive of torch.save"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_and_foreign_files_are_named() {
        for (head, expected) in [
            (&b"PK\x03\x04\0\0"[..], Format::Torch),
            (b"\x10\0\0\0\0\0\0\0{\"a\":", Format::Safetensors),
            (b" {\"weight_map\": {", Format::Index),
        ] {
            assert_eq!(format(head, 100), Ok(expected));
        }
        for (head, part) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:"[..],
                "git lfs pull",
            ),
            (b"<!DOCTYPE html>", "web page"),
            (b"\n <?xml version", "web page"),
            (
                b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80",
                "before 1.6",
            ),
            (b"\x80\x04\x95", "bare pickle"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"", "empty"),
            (&[0; 64], "zeros"),
            (b"garbage that is long enough", "neither a safetensors file"),
        ] {
            let error = format(head, head.len() as u64).unwrap_err();
            assert!(error.contains(part), "{head:?}: {error}");
        }
    }
}
