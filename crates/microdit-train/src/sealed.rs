//! Records under a checksum, and the files they vouch for: what is loaded is what was saved, bit for bit.

use crate::error::TrainError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Read,
    path::{Component, Path},
};

/// Files of a directory by their names.
pub(crate) type Files = BTreeMap<String, Sum>;

/// Size and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    bytes: u64,
    crc32c: u32,
}

impl Sum {
    /// Reads the file at `path`.
    pub(crate) fn of(path: &Path) -> Result<Self, TrainError> {
        Self::of_all([path])
    }

    /// Bytes and checksum.
    pub(crate) fn parts(self) -> (u64, u32) {
        (self.bytes, self.crc32c)
    }

    /// Reads several files, as if they were one.
    pub(crate) fn of_all<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, TrainError> {
        let mut buffer = vec![0; 1 << 20];
        let (mut bytes, mut crc32c) = (0, 0);
        for path in paths {
            let mut file = File::open(path).map_err(TrainError::io(path))?;
            loop {
                let count = file.read(&mut buffer).map_err(TrainError::io(path))?;
                if count == 0 {
                    break;
                }
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..count]);
                bytes += count as u64;
            }
        }
        Ok(Self { bytes, crc32c })
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of checksum {:08x}", self.bytes, self.crc32c)
    }
}

/// The sums of `names` in `folder`.
pub(crate) fn sums(folder: &Path, names: &[String]) -> Result<Files, TrainError> {
    let sum = |name: &String| Ok((name.clone(), Sum::of(&folder.join(name))?));
    names.iter().map(sum).collect()
}

/// Checks that `folder` holds `files` as they were saved; says what is wrong with the first that is not.
pub(crate) fn check_contents(folder: &Path, files: &Files) -> Result<(), String> {
    for (name, expected) in files {
        // A record names what lies beside it, and nothing else.
        if !matches!(
            Path::new(name).components().collect::<Vec<_>>()[..],
            [Component::Normal(_)]
        ) {
            return Err(format!("`{name}` is not the name of a file beside it"));
        }
        let found = Sum::of(&folder.join(name)).map_err(|error| error.to_string())?;
        if found != *expected {
            return Err(format!("{name}: expected {expected}, found {found}"));
        }
    }
    Ok(())
}

/// Whether `folder` holds files of these names and sizes: quick, for where nothing is loaded.
pub(crate) fn has_sizes(folder: &Path, files: &Files) -> bool {
    files.iter().all(|(name, expected)| {
        fs::metadata(folder.join(name))
            .is_ok_and(|found| found.is_file() && found.len() == expected.bytes)
    })
}

/// JSON of a struct whose last key is the checksum of all that comes before it.
pub(crate) fn seal(record: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(record).expect("a record is plain data");
    let body = text.strip_suffix("\n}").expect("a record has fields");
    format!("{body}{}", ending(body.as_bytes()))
}

/// The record in `text`, if no bit of it has changed since it was sealed.
pub(crate) fn unseal<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let body = text.len().saturating_sub(ending(b"").len());
    let (body, found) = text.split_at(body);
    if found != ending(body).as_bytes() {
        return Err("it does not have the checksum it was saved with".into());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn ending(body: &[u8]) -> String {
    format!(",\n  \"crc32c\": \"{:08x}\"\n}}\n", crc32c::crc32c(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "abc").unwrap();
        let files = sums(folder.path(), &["a".to_owned()]).unwrap();
        check_contents(folder.path(), &files).unwrap();
        let sealed = seal(&files).into_bytes();
        assert_eq!(
            unseal::<serde_json::Value>(&sealed).unwrap()["a"]["bytes"],
            3
        );
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<serde_json::Value>(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal::<serde_json::Value>(&sealed[..length]).is_err());
        }
        fs::write(folder.path().join("a"), "abd").unwrap();
        assert!(has_sizes(folder.path(), &files));
        assert!(
            check_contents(folder.path(), &files)
                .unwrap_err()
                .contains("a: expected")
        );
        fs::remove_file(folder.path().join("a")).unwrap();
        assert!(!has_sizes(folder.path(), &files));
        let outside: Files = [("../a".to_owned(), files["a"])].into();
        assert!(check_contents(folder.path(), &outside).is_err());
    }
}
