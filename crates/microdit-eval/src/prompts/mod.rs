//! Prompt suites: what pictures are drawn of where networks are compared.
//!
//! | suite | file | category | source |
//! |---|---|---|---|
//! | [`Suite::Lines`] | any text, a prompt a line | none | |
//! | [`Suite::GenEval`] | `evaluation_metadata.jsonl` | the task, `tag` | arXiv 2310.11513 |
//! | [`Suite::PartiPrompts`] | `PartiPrompts.tsv` | `Category` | arXiv 2206.10789 |
//! | [`Suite::Coco`] | `captions_val2014.json` | none | arXiv 1405.0312, the subset defined at [`coco`] |
//!
//! A prompt may occur several times, as some do in the published files; each occurrence is drawn. Nothing is left out: a
//! line that cannot be read is an error that names it.

pub mod coco;
pub mod geneval;
mod lines;
mod parti;

use microdit_train::{TrainError, sampling::read_prompts};
use std::{
    io,
    path::{Path, PathBuf},
};

/// A prompt of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What to draw, without the space around it; never empty.
    pub text: String,
    /// The group of prompts it belongs to, as the suite has it; empty where that has none.
    pub category: String,
    /// All that the file says of it: an object in JSON, on one line.
    pub metadata: String,
}

/// The kinds of files prompts are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Any text, one prompt per line.
    Lines,
    /// GenEval's `evaluation_metadata.jsonl`, of 553 prompts.
    GenEval,
    /// PartiPrompts' table, of 1,632 prompts.
    PartiPrompts,
    /// COCO's `captions_val2014.json`: the first so many captions of the fixed order, usually [`coco::COUNT`].
    Coco(usize),
}

impl Suite {
    /// The kind of a file by its extension: `.jsonl`, `.tsv`, `.json`, and lines of text else. Of COCO, `count` captions.
    ///
    /// ```
    /// use microdit_eval::prompts::Suite;
    /// assert_eq!(Suite::of("PartiPrompts.tsv".as_ref(), 10), Suite::PartiPrompts);
    /// assert_eq!(Suite::of("captions_val2014.json".as_ref(), 10), Suite::Coco(10));
    /// ```
    pub fn of(path: &Path, count: usize) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => Self::GenEval,
            Some("tsv") => Self::PartiPrompts,
            Some("json") => Self::Coco(count),
            _ => Self::Lines,
        }
    }

    /// The prompts of a file of this kind, in its order.
    ///
    /// # Errors
    /// A file that cannot be read, is of another kind or holds no prompt; with the line where there is one.
    pub fn read(self, path: &Path) -> Result<Vec<Prompt>, PromptsError> {
        match self {
            Self::Lines => {
                let texts = read_prompts(path)?;
                let prompt = |text| Prompt {
                    text,
                    category: String::new(),
                    metadata: "{}".into(),
                };
                Ok(texts.into_iter().map(prompt).collect())
            }
            Self::GenEval => geneval::read(path),
            Self::PartiPrompts => parti::read(path),
            Self::Coco(count) => coco::read(path, count),
        }
    }
}

/// A file or folder of prompts that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptsError {
    /// It could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// A line is not as the format has it.
    #[error("{}: line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// What was expected, and what was found.
        message: String,
    },
    /// The whole is not as the format has it.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, and what was found.
        message: String,
    },
    /// A text of prompts cannot be read.
    #[error(transparent)]
    Lines(#[from] TrainError),
}

impl PromptsError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a file of this kind with these bytes.
    pub(super) fn error(suite: Suite, bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.file");
        std::fs::write(&path, bytes).unwrap();
        let error = suite.read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&*path.to_string_lossy()), "{error}");
        error
    }

    #[test]
    fn every_kind_names_files_that_are_not_there_or_hold_nothing() {
        for suite in [
            Suite::Lines,
            Suite::GenEval,
            Suite::PartiPrompts,
            Suite::Coco(1),
        ] {
            let error = suite.read(Path::new("/nowhere/p.txt")).unwrap_err();
            assert!(error.to_string().starts_with("/nowhere/p.txt: "), "{error}");
            for bytes in [&b""[..], b"\n\n", b"\xff\xfe\0\0a\0\0\0"] {
                super::tests::error(suite, bytes);
            }
            // What is wrong with a line of 100 MB is said in less.
            let error = super::tests::error(suite, &b"x".repeat(100_000_000));
            assert!(error.len() < 1000, "{} bytes", error.len());
        }
    }

    #[test]
    fn lines_are_prompts_without_a_category() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.txt");
        std::fs::write(&path, "a fox\n\na fox\na \"cat\"\t\n\n").unwrap();
        let prompts = Suite::Lines.read(&path).unwrap();
        let texts: Vec<&str> = prompts.iter().map(|prompt| &*prompt.text).collect();
        assert_eq!(texts, ["a fox", "a fox", "a \"cat\""]);
        assert!(prompts.iter().all(|prompt| prompt.category.is_empty()));
        let error = error(Suite::Lines, b"a fox\nun caf\xe9\n");
        assert!(error.contains("line 2: not UTF-8"), "{error}");
    }
}
