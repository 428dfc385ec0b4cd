//! The built-in caption encoder: one random but fixed vector per word.

use crate::cut::Cut;
use microdit::rng::{Purpose, Stream};

/// Encodes a caption as one vector per word plus its position, padded or cut to a fixed length.
///
/// A stand-in for CLIP that needs no download. It knows nothing of meaning: "cat" and "cats" are as unrelated as "cat" and
/// "sky". That is enough where the captions' words are few.
///
/// ```
/// use microdit_encoders::HashedWords;
/// let encoder = HashedWords { tokens: 4, channels: 8 };
/// let one = encoder.encode(&["A red circle."]);
/// assert_eq!(one.len(), 4 * 8);
/// assert_eq!(one, encoder.encode(&["a RED circle"]));
/// assert_ne!(one, encoder.encode(&["circle a red"]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedWords {
    /// Words kept, and padded to.
    pub tokens: usize,
    /// Channels of a vector.
    pub channels: usize,
}

impl HashedWords {
    /// Captions to `[batch, tokens, channels]`, row-major.
    pub fn encode(&self, captions: &[impl AsRef<str>]) -> Vec<f32> {
        let mut out = Vec::with_capacity(captions.len() * self.tokens * self.channels);
        for caption in captions {
            let lower = caption.as_ref().to_lowercase();
            let words = words(&lower);
            // No word is empty, so the empty word can stand for padding.
            let padded = words.chain(std::iter::repeat("")).take(self.tokens);
            for (position, word) in padded.enumerate() {
                let vector = Stream::named(0, Purpose::Word, word).normal(self.channels);
                let place = (0..self.channels).map(|i| self.position(position, i));
                out.extend(vector.iter().zip(place).map(|(value, place)| value + place));
            }
        }
        out
    }

    /// What [`encode`](Self::encode) cuts off a caption; nothing if all of it is read.
    ///
    /// ```
    /// use microdit_encoders::HashedWords;
    /// let encoder = HashedWords { tokens: 3, channels: 8 };
    /// assert_eq!(encoder.cut("A red circle."), None);
    /// let cut = encoder.cut("a red circle, above a blue square").expect("seven words");
    /// assert_eq!((cut.tokens, cut.limit, cut.lost.as_str()), (7, 3, "above a blue square"));
    /// ```
    pub fn cut(&self, caption: &str) -> Option<Cut> {
        let lower = caption.to_lowercase();
        let lost: Vec<&str> = words(&lower).skip(self.tokens).collect();
        let tokens = self.tokens + lost.len();
        (!lost.is_empty()).then(|| Cut::new(tokens, self.tokens, &lost.join(" ")))
    }

    /// Sinusoidal position (arXiv 1706.03762, section 3.5).
    fn position(&self, position: usize, channel: usize) -> f32 {
        let exponent = (channel / 2 * 2) as f64 / self.channels as f64;
        let angle = position as f64 / 10_000f64.powf(exponent);
        let wave = if channel.is_multiple_of(2) {
            angle.sin()
        } else {
            angle.cos()
        };
        wave as f32
    }
}

/// The words of a caption in lower case; none is empty.
fn words(caption: &str) -> impl Iterator<Item = &str> {
    let words = caption.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_captions_are_cut_and_short_ones_padded() {
        let encoder = HashedWords {
            tokens: 2,
            channels: 6,
        };
        assert_eq!(
            encoder.encode(&["red blue green"]),
            encoder.encode(&["red blue"])
        );
        assert_ne!(encoder.encode(&["red"]), encoder.encode(&["red blue"]));
    }
}
