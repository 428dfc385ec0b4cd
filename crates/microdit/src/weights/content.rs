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
    /// A file of `torch.save`.
    Torch(Layout),
    /// A list of files, in JSON.
    Index,
}

/// The layouts of `torch.save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A zip archive, since PyTorch 1.6.
    Zip,
    /// Pickles and storages one after the other, before.
    Legacy,
}

/// Bytes at the beginning of a file by which it is told: the first record of a tar.
const HEAD: u64 = 512;

/// Where a tar says that it is one, and how.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// PyTorch's magic number as a pickle has it: an integer of ten bytes, and the pickle's end.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Beginnings of files that are no weights, and what they are.
const FOREIGN: [(&[u8], &str); 8] = [
    (
        b"version https://git-lfs",
        "it is a pointer of git-lfs, not the file itself; get that with: git lfs pull",
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
    let read = (&mut file).take(HEAD).read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(io_error(path))?;
    match format(&head, metadata.len()) {
        Ok(format) => Ok((file, format)),
        Err(message) => Err(format_error(path, &message)),
    }
}

/// The format of a file of `length` bytes that begins with `head`.
fn format(head: &[u8], length: u64) -> Result<Format, String> {
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Format::Torch(Layout::Zip));
    }
    if is_legacy(head) {
        return Ok(Format::Torch(Layout::Legacy));
    }
    // A length of 64 bits, and a header in JSON.
    if let Some((_, [b'{', ..])) = head.split_first_chunk::<8>() {
        return Ok(Format::Safetensors);
    }
    let found = FOREIGN.iter().find(|(begin, _)| head.starts_with(begin));
    if let Some((_, message)) = found {
        return Err((*message).to_owned());
    }
    let (place, mark) = TAR;
    if head.get(place..).is_some_and(|rest| rest.starts_with(mark)) {
        return Err("it is a tar archive, not a file of weights; unpack it, or if PyTorch 0.1 saved it (up to 2017), which wrote tars, load it in PyTorch and save it again: torch.save(torch.load(OLD, weights_only=False), NEW), which runs what the file says".into());
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

/// Whether a file begins with a pickle of PyTorch's magic number: an opcode for the pickle's version, since version 4 one for the
/// length of what follows, and the number.
fn is_legacy(head: &[u8]) -> bool {
    let [0x80, _, rest @ ..] = head else {
        return false;
    };
    rest.starts_with(MAGIC)
        || rest.first() == Some(&0x95) && rest.get(9..).is_some_and(|rest| rest.starts_with(MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_and_foreign_files_are_named() {
        for (head, expected) in [
            (&b"PK\x03\x04\0\0"[..], Format::Torch(Layout::Zip)),
            (
                b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
                Format::Torch(Layout::Legacy),
            ),
            (
                b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80",
                Format::Torch(Layout::Legacy),
            ),
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
                &[b"sys_info", &[0; 249][..], b"ustar\0"].concat(),
                "if PyTorch 0.1 saved it",
            ),
            (b"\x80\x04\x95", "bare pickle"),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c", "bare pickle"),
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
