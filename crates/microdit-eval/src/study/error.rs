//! What can be wrong with a study.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A study that cannot be made or counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A folder without pictures that have the names of a study.
    #[error(
        "{}: no pictures; expected NNNNN_K.png (prompt and picture, both from 0) or those that `microdit sample --prompts FILE --count K --singles` writes", .0.display()
    )]
    NoPictures(PathBuf),
    /// A picture that is not there.
    #[error("{}: it is missing; {expected}", path.display())]
    Missing {
        /// The picture.
        path: PathBuf,
        /// Why it is expected.
        expected: String,
    },
    /// Pictures by their places that are not equally many for every prompt.
    #[error(
        "{}: {pictures} pictures are not equally many for each of {prompts} prompts; draw the same prompts again", folder.display()
    )]
    Uneven {
        /// The folder.
        folder: PathBuf,
        /// Pictures in it.
        pictures: usize,
        /// Prompts in the file.
        prompts: usize,
    },
    /// Fewer pictures of a prompt than are to be shown.
    #[error(
        "{}: it has {found} pictures of each prompt, and {wanted} are to be shown", folder.display()
    )]
    TooFew {
        /// The folder.
        folder: PathBuf,
        /// Pictures of each prompt.
        found: usize,
        /// Pictures of each that were asked for.
        wanted: usize,
    },
    /// A picture of another prompt.
    #[error(
        "{}: it was drawn for {found:?}, not for {expected:?}; give the prompts that the pictures were drawn with", path.display()
    )]
    OtherPrompt {
        /// The picture.
        path: PathBuf,
        /// What it says it shows.
        found: String,
        /// The prompt it stands for by its name.
        expected: String,
    },
    /// A file that is not a PNG.
    #[error("{}: not a whole PNG", .0.display())]
    NotPng(PathBuf),
    /// More pictures than a page can hold.
    #[error(
        "the pictures take {found} MiB, and a page holds {most} MiB; show fewer with --per-prompt"
    )]
    TooLarge {
        /// MiB of the pictures.
        found: u64,
        /// MiB a page holds.
        most: u64,
    },
    /// A file that could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file that is not one of votes, or was damaged.
    #[error("{}: {message}", path.display())]
    Votes {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Votes of another study than the first file's.
    #[error("{}: votes of another study than those in {}; count each study by itself", path.display(), first.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The first file.
        first: PathBuf,
    },
    /// Two files of one voter.
    #[error("{} and {}: both are votes of {voter}; give the newer one", first.display(), second.display())]
    Twice {
        /// The voter.
        voter: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

impl StudyError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}
