//! Texts longer than an encoder's context.

use std::fmt;

/// Words of the lost part that are shown.
const SHOWN: usize = 5;

/// The part of a text that an encoder truncates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of the whole text, those that mark its start and end included.
    pub tokens: usize,
    /// Tokens that are read.
    pub limit: usize,
    /// The first words that are lost.
    pub lost: String,
}

impl Cut {
    /// A text of `tokens`: `limit` of them are read, `lost` is not.
    pub(crate) fn new(tokens: usize, limit: usize, lost: &str) -> Self {
        let mut words = lost.split_whitespace();
        let mut shown: Vec<&str> = words.by_ref().take(SHOWN).collect();
        if words.next().is_some() {
            shown.push("...");
        }
        Self {
            tokens,
            limit,
            lost: shown.join(" "),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tokens,
            limit,
            lost,
        } = self;
        write!(
            f,
            "{tokens} tokens, of which the encoder reads {limit}; lost: {lost}"
        )
    }
}
