//! The results of a sweep, as its directory holds them.

use super::{error::ReportError, json_lines::JsonLines, text::legible};
use crate::{
    statistics::{SIGNIFICANCE, quantile},
    sweep::{Row, Status},
};
use std::{collections::BTreeMap, fs, path::Path};

/// The name of the file of rows.
const ROWS: &str = "sweep.jsonl";

/// The results of a sweep.
#[derive(Debug)]
pub struct SweepResults {
    /// The name of its directory.
    pub name: String,
    /// What was compared, in the order it was run in.
    pub points: Vec<Point>,
    /// What was measured, in order of first appearance.
    pub metrics: Vec<String>,
    /// What follows from it, in words, a paragraph or list each.
    pub verdicts: Vec<Words>,
    /// Rows that were damaged.
    pub damaged: u64,
}

/// A part of what follows from a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// A paragraph.
    Text(String),
    /// An entry of a list.
    Entry(String),
}

/// What was compared: one combination of values.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// The values in a few words.
    pub label: String,
    /// The value of each axis, by its name.
    pub axes: BTreeMap<String, String>,
    /// The runs by their seeds.
    pub runs: BTreeMap<u64, PointRun>,
}

/// One run of a point.
#[derive(Clone, Debug, Default)]
pub struct PointRun {
    /// `finished`, or `failed` and the reason.
    pub status: String,
    /// Optimizer steps.
    pub steps: u64,
    /// FLOPs by the cost model.
    pub flops: f64,
    /// Time it took.
    pub hours: Option<f64>,
    /// What that cost.
    pub dollars: Option<f64>,
    /// Values by metric.
    pub values: BTreeMap<String, f64>,
}

/// Mean of some values, and half of its 95 % interval by Student's t; none for a single value.
#[derive(Clone, Debug, PartialEq)]
pub struct Mean {
    /// The values, in order of their seeds.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Half of the interval.
    pub half: Option<f64>,
}

impl SweepResults {
    /// Whether a directory holds a sweep.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(ROWS).is_file()
    }

    /// Reads the results in `folder`. Damaged rows are counted, and of several rows of the same point, seed and metric the
    /// last is taken.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let path = folder.join(ROWS);
        if !path.is_file() {
            return Err(ReportError::Nothing(folder.to_owned()));
        }
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = absolute.file_name().unwrap_or(absolute.as_os_str());
        let mut results = Self {
            name: legible(&name.to_string_lossy()),
            points: Vec::new(),
            metrics: Vec::new(),
            verdicts: verdicts(folder),
            damaged: 0,
        };
        let mut places = BTreeMap::new();
        let mut lines = JsonLines::new(path.clone());
        let read = lines.read(|row: Row| results.add(row, &mut places));
        read.map_err(ReportError::io(&path))?;
        results.damaged = lines.damaged;
        Ok(results)
    }

    fn add(&mut self, row: Row, places: &mut BTreeMap<BTreeMap<String, String>, usize>) {
        // Runs of other seeds are points of the same values.
        let axes = match row.values.is_empty() {
            true => BTreeMap::from([("point".to_owned(), row.point)]),
            false => row.values,
        };
        let place = *places.entry(axes.clone()).or_insert_with(|| {
            let values: Vec<&str> = axes.values().map(String::as_str).collect();
            self.points.push(Point {
                label: values.join(", "),
                axes,
                runs: BTreeMap::new(),
            });
            self.points.len() - 1
        });
        let run = self.points[place].runs.entry(row.seed).or_default();
        let status = match row.status {
            Status::Finished => "finished",
            Status::Failed => "failed",
        };
        run.status = match row.reason {
            Some(reason) => format!("{status}: {reason}"),
            None => status.to_owned(),
        };
        run.steps = row.steps;
        run.flops = row.flops;
        run.hours = row.hours.or(run.hours);
        run.dollars = row.dollars.or(run.dollars);
        let Some(metric) = row.metric else {
            return;
        };
        if let Some(value) = row.value {
            run.values.insert(metric.clone(), value);
        }
        if !self.metrics.contains(&metric) {
            self.metrics.push(metric);
        }
    }
}

impl Point {
    /// What a metric came to; none if no run has it.
    pub fn mean(&self, metric: &str) -> Option<Mean> {
        let values = self.runs.values().filter_map(|run| run.values.get(metric));
        let values: Vec<f64> = values.copied().filter(|value| value.is_finite()).collect();
        mean(values)
    }
}

/// Mean and interval of some values; none without any.
pub(super) fn mean(values: Vec<f64>) -> Option<Mean> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let half = (values.len() > 1).then(|| {
        let squares = values.iter().map(|value| (value - mean).powi(2));
        let variance = squares.sum::<f64>() / (count - 1.0);
        quantile(1.0 - SIGNIFICANCE / 2.0, count - 1.0) * (variance / count).sqrt()
    });
    Some(Mean { values, mean, half })
}

/// The verdicts of the sweep: what stands in `table.md` beside its table.
fn verdicts(folder: &Path) -> Vec<Words> {
    let text = fs::read(folder.join("table.md")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim);
    let words = lines.filter(|line| !line.is_empty() && !line.starts_with('|'));
    let words = words.map(|line| match line.strip_prefix("- ") {
        Some(entry) => Words::Entry(entry.to_owned()),
        None => Words::Text(line.to_owned()),
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_by_point_and_seed() {
        let folder = tempfile::tempdir().unwrap();
        let row = |point: &str, values: &str, seed: u64, rest: &str| {
            format!(
                r#"{{"point":"{point}","values":{{{values}}},"seed":{seed},"standard_error":null,"steps":9,"flops":1e9,"hours":0.5,"dollars":null,"commit":"abc",{rest}}}"#
            )
        };
        let naive = r#""mask":"naive","ratio":"75 %""#;
        let finished =
            |value: f64| format!(r#""metric":"loss","value":{value},"status":"finished""#);
        let failed = r#""metric":null,"value":null,"status":"failed","reason":"diverged""#;
        let rows = [
            row("1a", naive, 0, &finished(3.0)),
            "\u{fffd}".into(),
            row("1b", naive, 1, &finished(1.0)),
            row("2a", r#""mask":"none","ratio":"0 %""#, 0, failed),
            row("1b", naive, 1, &finished(5.0)),
            row("3", "", 1, &finished(5.0)),
            r#"{"point":"1a","seed":0,"metr"#.into(),
        ];
        fs::write(folder.path().join(ROWS), rows.join("\n")).unwrap();
        let table =
            "| point |\n|---|\n| a |\n\nloss, lower is better:\n\n- a beats b\n- c beats d\n";
        fs::write(folder.path().join("table.md"), table).unwrap();
        let sweep = SweepResults::read(folder.path()).unwrap();
        assert_eq!((sweep.points.len(), sweep.damaged), (3, 1));
        assert_eq!(sweep.points[0].label, "naive, 75 %");
        assert_eq!(sweep.points[1].runs[&0].status, "failed: diverged");
        assert_eq!(sweep.points[1].mean("loss"), None);
        assert_eq!(sweep.points[2].label, "3");
        let mean = sweep.points[0].mean("loss").unwrap();
        assert_eq!((mean.values, mean.mean), (vec![3.0, 5.0], 4.0));
        // 12.706 is Student's t of one degree of freedom in published tables; the standard error is 1.
        assert!((mean.half.unwrap() - 12.706).abs() < 1e-3);
        let words = [
            Words::Text("loss, lower is better:".into()),
            Words::Entry("a beats b".into()),
            Words::Entry("c beats d".into()),
        ];
        assert_eq!(sweep.verdicts, words);
    }
}
