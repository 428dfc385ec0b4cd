//! Grids of samples in a run directory.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// What every PNG begins with.
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A grid, which is not in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    path: PathBuf,
    /// Finished steps it was drawn after; none for the run's last.
    pub(super) step: Option<u64>,
    bytes: u64,
}

impl Grid {
    /// Its bytes, if it is a PNG.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(&self.path).ok()?;
        file.take(self.bytes).read_to_end(&mut bytes).ok()?;
        bytes.starts_with(SIGNATURE).then_some(bytes)
    }
}

/// The grids of the run in `folder`, in order of their steps: `samples-STEP.png`, `samples.png`, and
/// `samples-step-STEP.png` of a run that was extended. Of more than `most` those are taken that lie evenly among them, the
/// newest included; and of these, from the newest on, as many as take no more than `room` bytes. Also how many were left out.
pub(super) fn find(folder: &Path, most: usize, room: u64) -> io::Result<(Vec<Grid>, usize)> {
    let mut grids = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(step) = name.to_str().and_then(step_of) else {
            continue;
        };
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            grids.push(Grid {
                path: entry.path(),
                step,
                bytes: metadata.len(),
            });
        }
    }
    // The last one of the run has no step.
    grids.sort_by_key(|grid| (grid.step.is_none(), grid.step));
    let all = grids.len();
    let mut taken = Vec::new();
    let mut left = room;
    for i in (0..most.min(all)).rev() {
        // Of 10, four are numbers 2, 5, 7 and 10.
        let place = (i + 1) * all / most.min(all) - 1;
        let grid = &grids[place];
        if grid.bytes > left {
            break;
        }
        left -= grid.bytes;
        taken.push(grid.clone());
    }
    taken.reverse();
    let left_out = all - taken.len();
    Ok((taken, left_out))
}

/// The step in the name of a grid, if the name is one.
fn step_of(name: &str) -> Option<Option<u64>> {
    let middle = name.strip_prefix("samples")?.strip_suffix(".png")?;
    if middle.is_empty() {
        return Some(None);
    }
    let digits = middle.strip_prefix('-')?;
    let digits = digits.strip_prefix("step-").unwrap_or(digits);
    let step = digits.bytes().all(|byte| byte.is_ascii_digit());
    step.then(|| digits.parse().ok()).flatten().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_told_by_their_names() {
        for (name, step) in [
            ("samples.png", Some(None)),
            ("samples-00000500.png", Some(Some(500))),
            ("samples-step-12.png", Some(Some(12))),
            ("samples-.png", None),
            ("samples-a.png", None),
            ("samples-99999999999999999999.png", None),
            ("samples-5.png.1-2.part", None),
            ("circle.png", None),
        ] {
            assert_eq!(step_of(name), step, "{name}");
        }
    }

    #[test]
    fn of_many_grids_those_are_taken_that_lie_evenly() {
        let folder = tempfile::tempdir().unwrap();
        let png = [SIGNATURE, &[0; 92]].concat();
        for step in 1..=9 {
            fs::write(folder.path().join(format!("samples-{step:08}.png")), &png).unwrap();
        }
        fs::write(folder.path().join("samples.png"), b"not a png").unwrap();
        let steps = |most, room| {
            let (grids, left_out) = find(folder.path(), most, room).unwrap();
            let steps: Vec<Option<u64>> = grids.iter().map(|grid| grid.step).collect();
            (steps, left_out)
        };
        assert_eq!(steps(4, 1000), (vec![Some(2), Some(5), Some(7), None], 6));
        assert_eq!(steps(4, 210), (vec![Some(5), Some(7), None], 7));
        assert_eq!(steps(20, 10_000).0.len(), 10);
        assert_eq!(steps(0, 1000), (Vec::new(), 10));
        let (grids, _) = find(folder.path(), 2, 1000).unwrap();
        assert_eq!(grids[0].read(), Some(png));
        assert_eq!(grids[1].read(), None);
    }
}
