//! What the finished points of a sweep are results of: a definition that would make others of them is refused, with the
//! difference.

use super::{
    error::SweepError,
    folder::Folder,
    points::{Point, Sweep},
    row::{Row, Status},
};
use microdit::atomic_file;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io::ErrorKind};

/// Keys of a point that are told where it differs from what was recorded.
const MOST_KEYS: usize = 6;

/// A setting whose points have been begun: what they are results of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// Names of its values by their axes.
    values: BTreeMap<String, String>,
    /// Identities of its points by their seeds.
    points: BTreeMap<u64, String>,
    /// What decides its results, but for the seed.
    decisive: BTreeMap<String, String>,
    /// How its points are evaluated.
    eval: Vec<String>,
}

impl Folder {
    /// Checks that all finished points in `rows` are among `points`, and records what these are.
    ///
    /// # Errors
    /// Finished points that the sweep no longer has, each with what is different about it.
    pub(super) fn record(
        &self,
        sweep: &Sweep,
        points: &[Point],
        rows: &[Row],
    ) -> Result<(), SweepError> {
        let path = self.recorded_file();
        let before: Vec<Recorded> = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            text => {
                let text = text.map_err(SweepError::io(&path))?;
                serde_json::from_slice(&text).map_err(|error| SweepError::Damaged {
                    path: path.clone(),
                    message: error.to_string(),
                })?
            }
        };
        let now = recorded(sweep, points);
        let finished = rows.iter().filter(|row| row.status == Status::Finished);
        let mut differences: Vec<String> = finished
            .filter_map(|row| changed(row, &before, &now))
            .collect();
        differences.dedup();
        if !differences.is_empty() {
            return Err(SweepError::Changed {
                folder: self.path().to_owned(),
                differences,
            });
        }
        if now == before {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&now).expect("points are plain data") + "\n";
        atomic_file::write(&path, |path| fs::write(path, text)).map_err(SweepError::io(&path))
    }
}

/// What the points of every setting are results of.
fn recorded(sweep: &Sweep, points: &[Point]) -> Vec<Recorded> {
    let of = |index: usize| {
        let of_setting = || points.iter().filter(move |point| point.setting == index);
        let mut decisive = of_setting()
            .next()
            .map_or_else(BTreeMap::new, |point| point.decisive.clone());
        decisive.remove("seed");
        Recorded {
            values: sweep.settings()[index].values.iter().cloned().collect(),
            points: of_setting()
                .map(|point| (point.seed, point.id.clone()))
                .collect(),
            decisive,
            eval: sweep.definition().eval.clone(),
        }
    };
    (0..sweep.settings().len()).map(of).collect()
}

/// What is no longer as it was for the point of a row; nothing if it is the same.
fn changed(row: &Row, before: &[Recorded], now: &[Recorded]) -> Option<String> {
    let has = |all: &&Recorded| all.points.get(&row.seed) == Some(&row.point);
    let old = before.iter().find(has);
    if let Some(new) = now.iter().find(has) {
        let evaluated = old.filter(|old| !old.eval.is_empty() && old.eval != new.eval)?;
        return Some(format!("eval: {:?} -> {:?}", evaluated.eval, new.eval));
    }
    let label: Vec<&str> = row.values.values().map(String::as_str).collect();
    let label = label.join(", ");
    let Some(new) = now.iter().find(|one| one.values == row.values) else {
        return Some(format!("{label}: no longer there"));
    };
    let keys = old.map_or_else(Vec::new, |old| differences(&old.decisive, &new.decisive));
    Some(match (new.points.get(&row.seed), &keys[..]) {
        (None, []) => format!("{label}: seed {} is no longer there", row.seed),
        (Some(id), []) => {
            format!(
                "{label}, seed {}: it was point {}, and is {id} now",
                row.seed, row.point
            )
        }
        (_, keys) => format!("{label}: {}", keys.join("; ")),
    })
}

/// The keys in which two sets of values differ.
fn differences(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let value = |values: &BTreeMap<String, String>, key: &str| {
        values
            .get(key)
            .cloned()
            .unwrap_or_else(|| "(absent)".into())
    };
    let added = new.keys().filter(|key| !old.contains_key(*key));
    let differing = old
        .keys()
        .chain(added)
        .filter(|key| old.get(*key) != new.get(*key));
    let all: Vec<String> = differing
        .map(|key| format!("{key}: {} -> {}", value(old, key), value(new, key)))
        .collect();
    match all.len() {
        count if count > MOST_KEYS => {
            let more = format!("and {} more", count - MOST_KEYS);
            all.into_iter().take(MOST_KEYS).chain([more]).collect()
        }
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{
        folder::tests::row,
        points::tests::{MASKS, points, read},
    };

    #[test]
    fn what_would_change_finished_points_is_refused_with_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Folder::enter(folder.path()).unwrap();
        let sweep = read(MASKS, &[]).unwrap();
        let own = points(MASKS, &[]);
        // Of the naive mask, one seed is finished, and one of the deferred mask failed.
        let mut rows = vec![row(&sweep, &own[3], "a"), row(&sweep, &own[0], "a")];
        rows[1].status = Status::Failed;
        opened.record(&sweep, &own, &rows).unwrap();
        let recorded = |rest: &str, sets: &[&str]| {
            let sweep = read(rest, sets).unwrap();
            let points = points(rest, sets);
            opened
                .record(&sweep, &points, &rows)
                .map_err(|error| error.to_string())
        };
        for (rest, sets, part) in [
            (
                MASKS.to_owned(),
                &["optimizer.lr=0.003"][..],
                "naive: stages.masked.optimizer.lr: 0.002 -> 0.003",
            ),
            (
                MASKS.replace("0.75", "0.25"),
                &[],
                "masking.ratio: 0.75 -> 0.25",
            ),
            (
                MASKS.replace("[0, 3]", "[0]"),
                &[],
                "naive: seed 3 is no longer there",
            ),
            (
                MASKS.replace("naive\"", "other\"").replace("0.75", "0.5"),
                &[],
                "naive: no longer there",
            ),
        ] {
            let said = recorded(&rest, sets).unwrap_err();
            assert!(said.contains(part), "no {part} in {said}");
            assert!(!said.contains("deferred"), "{said}");
        }
        // What only failed may change, and names may.
        let mended = MASKS.replace(
            "(name: \"deferred\")",
            "(name: \"deferred\", set: [\"stages.masked.masking.ratio=0.5\"])",
        );
        recorded(&mended, &[]).unwrap();
        recorded(&MASKS.replace("naive\"", "other\""), &[]).unwrap();
        recorded(MASKS, &[]).unwrap();
        // An evaluation may be added, and not be changed.
        let evaluated = |arguments: &str| format!("{MASKS} eval: [{arguments}]");
        recorded(&evaluated("\"--samples\", \"100\""), &[]).unwrap();
        let said = recorded(&evaluated("\"--samples\", \"200\""), &[]).unwrap_err();
        assert!(
            said.contains("eval: [\"--samples\", \"100\"] -> "),
            "{said}"
        );
        // Without the record, the identities still tell.
        fs::remove_file(opened.recorded_file()).unwrap();
        let said = recorded(MASKS, &["optimizer.lr=0.003"]).unwrap_err();
        assert!(
            said.contains(&format!("naive, seed 3: it was point {}", own[3].id)),
            "{said}"
        );
    }
}
