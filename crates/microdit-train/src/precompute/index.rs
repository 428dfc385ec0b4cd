//! One index over the shards of all processes.

use super::{
    error::PrecomputeError,
    files::report_path,
    record::Record,
    settings::{Settings, Source},
};
use microdit_data::{DataError, DatasetIndex, LeftOut, files::read_json, read_ahead};
use std::{path::Path, sync::atomic::AtomicBool};

/// Checks what all processes wrote, joins it into one index, and writes that. `progress` gets the number of shards checked.
///
/// # Errors
/// Missing and damaged shards, by their names, or nothing to join.
pub fn index(
    out: &Path,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize),
) -> Result<Option<DatasetIndex>, PrecomputeError> {
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
        return Err(PrecomputeError::Broken {
            folder: out.to_owned(),
            shards: damaged,
        });
    }
    join(out, &settings, records).map(Some)
}

/// The index of shards that were checked already.
pub(super) fn index_of_checked(out: &Path) -> Result<DatasetIndex, PrecomputeError> {
    let (settings, records) = records(out)?;
    join(out, &settings, records)
}

/// The reports on all shards by their numbers.
fn records(out: &Path) -> Result<(Settings, Vec<(usize, Record)>), PrecomputeError> {
    let settings = Settings::read(out)?;
    let (mut records, mut missing) = (Vec::new(), Vec::new());
    for (number, Source { glance, removed }) in settings.sources.iter().enumerate() {
        if *removed {
            continue;
        }
        let path = report_path(out, number);
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
        return Err(PrecomputeError::Unfinished {
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
) -> Result<DatasetIndex, PrecomputeError> {
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
        }
        .into());
    }
    index.rejected = left_out.counts;
    index.lacks = lacks;
    index.write(out)?;
    Ok(index)
}
