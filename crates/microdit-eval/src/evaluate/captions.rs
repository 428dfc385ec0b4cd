//! Which captions of a set are drawn: the same ones for everybody who draws as many.

use super::{error::EvaluateError, pictures::PictureSet};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Captions of `count` of the pictures, those whose names have the smallest SHA-256, in that order: a fair choice from a set
/// in any order, and the first part of every longer one. Fewer if there are fewer.
///
/// # Errors
/// Pictures that cannot be read, and a set without captions.
pub fn captions(set: &PictureSet, count: usize) -> Result<Vec<String>, EvaluateError> {
    let mut chosen = BTreeMap::<[u8; 32], String>::new();
    set.for_each(|picture| {
        let Some(caption) = picture.caption.filter(|caption| !caption.is_empty()) else {
            return Ok(true);
        };
        let rank: [u8; 32] = Sha256::digest(picture.name.as_bytes()).into();
        chosen.insert(rank, caption);
        if chosen.len() > count {
            chosen.pop_last();
        }
        Ok(true)
    })?;
    match chosen.is_empty() {
        true => Err(EvaluateError::NoCaptions {
            name: set.name().to_owned(),
        }),
        false => Ok(chosen.into_values().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_captions_begin_with_fewer() {
        let set = PictureSet::of_shapes(16, 50).unwrap();
        let all = captions(&set, 100).unwrap();
        assert_eq!(all.len(), 50);
        assert_eq!(captions(&set, 7).unwrap(), all[..7]);
    }
}
