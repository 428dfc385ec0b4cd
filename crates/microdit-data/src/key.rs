//! Keys of samples in shards: unique within a dataset, and unchanged by writing, splitting and reading.
//!
//! Readers, `webdataset` in Rust as in Python, take what comes before the first dot after the last slash for the key, and
//! consecutive files with one key for a sample. So `a/b.c.jpg` is written as `a/b%2Ec.jpg`: what would be misread is
//! escaped by its bytes as in web addresses, `%2E`; letters, digits and all else stay. A part of a path without a name, as
//! in `a//b`, is a `%` alone. A repeated key gets `~2`, then `~3`; a `~` in the name of a file is escaped.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// The key made of a file's path: two paths never have one key.
pub(crate) fn of_path(path: &str) -> String {
    escape(path, |c| matches!(c, '%' | '~'))
}

/// The key of a sample that already had one: the same, unless that could not be read back.
pub fn of_key(key: &str) -> String {
    escape(key, |_| false)
}

/// A name in bytes as text; bytes that are not UTF-8 are written `\xFF`.
pub(crate) fn readable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

fn escape(name: &str, more: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (i, part) in name.split('/').enumerate() {
        if i > 0 {
            escaped.push('/');
        }
        if part.is_empty() {
            escaped.push('%');
        }
        // Readers take names that begin with two underscores for the shard's own metadata.
        let reserved = i == 0 && part.starts_with("__");
        for (at, c) in part.char_indices() {
            let (first, last) = (at == 0, at + c.len_utf8() == part.len());
            let lost = matches!(c, '.' | '\\') || c.is_control();
            let trimmed = (first || last) && c.is_whitespace();
            if lost || trimmed || (first && reserved) || more(c) {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(escaped, "%{byte:02X}");
                }
            } else {
                escaped.push(c);
            }
        }
    }
    escaped
}

/// Keys already in use. Only a hash of each is kept: 12 million take some 300 MB.
#[derive(Debug, Default)]
pub struct Unique {
    /// How often each key was requested.
    asked: HashMap<u64, u32>,
}

impl Unique {
    /// `key`, or if it is taken, the first free one of `key~2`, `key~3`, ...
    pub fn give(&mut self, key: String) -> String {
        let mut count = match self.asked.entry(hash(&key)) {
            Entry::Vacant(free) => {
                free.insert(1);
                return key;
            }
            Entry::Occupied(taken) => *taken.get(),
        };
        loop {
            count += 1;
            let next = format!("{key}~{count}");
            if let Entry::Vacant(free) = self.asked.entry(hash(&next)) {
                free.insert(1);
                self.asked.insert(hash(&key), count);
                return next;
            }
        }
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readers_would_take_for_something_else_is_escaped() {
        for (path, key) in [
            ("plain-name_7 é", "plain-name_7 é"),
            ("d/e.jpg", "d/e%2Ejpg"),
            ("a%b~2", "a%25b%7E2"),
            ("../x", "%2E%2E/x"),
            ("/a//b/", "%/a/%/b/%"),
            ("", "%"),
            (" a ", "%20a%20"),
            ("a\nb\\c", "a%0Ab%5Cc"),
            ("__index__/x", "%5F_index__/x"),
            ("d/__x__", "d/__x__"),
        ] {
            assert_eq!(of_path(path), key, "{path:?}");
            // What is escaped already is not escaped again.
            assert_eq!(of_key(key), key);
        }
        assert_eq!(readable(b"caf\xe9/\xff"), "caf\\xE9/\\xFF");
    }

    #[test]
    fn a_key_is_given_away_once() {
        let mut unique = Unique::default();
        let given: Vec<String> = ["a", "a~2", "a", "a", "b", "a~2"]
            .into_iter()
            .map(|key| unique.give(key.to_owned()))
            .collect();
        assert_eq!(given, ["a", "a~2", "a~3", "a~4", "b", "a~2~2"]);
    }
}
