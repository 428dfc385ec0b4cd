//! What a text encoder does not read of a text.

use super::TextEncoder;
use crate::cut::Cut;
use microdit::DitBackend;
use tokenizers::{Encoding, Tokenizer};

impl<B: DitBackend> TextEncoder<B> {
    /// What [`encode`](Self::encode) cuts off a caption; nothing if all of it is read.
    pub fn cut(&self, caption: &str) -> Option<Cut> {
        match self {
            Self::Clip(_, tokenizer, _) => tokenizer.cut(caption, self.tokens()),
            Self::T5(_, tokenizer, limit) => pieces_cut(tokenizer, caption, *limit),
        }
    }
}

/// Likewise, of a tokenizer that cuts by itself and keeps what it cut off.
fn pieces_cut(tokenizer: &Tokenizer, caption: &str, limit: usize) -> Option<Cut> {
    let encoding = tokenizer.encode(caption, true).ok()?;
    let own = |encoding: &Encoding| {
        let marks = encoding.get_special_tokens_mask();
        marks.iter().filter(|&&mark| mark == 0).count()
    };
    let rest = encoding.get_overflowing();
    let lost: usize = rest.iter().map(own).sum();
    let first = rest.iter().find_map(|part| {
        let tokens = part
            .get_offsets()
            .iter()
            .zip(part.get_special_tokens_mask());
        let (&(start, _), _) = tokens.into_iter().find(|&(_, &mark)| mark == 0)?;
        Some(start)
    })?;
    let text = caption.get(first..).unwrap_or_default();
    Some(Cut::new(encoding.len() + lost, limit, text))
}
