//! Prompts: files of them, and those that are too long.

use crate::{
    batch::hashed_words,
    error::TrainError,
    recipe::{CaptionConfig, Recipe},
};
use microdit_data::{Line, LineError, Lines};
use microdit_encoders::{Cut, hub::locate, text::Cutter};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Bytes of all prompts of a file together: a million of them, and still far less than the memory.
const LARGEST: usize = 256 << 20;

/// Bytes of the longest line; no text encoder reads more than a few hundred words.
const LONGEST: usize = 1 << 20;

/// Long prompts that are named one by one.
const NAMED: usize = 10;

/// Warns about prompts that an encoder does not read to their end, as `cut` says, by their numbers from 1.
pub(super) fn warn_of_cuts(prompts: &[String], cut: impl Fn(&str) -> Option<Cut>) {
    let mut count = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        let Some(cut) = cut(prompt) else {
            continue;
        };
        count += 1;
        if count <= NAMED {
            tracing::warn!("prompt {} is cut: it has {cut}", i + 1);
        }
    }
    if count > NAMED {
        tracing::warn!("{} more prompts are cut", count - NAMED);
    }
}

/// Warns about a recipe's prompts that will not be read to their end, before it is trained. Where its text encoder is not
/// on this machine, there is no warning.
pub fn warn_of_long_prompts(recipe: &Recipe) {
    let (prompts, stage) = (&recipe.run.sampling.prompts, recipe.last_stage());
    match stage.data.captions() {
        Some(CaptionConfig::HashedWords { .. }) => {
            let words = hashed_words(stage);
            warn_of_cuts(prompts, |prompt| words.cut(prompt));
        }
        None => {
            let tokens = stage.data.tokens();
            let path = recipe.run.encoders.text.as_deref();
            let path = path.and_then(|path| locate(path).ok());
            if let Some(cutter) = path.and_then(|path| Cutter::open(&path, tokens)) {
                warn_of_cuts(prompts, |prompt| cutter.cut(prompt));
            }
        }
    }
}

/// The prompts of a file, one per line, without the space around them. `-` is the standard input. Text is UTF-8 with or without
/// a mark, or UTF-16 with one. Empty lines hold no prompt; of those between prompts, which may be prompts that were lost, a
/// warning names the first.
///
/// # Errors
/// A file that cannot be read or holds no prompt; one whose prompts have more than 256 MiB; a line in another encoding or of more than
/// 1 MiB, which the message names.
pub fn read_prompts(path: &Path) -> Result<Vec<String>, TrainError> {
    let wrong = |message: String| TrainError::Prompts {
        path: path.to_owned(),
        message,
    };
    let file: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(TrainError::io(path))?),
    };
    let mut lines = Lines::of(file, LONGEST).map_err(TrainError::io(path))?;
    let (mut prompts, mut bytes) = (Vec::new(), 0);
    // How many empty lines there are up to the last prompt and in all; and the first.
    let (mut between, mut empty, mut first) = (0, 0, None);
    while let Some(Line { number, text }) = lines.next_line().map_err(TrainError::io(path))? {
        let text = text.map_err(|reason| {
            let way_out = match &reason {
                LineError::Foreign(_) => "save it as UTF-8",
                LineError::Long(_) => "write one prompt per line",
            };
            wrong(format!("line {number}: {reason}; {way_out}"))
        })?;
        let prompt = text.trim();
        if prompt.is_empty() {
            empty += 1;
            first.get_or_insert(number);
            continue;
        }
        between = empty;
        bytes += prompt.len();
        if bytes > LARGEST {
            let most = LARGEST >> 20;
            return Err(wrong(format!(
                "line {number}: more than {most} MiB of prompts"
            )));
        }
        prompts.push(prompt.to_owned());
    }
    if prompts.is_empty() {
        return Err(wrong("no prompt in it; write one per line".into()));
    }
    if let Some(first) = first.filter(|_| between > 0) {
        let path = path.display();
        tracing::warn!(
            "{path}: empty lines among the prompts are passed over: {between}, the first is line {first}"
        );
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, bytes).unwrap();
        read_prompts(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn marks_line_ends_and_empty_lines_are_no_part_of_a_prompt() {
        let expected = Ok(vec!["a red fox".to_owned(), "ein Füchslein".to_owned()]);
        let text = "\r\n  a red fox \r\n\t\n\nein Füchslein";
        assert_eq!(read(text.as_bytes()), expected);
        assert_eq!(read(format!("\u{feff}{text}").as_bytes()), expected);
        let units: Vec<u16> = format!("\u{feff}{text}").encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(read(&little), expected);
        assert_eq!(read(&big), expected);
        // Whatever else a line holds is its prompt.
        assert_eq!(read(b"a\x1b[31m\0b"), Ok(vec!["a\x1b[31m\0b".to_owned()]));
    }

    #[test]
    fn other_encodings_are_refused_by_their_line() {
        let error = read(b"a red fox\nun caf\xe9\n").unwrap_err();
        assert!(error.contains("prompts.txt: line 2: not UTF-8"), "{error}");
        let error = read(b"\xff\xfea\0\x00\xd8\n\0").unwrap_err();
        assert!(error.contains("UTF-16"), "{error}");
        for empty in ["", "\u{feff}", "\n \r\n\t\n"] {
            let error = read(empty.as_bytes()).unwrap_err();
            assert!(error.contains("no prompt in it"), "{error}");
        }
    }
}
