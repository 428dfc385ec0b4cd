//! What was made of a shard, and whether it is still there.

use super::{
    files::{remove, report_path, tar_path},
    identity::Glance,
};
use microdit::checksum;
use microdit_data::{
    DataError, ShardFile, ShardReport,
    files::{file_name, read_json, write_json},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The report on a shard of latents, written after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) report: ShardReport,
    /// The shard of pictures it was made of.
    pub(super) source: Glance,
    /// The checksum of that shard, in hexadecimal.
    pub(super) source_sha256: String,
    /// Why that shard was not read to its end; where there are no samples, why there is no tar either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<String>,
    /// Captions of which the text encoder read only the beginning.
    #[serde(default)]
    pub(super) captions_cut: u64,
    /// Bytes of caption states with their padding, and as they were written.
    #[serde(default)]
    pub(super) caption_bytes: [u64; 2],
}

/// The state of a shard of latents.
pub(super) enum Found {
    /// It is complete, and of the same pictures.
    Whole(Box<Record>),
    /// It is not made yet.
    Nothing,
    /// It must be made again, and why.
    Damaged(String),
    /// It was made of other pictures: what was expected, what was found.
    OtherPictures(String),
    /// The pictures cannot be read.
    Unreadable(String),
}

impl Record {
    pub(super) fn write(&self, out: &Path, number: usize) -> Result<(), DataError> {
        write_json(&report_path(out, number), self)
    }

    /// Notes that nothing could be made of `source`, and why.
    pub(super) fn lose(
        source: Glance,
        why: &str,
        rejected: BTreeMap<String, u64>,
        out: &Path,
        number: usize,
    ) -> Result<(), DataError> {
        let tar = tar_path(out, number);
        remove(&tar)?;
        let report = ShardReport {
            file: file_name(&tar),
            samples: 0,
            bytes: 0,
            sha256: String::new(),
            rejected,
        };
        let record = Self {
            report,
            source,
            source_sha256: String::new(),
            cut: Some(why.to_owned()),
            captions_cut: 0,
            caption_bytes: [0; 2],
        };
        record.write(out, number)
    }

    /// Nothing could be made of the pictures.
    pub(super) fn lost(&self) -> bool {
        self.report.samples == 0
    }

    /// What is wrong with the tar, if it is not as it was written.
    pub(super) fn damage(&self, out: &Path, number: usize) -> Option<String> {
        let path = tar_path(out, number);
        let name = file_name(&path);
        if self.lost() {
            return None;
        }
        if !path.is_file() {
            return Some(format!("{name} is missing"));
        }
        match checksum::of_file(&path) {
            Err(error) => Some(format!("{name} cannot be read: {error}")),
            Ok((bytes, _)) if bytes != self.report.bytes => Some(format!(
                "{name} has {bytes} bytes; expected {}",
                self.report.bytes
            )),
            Ok((_, sha256)) if sha256 != self.report.sha256 => {
                Some(format!("{name} has changed since it was written"))
            }
            Ok(_) => None,
        }
    }
}

/// Looks for what was made of the pictures at `source`.
pub(super) fn find(out: &Path, number: usize, source: &ShardFile) -> Found {
    let path = report_path(out, number);
    if !path.is_file() {
        return Found::Nothing;
    }
    let record: Record = match read_json(&path) {
        Ok(record) => record,
        Err(error) => return Found::Damaged(error.to_string()),
    };
    if record.lost() {
        return Found::Nothing;
    }
    match source.checksum() {
        Err(error) => return Found::Unreadable(format!("{}: {}", source.name(), error.reason())),
        Ok((bytes, sha256)) if sha256 != record.source_sha256 => {
            return Found::OtherPictures(format!(
                "expected {} of {} bytes, SHA-256 {:.12}; found {} of {bytes} bytes, SHA-256 {sha256:.12}",
                record.source.file,
                record.source.bytes,
                record.source_sha256,
                source.name(),
            ));
        }
        Ok(_) => {}
    }
    match record.damage(out, number) {
        Some(damage) => Found::Damaged(damage),
        None => Found::Whole(Box::new(record)),
    }
}
