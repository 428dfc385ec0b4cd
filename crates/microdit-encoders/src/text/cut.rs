//! The part of a text that a text encoder truncates.

use super::{encoder::TextEncoder, tokenizer::ClipTokenizer};
use crate::cut::Cut;
use microdit::DitBackend;
use serde_json::Value;
use std::path::Path;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

impl<B: DitBackend> TextEncoder<B> {
    /// What [`encode`](Self::encode) cuts off a caption; nothing if all of it is read.
    pub fn cut(&self, caption: &str) -> Option<Cut> {
        match self {
            Self::Clip(_, tokenizer, _) => tokenizer.cut(caption, self.tokens()),
            Self::T5(_, tokenizer, limit) => pieces_cut(tokenizer, caption, *limit),
        }
    }
}

/// Finds what a text encoder will truncate, without opening the encoder.
#[derive(Debug)]
pub struct Cutter {
    kind: Kind,
    tokens: usize,
}

#[derive(Debug)]
enum Kind {
    Clip(Box<ClipTokenizer>),
    Pieces(Box<Tokenizer>),
}

impl Cutter {
    /// For the text encoder at `path`, as [`TextEncoder::open`] takes it, that reads `tokens` of a caption. None where there
    /// is no such encoder: its own error will say more.
    pub fn open(path: &Path, tokens: usize) -> Option<Self> {
        let nested = path.join("text_encoder");
        let folder = if nested.is_dir() { &nested } else { path };
        let open_clip = folder.join("open_clip_config.json").is_file();
        let kind = if open_clip || is_clip(&folder.join("config.json"))? {
            Kind::Clip(Box::new(ClipTokenizer::new()))
        } else {
            let beside = folder.join("../tokenizer/tokenizer.json");
            let files = [folder.join("tokenizer.json"), beside];
            let file = files.iter().find(|file| file.is_file())?;
            let mut tokenizer = Tokenizer::from_file(file).ok()?;
            let truncation = TruncationParams {
                max_length: tokens,
                ..TruncationParams::default()
            };
            tokenizer.with_truncation(Some(truncation)).ok()?;
            Kind::Pieces(Box::new(tokenizer))
        };
        Some(Self { kind, tokens })
    }

    /// As [`TextEncoder::cut`].
    pub fn cut(&self, caption: &str) -> Option<Cut> {
        match &self.kind {
            Kind::Clip(tokenizer) => tokenizer.cut(caption, self.tokens),
            Kind::Pieces(tokenizer) => pieces_cut(tokenizer, caption, self.tokens),
        }
    }
}

/// Whether a configuration of transformers describes a CLIP; none if there is no configuration.
fn is_clip(config: &Path) -> Option<bool> {
    let config: Value = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
    Some(config["model_type"].as_str()?.starts_with("clip"))
}

/// Likewise for a tokenizer that truncates by itself and keeps the rest.
fn pieces_cut(tokenizer: &Tokenizer, caption: &str, limit: usize) -> Option<Cut> {
    let encoding = tokenizer.encode(caption, true).ok()?;
    let own = |encoding: &Encoding| {
        let marks = encoding.get_special_tokens_mask();
        marks.iter().filter(|&&mark| mark == 0).count()
    };
    let rest = encoding.get_overflowing();
    let lost: usize = rest.iter().map(own).sum();
    let first = rest.iter().find_map(|part| {
        let marks = part.get_special_tokens_mask();
        let mut tokens = part.get_offsets().iter().zip(marks);
        let (&(start, _), _) = tokens.find(|&(_, &mark)| mark == 0)?;
        Some(start)
    })?;
    let text = caption.get(first..).unwrap_or_default();
    Some(Cut::new(encoding.len() + lost, limit, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn clip_reads_77_tokens() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Cutter::open(folder.path(), 77).is_none());
        std::fs::write(folder.path().join("open_clip_config.json"), "{}").unwrap();
        let cutter = Cutter::open(folder.path(), 77).unwrap();
        // 75 words fit between the marks of start and end, and not one more.
        let words = |count: usize| "fox ".repeat(count);
        assert_eq!(cutter.cut(&words(75)), None);
        let cut = cutter.cut(&format!("{}dog one two three four five", words(75)));
        let cut = cut.unwrap();
        assert_eq!((cut.tokens, cut.limit), (83, 77));
        assert_eq!(cut.lost, "dog one two three four ...");
        let ids = ClipTokenizer::new().encode(&words(75), 77, super::super::Padding::Zero);
        assert_eq!(ids[76], i64::from(ClipTokenizer::END));
        assert_eq!(ids[75], ids[1]);
        // A word of many tokens is lost as soon as one of them is.
        let cut = cutter
            .cut(&format!("{} supercalifragilistic", words(74)))
            .unwrap();
        assert_eq!(cut.lost, "supercalifragilistic");
    }

    #[test]
    fn pieces_are_cut_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"model_type": "t5"}).to_string();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert!(Cutter::open(folder.path(), 4).is_none());
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            "model": {"type": "WordLevel", "unk_token": "<unk>",
                "vocab": {"</s>": 1, "<unk>": 2, "a": 3, "red": 4, "fox": 5}},
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let cutter = Cutter::open(folder.path(), 4).unwrap();
        assert_eq!(cutter.cut("a red fox"), None);
        let cut = cutter.cut("a rötlich fox in the snow").unwrap();
        assert_eq!((cut.tokens, cut.limit), (7, 4));
        assert_eq!(cut.lost, "in the snow");
    }
}
