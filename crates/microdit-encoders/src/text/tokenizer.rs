//! CLIP's tokenizer: byte-pair encoding of lower-cased, repaired text (arXiv 2103.00020, section 2.4).

use crate::cut::Cut;
use ahash::AHashMap;
use flate2::read::GzDecoder;
use microdit::atomic_file;
use microdit_text::{repair, unescape_html};
use regex::Regex;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
    sync::LazyLock,
};
use tokenizers::{Model, models::bpe::BPE};

/// The merge list of OpenAI's CLIP, see `data/README.md`.
const MERGES: &[u8] = include_bytes!("../../data/bpe_simple_vocab_16e6.txt.gz");

/// Merges in use; the list goes on.
const MERGE_COUNT: usize = 48_894;

/// The end-of-word marker.
const WORD_END: &str = "</w>";

/// Words, single digits, and runs of other characters.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let parts = [
        "<start_of_text>",
        "<end_of_text>",
        "'s|'t|'re|'ve|'m|'ll|'d",
        r"\p{L}+",
        r"\p{N}",
        r"[^\s\p{L}\p{N}]+",
    ];
    Regex::new(&format!("(?i){}", parts.join("|"))).expect("a sound pattern")
});

/// What a caption is padded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Zeros, as open_clip.
    Zero,
    /// More end tokens, as most of transformers' CLIP models.
    End,
}

/// Turns captions into the ids CLIP knows.
///
/// ```
/// use microdit_encoders::text::{ClipTokenizer, Padding};
///
/// let tokenizer = ClipTokenizer::new();
/// assert_eq!(tokenizer.encode("A  cat!", 6, Padding::Zero), [49406, 320, 2368, 256, 49407, 0]);
/// // Longer captions are cut; the end token stays.
/// assert_eq!(tokenizer.encode("a cat!", 4, Padding::Zero), [49406, 320, 2368, 49407]);
/// ```
#[derive(Debug)]
pub struct ClipTokenizer {
    model: BPE,
}

impl ClipTokenizer {
    /// The id before a caption.
    pub const START: u32 = 49_406;
    /// The id after a caption.
    pub const END: u32 = 49_407;

    /// The tokenizer of all CLIP models that use OpenAI's vocabulary.
    #[expect(
        clippy::new_without_default,
        reason = "reading the vocabulary takes a moment"
    )]
    pub fn new() -> Self {
        let merges = merges();
        // Bytes, bytes that end a word, merges, start and end.
        let bytes: Vec<String> = SYMBOLS.in_order().map(String::from).collect();
        let ends = bytes.iter().map(|byte| format!("{byte}{WORD_END}"));
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let vocabulary: AHashMap<String, u32> = bytes
            .iter()
            .cloned()
            .chain(ends)
            .chain(merged)
            .zip(0..)
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .end_of_word_suffix(WORD_END.into())
            .build();
        Self {
            model: model.expect("merges are of known tokens"),
        }
    }

    /// The ids of a caption, start and end included: `length` of them, cut or padded.
    pub fn encode(&self, caption: &str, length: usize, padding: Padding) -> Vec<i64> {
        let mut ids = self.ids(caption);
        if ids.len() > length {
            ids.truncate(length);
            if let Some(last) = ids.last_mut() {
                *last = Self::END;
            }
        }
        let pad = match padding {
            Padding::Zero => 0,
            Padding::End => Self::END,
        };
        ids.resize(length, pad);
        ids.into_iter().map(i64::from).collect()
    }

    /// Writes it to `folder`, which is there, as transformers' `CLIPTokenizer` reads it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path, padding: Padding) -> io::Result<()> {
        let (start, end) = ("<|startoftext|>", "<|endoftext|>");
        let mut vocabulary = self.model.get_vocab();
        vocabulary.extend([(start.to_owned(), Self::START), (end.to_owned(), Self::END)]);
        let vocabulary: BTreeMap<String, u32> = vocabulary.into_iter().collect();
        let lines = merges()
            .into_iter()
            .map(|(left, right)| format!("{left} {right}\n"));
        let merges: String = std::iter::once("#version: 0.2\n".to_owned())
            .chain(lines)
            .collect();
        let pad = match padding {
            Padding::Zero => "!",
            Padding::End => end,
        };
        let special =
            json!({"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad});
        let mut config = special.clone();
        config["add_prefix_space"] = false.into();
        config["do_lower_case"] = true.into();
        config["errors"] = "replace".into();
        config["model_max_length"] = 77.into();
        config["tokenizer_class"] = "CLIPTokenizer".into();
        for (name, text) in [
            ("vocab.json", json!(vocabulary).to_string()),
            ("merges.txt", merges),
            ("special_tokens_map.json", format!("{special:#}\n")),
            ("tokenizer_config.json", format!("{config:#}\n")),
        ] {
            atomic_file::write(&folder.join(name), |part| fs::write(part, text))?;
        }
        Ok(())
    }

    /// What [`encode`](Self::encode) cuts off a caption at `length`; nothing if all of it is kept.
    ///
    /// ```
    /// use microdit_encoders::text::ClipTokenizer;
    /// let tokenizer = ClipTokenizer::new();
    /// assert_eq!(tokenizer.cut("a cat!", 5), None);
    /// let cut = tokenizer.cut("a cat and a dog", 5).expect("seven tokens");
    /// assert_eq!((cut.tokens, cut.limit, cut.lost.as_str()), (7, 5, "a dog"));
    /// ```
    pub fn cut(&self, caption: &str, length: usize) -> Option<Cut> {
        let caption = clean(caption);
        // The marks of start and end; the end takes the last place.
        let mut tokens = 2;
        let mut lost = None;
        for word in WORDS.find_iter(&caption) {
            tokens += self.word(word.as_str()).len();
            if tokens > length {
                lost.get_or_insert(word.start());
            }
        }
        lost.map(|start| Cut::new(tokens, length, &caption[start..]))
    }

    /// The ids of a caption, start and end included, however many.
    fn ids(&self, caption: &str) -> Vec<u32> {
        let caption = clean(caption);
        let words = WORDS.find_iter(&caption);
        let mut ids = vec![Self::START];
        ids.extend(words.flat_map(|word| self.word(word.as_str())));
        ids.push(Self::END);
        ids
    }

    /// The ids of a word.
    fn word(&self, word: &str) -> Vec<u32> {
        match word {
            "<start_of_text>" => vec![Self::START],
            "<end_of_text>" => vec![Self::END],
            word => {
                let symbols: String = word.bytes().map(|byte| SYMBOLS.of(byte)).collect();
                let tokens = self.model.tokenize(&symbols);
                // Every byte is in the vocabulary.
                let tokens = tokens.unwrap_or_default();
                tokens.iter().map(|token| token.id).collect()
            }
        }
    }
}

/// Pairs of tokens that are merged, in the order they are.
fn merges() -> Vec<(String, String)> {
    let mut list = String::new();
    let read = GzDecoder::new(MERGES).read_to_string(&mut list);
    read.expect("the vocabulary in the binary is sound");
    list.lines()
        // The first line is a comment.
        .skip(1)
        .take(MERGE_COUNT)
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

/// Repaired, without HTML entities, with single spaces, in lower case.
fn clean(caption: &str) -> String {
    let text = unescape_html(&unescape_html(&repair(caption)));
    // Python counts the information separators as white space.
    let space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
    let words: Vec<&str> = text.split(space).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// A printable character for every byte, so that byte pairs can be written down as text.
struct Symbols {
    of_byte: [char; 256],
    order: Vec<char>,
}

static SYMBOLS: LazyLock<Symbols> = LazyLock::new(|| {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (shown, hidden): (Vec<u8>, Vec<u8>) = (0..=255).partition(printable);
    let mut of_byte = ['\0'; 256];
    for &byte in &shown {
        of_byte[usize::from(byte)] = char::from(byte);
    }
    // The others are moved behind Latin-1.
    for (&byte, symbol) in hidden.iter().zip('\u{100}'..) {
        of_byte[usize::from(byte)] = symbol;
    }
    let order = shown
        .iter()
        .chain(&hidden)
        .map(|&byte| of_byte[usize::from(byte)]);
    Symbols {
        order: order.collect(),
        of_byte,
    }
});

impl Symbols {
    fn of(&self, byte: u8) -> char {
        self.of_byte[usize::from(byte)]
    }

    /// In the order of their ids.
    fn in_order(&self) -> impl Iterator<Item = char> {
        self.order.iter().copied()
    }
}
