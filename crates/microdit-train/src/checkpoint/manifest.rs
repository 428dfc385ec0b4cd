//! `state.json`: what a checkpoint holds, with a checksum of every file and of itself.

use super::Progress;
use crate::{
    sealed::{Files, has_sizes, unseal},
    source::DataIdentity,
};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Version of the layout.
pub(super) const FORMAT: u32 = 4;

/// Its name.
pub(super) const STATE: &str = "state.json";

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) progress: Progress,
    /// The data the position belongs to; none where nothing was drawn yet.
    pub(super) data: Option<DataIdentity>,
    pub(super) files: Files,
    #[serde(default)]
    pub(super) beginning: Beginning,
}

/// What a stage began with, which stays while it is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    /// Checksums of the files of weights that its recipe names, by their keys.
    pub(crate) origins: Files,
    /// The file beside the checkpoints that holds what no step moves, if anything.
    pub(crate) frozen: Files,
}

impl Manifest {
    /// The manifest in `folder`, if no bit of it has changed.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let told = |error: &dyn std::fmt::Display| format!("{STATE}: {error}");
        let text = fs::read(folder.join(STATE)).map_err(|error| told(&error))?;
        // Of another version, the checksum may lie elsewhere.
        if let Ok(Version { format }) = serde_json::from_slice(&text)
            && format != FORMAT
        {
            let message = format!(
                "format {format} of another version of microdit, expected {FORMAT}: that version can resume it"
            );
            return Err(told(&message));
        }
        unseal(&text).map_err(|error| told(&error))
    }

    /// Whether `folder` holds a manifest and the files it lists, at their sizes.
    pub(super) fn is_complete(folder: &Path) -> bool {
        Self::read(folder).is_ok_and(|manifest| has_sizes(folder, &manifest.files))
    }
}
