//! The folder of a sweep: its runs, the table of their results, and what they are results of.

use super::{calibration::Calibration, error::SweepError, points::Point, row::Row};
use microdit::atomic_file;
use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// File of the calibration.
const CALIBRATION: &str = "calibration.json";

/// File of the results.
pub(crate) const ROWS: &str = "sweep.jsonl";

/// The folder of a sweep, in which no other process can be at work.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held while the sweep is at work; the system releases it however the process ends.
    _lock: File,
}

impl Folder {
    /// Creates the folder, or enters the one that is there.
    ///
    /// # Errors
    /// If another process is at work there, or it cannot be written.
    pub fn enter(path: &Path) -> Result<Self, SweepError> {
        for folder in ["recipes", "logs", "points"].map(|name| path.join(name)) {
            fs::create_dir_all(&folder).map_err(SweepError::io(&folder))?;
        }
        let lock = path.join("lock");
        let file = File::create(&lock).map_err(SweepError::io(&lock))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: file,
            }),
            Err(TryLockError::WouldBlock) => Err(SweepError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(SweepError::io(&lock)(error)),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run directory of a point.
    pub fn run(&self, id: &str) -> PathBuf {
        Self::run_in(&self.path, id)
    }

    /// The run directory of a point of the sweep in the folder at `path`.
    pub fn run_in(path: &Path, id: &str) -> PathBuf {
        path.join("points").join(id)
    }

    /// What the processes of a point said.
    pub fn log(&self, id: &str) -> PathBuf {
        self.path.join("logs").join(format!("{id}.txt"))
    }

    /// The recipe a point is trained by, written from its resolved text.
    pub(super) fn write_recipe(&self, id: &str, source: &str) -> Result<PathBuf, SweepError> {
        let path = self.path.join("recipes").join(format!("{id}.ron"));
        atomic_file::write(&path, |path| fs::write(path, source)).map_err(SweepError::io(&path))?;
        Ok(path)
    }

    /// The table of results.
    pub fn table(&self) -> PathBuf {
        self.path.join("table.md")
    }

    /// Reads what was calibrated in the folder at `path`, which need not be there.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn calibration_in(path: &Path) -> Result<Calibration, SweepError> {
        Calibration::read(&path.join(CALIBRATION))
    }

    pub(super) fn calibration(&self) -> Result<Calibration, SweepError> {
        Self::calibration_in(&self.path)
    }

    pub(super) fn write_calibration(&self, calibration: &Calibration) -> Result<(), SweepError> {
        calibration.write(&self.path.join(CALIBRATION))
    }

    /// Whether the folder at `path`, which need not be there, holds a table of results.
    pub fn has_results(path: &Path) -> bool {
        path.join(ROWS).exists()
    }

    fn rows_file(&self) -> PathBuf {
        self.path.join(ROWS)
    }

    pub(super) fn recorded_file(&self) -> PathBuf {
        self.path.join("points.json")
    }

    /// The rows of all points that were recorded.
    ///
    /// # Errors
    /// A file that cannot be read, or a line of it that is not a row.
    pub fn rows(&self) -> Result<Vec<Row>, SweepError> {
        read_rows(&self.rows_file())
    }

    /// Writes all rows, in the order of the points and of the names of their metrics.
    pub(super) fn write_rows(&self, rows: &[Row], points: &[Point]) -> Result<(), SweepError> {
        let places = points.iter().enumerate();
        let places: HashMap<&str, usize> = places
            .map(|(place, point)| (point.id.as_str(), place))
            .collect();
        let mut rows: Vec<&Row> = rows.iter().collect();
        rows.sort_by_key(|row| (places.get(row.point.as_str()), &row.metric));
        let line = |row: &&Row| serde_json::to_string(row).expect("a row is plain data") + "\n";
        let text: String = rows.iter().map(line).collect();
        let path = self.rows_file();
        atomic_file::write(&path, |path| fs::write(path, text)).map_err(SweepError::io(&path))
    }
}

/// Reads a table of results.
///
/// # Errors
/// A file that cannot be read, or a line of it that is not a row.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, SweepError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(SweepError::io(path))?,
    };
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| SweepError::Damaged {
            path: path.to_owned(),
            message: format!("line {}: {error}", i + 1),
        })
    };
    text.lines().enumerate().map(row).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sweep::{
        points::{
            Sweep,
            tests::{MASKS, points, read},
        },
        row::Status,
    };

    /// A row of a finished point.
    pub(in crate::sweep) fn row(sweep: &Sweep, point: &Point, metric: &str) -> Row {
        Row {
            point: point.id.clone(),
            values: sweep.settings()[point.setting]
                .values
                .iter()
                .cloned()
                .collect(),
            seed: point.seed,
            metric: Some(metric.into()),
            value: Some(0.1 + 0.2),
            standard_error: None,
            conditions: None,
            better: None,
            budget: None,
            data: None,
            steps: point.recipe.steps(),
            flops: point.flops(),
            hours: Some(0.5),
            dollars: None,
            commit: Some("abc".into()),
            status: Status::Finished,
            reason: None,
        }
    }

    #[test]
    fn rows_are_in_one_order_whatever_was_finished_first() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Folder::enter(folder.path()).unwrap();
        let sweep = read(MASKS, &[]).unwrap();
        let points = points(MASKS, &[]);
        let two = |point: &Point| ["b", "a"].map(|metric| row(&sweep, point, metric));
        let mut rows: Vec<Row> = points.iter().flat_map(two).collect();
        opened.write_rows(&rows, &points).unwrap();
        let written = fs::read(opened.rows_file()).unwrap();
        rows.rotate_left(5);
        rows.swap(0, 3);
        opened.write_rows(&rows, &points).unwrap();
        assert_eq!(fs::read(opened.rows_file()).unwrap(), written);
        let read = opened.rows().unwrap();
        let told: Vec<(&str, &str)> = read
            .iter()
            .map(|row| (row.point.as_str(), row.metric.as_deref().unwrap()))
            .collect();
        let expected = points
            .iter()
            .flat_map(|point| ["a", "b"].map(|metric| (point.id.as_str(), metric)));
        assert_eq!(told, expected.collect::<Vec<_>>());
        // Bit for bit.
        assert!(read.iter().all(|row| row.value == Some(0.1 + 0.2)));
        fs::write(opened.rows_file(), [&written[..], b"{}\n"].concat()).unwrap();
        let said = opened.rows().unwrap_err().to_string();
        assert!(said.contains("sweep.jsonl: line 13: "), "{said}");
    }

    #[test]
    fn one_process_is_at_work_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = Folder::enter(folder.path()).unwrap();
        assert!(matches!(
            Folder::enter(folder.path()),
            Err(SweepError::Busy(_))
        ));
        drop(first);
        Folder::enter(folder.path()).unwrap();
    }
}
