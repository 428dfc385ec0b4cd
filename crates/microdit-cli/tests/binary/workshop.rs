//! What the tests of datasets work on: small encoders, shards of pictures, and what describes them.

use crate::{
    common::{root, text},
    encoders,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Shards of pictures in these tests, 16 samples each.
pub(crate) const SHARDS: usize = 6;

/// A directory with small encoders and shards of pictures, the last of them with damaged samples.
pub(crate) struct Workshop {
    pub(crate) folder: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        encoders::vae(&folder.path().join("vae"));
        encoders::clip(&folder.path().join("clip"));
        fs::create_dir(folder.path().join("pictures")).unwrap();
        for i in 0..SHARDS {
            let name = if i + 1 == SHARDS {
                "wds_dirty.tar"
            } else {
                "wds_clean.tar"
            };
            let shard = folder.path().join(format!("pictures/{i}.tar"));
            fs::copy(root().join("tests/goldens").join(name), shard).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// The command that makes latents of the pictures in `out`.
    pub(crate) fn precompute(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command
            .args([
                "data",
                "precompute",
                &self.path("pictures"),
                "--out",
                &self.path(out),
            ])
            .args([
                "--vae",
                &self.path("vae"),
                "--text-encoder",
                &self.path("clip"),
            ])
            .args(["--sizes", "32,64", "--batch", "3"])
            .args(more)
            .current_dir(root());
        command
    }

    #[track_caller]
    pub(crate) fn precomputed(&self, out: &str, more: &[&str]) -> String {
        let output = self.precompute(out, more).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    /// Files in a directory by name.
    pub(crate) fn files(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        files
            .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
            .collect()
    }
}

/// Same names, same content.
#[track_caller]
pub(crate) fn same(one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>) {
    assert!(
        one.keys().eq(other.keys()),
        "{:?} and {:?}",
        one.keys(),
        other.keys()
    );
    for (name, content) in one {
        assert!(other[name] == *content, "{} differs", name.display());
    }
}

/// A card for shards, and one for a directory.
pub(crate) fn cards(folder: &Path) -> [String; 2] {
    ["Shards", "Folder(())"].map(|layout| {
        let path = folder.join(format!("{}.ron", &layout[..5]));
        let card = format!(
            r#"(name: "n", source: "s", license: "l", size: "s", get: "g", layout: {layout})"#
        );
        fs::write(&path, card).unwrap();
        path.to_string_lossy().into_owned()
    })
}
