//! What was made of a shard, and whether it is still there.

use super::settings::{Settings, Source, remove};
use crate::{
    ahead::read_ahead,
    identity::Glance,
    left_out::LeftOut,
    sample::DataError,
    writer::{DatasetIndex, ShardReport, checksum, file_name, read_json, write_json},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

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
}

/// What there is of a shard of latents.
pub(super) enum Found {
    /// It is whole, and of the same pictures.
    Whole(Box<Record>),
    /// It is still to be made.
    Nothing,
    /// It must be made again, and why.
    Damaged(String),
    /// It was made of other pictures: what was expected, what was found.
    OtherPictures(String),
    /// The pictures cannot be read.
    Unreadable(String),
}

pub(super) fn tar_path(out: &Path, number: usize) -> PathBuf {
    out.join(format!("{number:06}.tar"))
}

/// Where the report lies: where it is, the shard is whole.
pub(super) fn path(out: &Path, number: usize) -> PathBuf {
    out.join(format!("{number:06}.json"))
}

impl Record {
    pub(super) fn write(&self, out: &Path, number: usize) -> Result<(), DataError> {
        write_json(&path(out, number), self)
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
        };
        record.write(out, number)
    }

    /// Nothing could be made of the pictures.
    fn lost(&self) -> bool {
        self.report.samples == 0
    }

    /// What is wrong with the tar, if it is not as it was written.
    fn damage(&self, out: &Path, number: usize) -> Option<String> {
        let path = tar_path(out, number);
        let name = file_name(&path);
        if self.lost() {
            return None;
        }
        if !path.is_file() {
            return Some(format!("{name} is missing"));
        }
        match checksum(&path) {
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
pub(super) fn find(out: &Path, number: usize, source: &Path) -> Found {
    let path = path(out, number);
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
    match checksum(source) {
        Err(error) => return Found::Unreadable(format!("{}: {error}", file_name(source))),
        Ok((bytes, sha256)) if sha256 != record.source_sha256 => {
            return Found::OtherPictures(format!(
                "expected {} of {} bytes, SHA-256 {:.12}; found {} of {bytes} bytes, SHA-256 {sha256:.12}",
                record.source.file,
                record.source.bytes,
                record.source_sha256,
                file_name(source),
            ));
        }
        Ok(_) => {}
    }
    match record.damage(out, number) {
        Some(damage) => Found::Damaged(damage),
        None => Found::Whole(Box::new(record)),
    }
}

/// Checks what all processes wrote, joins it into one index, and writes that. `progress` is told the shards checked.
///
/// # Errors
/// Missing and damaged shards, by their names, or nothing to join.
pub fn index(
    out: &Path,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize),
) -> Result<Option<DatasetIndex>, DataError> {
    let (settings, records) = records(out)?;
    let (mut damaged, mut checked) = (Vec::new(), 0);
    let folder = out.to_owned();
    let check = records.clone();
    let all = read_ahead(
        stop,
        move |send| {
            let damage = |(number, record): &(usize, Record)| record.damage(&folder, *number);
            check.iter().all(|record| send(damage(record)))
        },
        |damage| {
            damaged.extend(damage);
            checked += 1;
            progress(checked);
            Ok(true)
        },
    )?;
    if all.is_none() {
        return Ok(None);
    }
    if !damaged.is_empty() {
        return Err(DataError::Broken {
            folder: out.to_owned(),
            shards: damaged,
        });
    }
    join(out, &settings, records).map(Some)
}

/// The index of shards that were checked already.
pub(super) fn index_of_checked(out: &Path) -> Result<DatasetIndex, DataError> {
    let (settings, records) = records(out)?;
    join(out, &settings, records)
}

/// The reports on all shards by their numbers.
fn records(out: &Path) -> Result<(Settings, Vec<(usize, Record)>), DataError> {
    let settings = Settings::read(out)?;
    let (mut records, mut missing) = (Vec::new(), Vec::new());
    for (number, Source { glance, removed }) in settings.sources.iter().enumerate() {
        if *removed {
            continue;
        }
        let path = path(out, number);
        let record: Option<Record> = match path.is_file() {
            true => Some(read_json(&path)?),
            false => None,
        };
        match record {
            Some(record) if record.source.agrees_with(glance) => records.push((number, record)),
            _ => missing.push(glance.file.clone()),
        }
    }
    if !missing.is_empty() {
        let of = records.len() + missing.len();
        return Err(DataError::Unfinished {
            folder: out.to_owned(),
            missing,
            of,
        });
    }
    Ok((settings, records))
}

fn join(
    out: &Path,
    settings: &Settings,
    records: Vec<(usize, Record)>,
) -> Result<DatasetIndex, DataError> {
    let lacks = records.iter().filter_map(|(_, record)| {
        let cut = record.cut.as_ref()?;
        Some(format!("{}: {cut}", record.source.file))
    });
    let lacks: Vec<String> = lacks.collect();
    let contents = serde_json::to_value(settings).expect("keys are texts");
    let (lost, there): (Vec<_>, Vec<_>) = records
        .into_iter()
        .map(|(_, record)| record)
        .partition(Record::lost);
    let reports = there.into_iter().map(|record| record.report);
    let mut index = DatasetIndex::new(reports.collect(), contents);
    let mut left_out = LeftOut::of(std::mem::take(&mut index.rejected));
    for record in lost {
        left_out.add(&LeftOut::of(record.report.rejected));
    }
    if index.samples == 0 {
        return Err(DataError::NothingWritten {
            seen: left_out.total(),
            reasons: lacks.join("; "),
        });
    }
    index.rejected = left_out.counts;
    index.lacks = lacks;
    index.write(out)?;
    Ok(index)
}
