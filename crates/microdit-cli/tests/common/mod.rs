//! What the tests of the binary share.

use std::path::{Path, PathBuf};

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `--set` for what shrinks a bundled recipe to seconds.
pub(crate) fn small<'a>() -> impl Iterator<Item = &'a str> {
    let sets = [
        "model.dim=32",
        "model.depth=2",
        "model.mixer.dim=32",
        "model.mixer.depth=1",
        "batch=4",
        "log_every=1",
        "stages.masked.steps=3",
        "stages.unmasked.steps=2",
        "sampling.steps=2",
        "sampling.count=1",
    ];
    sets.into_iter().flat_map(|set| ["--set", set])
}
