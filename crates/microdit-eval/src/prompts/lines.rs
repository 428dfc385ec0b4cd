//! Files of one prompt a line, in bounded memory.

use super::{Prompt, PromptsError};
use microdit_data::{Line, Lines};
use std::{fs::File, path::Path};

/// Bytes of the longest line.
const LONGEST: usize = 1 << 20;

/// Bytes of all lines that become prompts.
const LARGEST: usize = 256 << 20;

/// Hands the lines of a file to `take`, each of which gives a prompt, none, or what is wrong with it. Empty lines may only come last.
pub(super) fn read(
    path: &Path,
    mut take: impl FnMut(&str) -> Result<Option<Prompt>, String>,
) -> Result<Vec<Prompt>, PromptsError> {
    let file = File::open(path).map_err(PromptsError::io(path))?;
    let mut lines = Lines::of(file, LONGEST).map_err(PromptsError::io(path))?;
    let (mut prompts, mut bytes, mut empty) = (Vec::new(), 0, None);
    while let Some(Line { number, text }) = lines.next_line().map_err(PromptsError::io(path))? {
        let wrong = |line, message| PromptsError::Line {
            path: path.to_owned(),
            line,
            message,
        };
        let text = text.map_err(|error| wrong(number, error.to_string()))?;
        if text.trim().is_empty() {
            empty.get_or_insert(number);
            continue;
        }
        if let Some(line) = empty {
            let message = format!("it is empty, and line {number} is not; expected a prompt");
            return Err(wrong(line, message));
        }
        bytes += text.len();
        if bytes > LARGEST {
            let message = format!("more than {} MiB of prompts", LARGEST >> 20);
            return Err(wrong(number, message));
        }
        prompts.extend(take(&text).map_err(|message| wrong(number, message))?);
    }
    match prompts.is_empty() {
        true => Err(PromptsError::file(path, "there is no prompt in it")),
        false => Ok(prompts),
    }
}
