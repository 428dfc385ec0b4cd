//! The checkpoints of a run beside each other: how one takes its place, and which are removed.
//!
//! Directories are renamed and never changed under their names: whenever a process dies, every directory with the name
//! of a checkpoint is as it was written.

use super::Manifest;
use crate::{error::TrainError, recipe::CheckpointConfig};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Prefixes of directories that are being written, replaced by a new one of the same step, or removed.
const PART: &str = ".part-";
const OLD: &str = ".old-";
const GONE: &str = ".gone-";

/// Prefix of the name of a checkpoint.
const STEP: &str = "step-";

fn name_of(step: u64) -> String {
    format!("{STEP}{step:010}")
}

/// Where the checkpoint of `step` is written.
pub(super) fn part_of(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("{PART}{}", name_of(step)))
}

/// An empty directory to write the checkpoint of `step` in.
pub(crate) fn part(checkpoints: &Path, step: u64) -> Result<PathBuf, TrainError> {
    let part = part_of(checkpoints, step);
    if part.exists() {
        fs::remove_dir_all(&part).map_err(TrainError::io(&part))?;
    }
    fs::create_dir_all(&part).map_err(TrainError::io(&part))?;
    Ok(part)
}

/// Gives the directory `part` the name of the checkpoint of `step`, in place of one that has it.
pub(crate) fn place(checkpoints: &Path, part: &Path, step: u64) -> Result<PathBuf, TrainError> {
    let folder = checkpoints.join(name_of(step));
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(TrainError::io(from));
    if !folder.exists() {
        rename(part, &folder)?;
        sync(checkpoints)?;
        return Ok(folder);
    }
    let old = checkpoints.join(format!("{OLD}{}", name_of(step)));
    if old.exists() {
        fs::remove_dir_all(&old).map_err(TrainError::io(&old))?;
    }
    rename(&folder, &old)?;
    rename(part, &folder)?;
    sync(checkpoints)?;
    remove(&old);
    Ok(folder)
}

/// Cleans up what a process left that was killed while it changed `checkpoints`. No other process may be at work there.
pub(crate) fn tidy(checkpoints: &Path) -> Result<(), TrainError> {
    if !checkpoints.exists() {
        return Ok(());
    }
    for name in file_names(checkpoints)? {
        let path = checkpoints.join(&name);
        if let Some(step) = name.strip_prefix(OLD) {
            let place = checkpoints.join(step);
            // Killed between the two renames: the new directory has not got its name.
            if !place.exists() {
                fs::rename(&path, &place).map_err(TrainError::io(&path))?;
                continue;
            }
        }
        if [OLD, PART, GONE]
            .iter()
            .any(|start| name.starts_with(start))
        {
            remove(&path);
        }
    }
    sync(checkpoints)
}

/// Removes what `config` does not keep of the checkpoints up to that of `saved`: all but the newest intact ones and the
/// milestones. Later ones are of a run that was resumed from before them, and wait to be replaced.
pub(super) fn prune(
    checkpoints: &Path,
    config: &CheckpointConfig,
    saved: u64,
) -> Result<(), TrainError> {
    let mut kept = 0;
    for folder in folders(checkpoints)?.into_iter().rev() {
        let Some(step) = step_of(&folder).filter(|step| *step <= saved) else {
            continue;
        };
        let milestone = config
            .milestones
            .is_some_and(|every| step.is_multiple_of(every));
        // A damaged one cannot be resumed from.
        if kept < config.keep {
            kept += usize::from(step == saved || Manifest::is_complete(&folder));
        } else if !milestone {
            discard(checkpoints, &folder);
        }
    }
    Ok(())
}

/// Removes a checkpoint under another name, so that a half-removed one never has its own.
fn discard(checkpoints: &Path, folder: &Path) {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let gone = checkpoints.join(format!("{GONE}{name}"));
    match fs::rename(folder, &gone) {
        Ok(()) => remove(&gone),
        Err(error) => warn(folder, &error),
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        warn(folder, &error);
    }
}

fn warn(folder: &Path, error: &std::io::Error) {
    tracing::warn!(
        "{} is no longer needed and cannot be removed: {error}",
        folder.display()
    );
}

/// Directories of checkpoints, oldest first.
pub(crate) fn folders(checkpoints: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !checkpoints.exists() {
        return Ok(Vec::new());
    }
    let names = file_names(checkpoints)?.into_iter();
    let paths = names.map(|name| checkpoints.join(name));
    let mut folders: Vec<PathBuf> = paths
        .filter(|path| step_of(path).is_some() && path.is_dir())
        .collect();
    folders.sort_by_key(|path| step_of(path));
    Ok(folders)
}

/// The step in the name of a checkpoint; none for whatever else may lie there.
pub(crate) fn step_of(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    let step = name.strip_prefix(STEP)?.parse().ok()?;
    (name == name_of(step)).then_some(step)
}

pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, TrainError> {
    fs::read_dir(folder)
        .map_err(TrainError::io(folder))?
        .map(|entry| {
            let entry = entry.map_err(TrainError::io(folder))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// Flushes a directory's names to the disk; systems that do not open directories do that themselves.
pub(crate) fn sync(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        let opened = File::open(folder).and_then(|folder| folder.sync_all());
        opened.map_err(TrainError::io(folder))?;
    }
    Ok(())
}
