//! A blinded study: people say which of two pictures is better, without knowing whose they are.
//!
//! [`page`] writes one file with all pairs. A voter's name decides in which order the pairs come and which picture of each
//! stands on the left. Every picture goes by a token, [`Study::token`], so that neither the page nor a file of votes shows at a glance
//! whose it is; the tokens follow from the study's identity, which the page holds, so that it is no secret from one who reads
//! its source and computes them. [`Tally`] reads the votes and says what they come to.

mod agreement;
mod error;
mod page;
mod pictures;
mod share;
mod tally;
mod votes;

pub use agreement::krippendorff;
pub use error::StudyError;
pub use page::page;
pub use pictures::{Pair, pairs};
pub use share::Share;
pub use tally::Tally;
pub use votes::{Answer, Ballot, Vote, read_ballots};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Whose a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The first folder's.
    A,
    /// The second's.
    B,
}

/// What a study is, as its page and its votes carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// A hash of all that is shown, in hexadecimal digits.
    id: String,
    /// What the first side is called in the results.
    pub a: String,
    /// What the second is called.
    pub b: String,
    /// Number of pairs.
    pub pairs: usize,
}

impl Study {
    /// The study that shows `pairs`, of which `a` and `b` are the names.
    pub fn new(a: &str, b: &str, pairs: &[Pair]) -> Self {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            // Lengths keep a part from running into the next.
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for text in ["microdit study 1", a, b] {
            add(text.as_bytes());
        }
        for pair in pairs {
            add(pair.prompt.as_bytes());
            pair.pictures.iter().for_each(|picture| add(picture));
        }
        Self {
            id: hexadecimal(&hasher.finalize()[..16]),
            a: a.to_owned(),
            b: b.to_owned(),
            pairs: pairs.len(),
        }
    }

    /// What a picture goes by: 16 hexadecimal digits of a hash of study, pair and side.
    pub fn token(&self, pair: usize, side: Side) -> String {
        let text = format!("{} {pair} {side:?}", self.id);
        hexadecimal(&Sha256::digest(text)[..8])
    }

    /// Whose picture goes by `token` in a pair.
    pub fn side(&self, pair: usize, token: &str) -> Option<Side> {
        let sides = [Side::A, Side::B].into_iter();
        sides.clone().find(|side| self.token(pair, *side) == token)
    }

    /// As pages and votes carry it: in base64, so that it is not read at a glance.
    fn encode(&self) -> String {
        let text = serde_json::to_string(self).expect("a study is plain data");
        STANDARD.encode(text)
    }

    /// What was [encoded](Self::encode).
    fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart_and_back() {
        let pair = |picture: u8| Pair {
            prompt: "a fox".into(),
            pictures: [vec![picture], vec![2]],
        };
        let study = Study::new("one", "other", &[pair(1), pair(3)]);
        let mut all = Vec::new();
        for number in 0..2 {
            for side in [Side::A, Side::B] {
                let token = study.token(number, side);
                assert_eq!(study.side(number, &token), Some(side));
                assert_eq!(study.side(1 - number, &token), None);
                all.push(token);
            }
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        assert_eq!(Study::decode(&study.encode()), Some(study.clone()));
        assert_eq!(Study::decode("no study"), None);
        // Other pictures, another study.
        assert_ne!(Study::new("one", "other", &[pair(4), pair(3)]).id, study.id);
    }
}
