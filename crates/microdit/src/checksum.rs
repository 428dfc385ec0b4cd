//! Checksums, by which files are told apart whatever they are called.

use sha2::{Digest, Sha256};
use std::{fs::File, io, path::Path};

/// Length and SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// If it cannot be read.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("file");
/// std::fs::write(&path, "abc")?;
/// let (bytes, sha256) = microdit::checksum::of_file(&path)?;
/// assert_eq!((bytes, &sha256[..8]), (3, "ba7816bf"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn of_file(path: &Path) -> io::Result<(u64, String)> {
    let mut digest = Sha256::new();
    let bytes = io::copy(&mut File::open(path)?, &mut digest)?;
    Ok((bytes, hexadecimal(&digest.finalize())))
}

/// Bytes, such as those of a digest, in lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
