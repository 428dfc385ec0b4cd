//! The results of a sweep, as its directory holds them.

use super::{error::ReportError, json_lines::JsonLines, text::legible};
use crate::{
    statistics::{BySeed, Scatter, size},
    sweep::{
        Compared, ROWS, Row, Status,
        compared::{self, Arm},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The status of a run that ended well.
const FINISHED: &str = "finished";

/// The results of a sweep.
#[derive(Debug)]
pub struct SweepResults {
    /// The name of its directory.
    pub name: String,
    /// What was compared, in the order it was run in.
    pub points: Vec<Point>,
    /// What was measured, in order of first appearance.
    pub metrics: Vec<String>,
    /// What follows from it for each metric that is compared.
    pub compared: Vec<Compared>,
    /// Rows that were damaged.
    pub damaged: u64,
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
    /// The identity of the run, by which its directory is named.
    pub id: String,
    /// Commit of the program that finished it.
    pub commit: Option<String>,
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

/// Mean of some values, and half of its 95 % interval by Student's t; none for a single value, nor for values that are all the
/// same.
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
            compared: Vec::new(),
            damaged: 0,
        };
        let mut places = BTreeMap::new();
        let mut lines = JsonLines::new(path.clone());
        let mut rows = BTreeMap::new();
        let mut read = 0usize;
        let added = lines.read(|row: Row| {
            results.add(row.clone(), &mut places);
            // What is compared is what is shown: the last of several rows.
            let key = (row.point.clone(), row.seed, row.metric.clone());
            let place = rows.get(&key).map_or(read, |(place, _)| *place);
            rows.insert(key, (place, row));
            read += 1;
        });
        added.map_err(ReportError::io(&path))?;
        results.damaged = lines.damaged;
        let mut rows: Vec<(usize, Row)> = rows.into_values().collect();
        rows.sort_by_key(|(place, _)| *place);
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        results.compare(&rows);
        Ok(results)
    }

    /// Compares the points by what their rows are to be compared by.
    fn compare(&mut self, rows: &[Row]) {
        let at = compared::equal(rows);
        let axes: BTreeSet<&String> = self
            .points
            .iter()
            .flat_map(|point| point.axes.keys())
            .collect();
        let arms = |metric: &str| -> Vec<Arm> {
            let arm = |point: &Point| Arm {
                label: point.label.clone(),
                values: axes
                    .iter()
                    .map(|axis| point.axes.get(*axis).cloned().unwrap_or_default())
                    .collect(),
                found: point.finite(metric),
            };
            self.points.iter().map(arm).collect()
        };
        let metrics = compared::metrics(rows);
        // All values are finite, and pairs without a common seed are none: nothing is left to go wrong.
        let found = metrics
            .iter()
            .filter_map(|metric| Compared::new(metric, &at, &arms(&metric.name), rows).ok());
        self.compared = found.collect();
    }

    /// A run of each of the first `most` points, with the point's name: of the first seed that all of them finished, or else of the
    /// first that each has.
    pub fn first_runs(&self, most: usize) -> impl Iterator<Item = (&str, &PointRun)> {
        let points = &self.points[..self.points.len().min(most)];
        let finished = |seed: &&u64| {
            let runs = points.iter().map(|point| point.runs.get(*seed));
            runs.flatten().filter(|run| run.status == FINISHED).count() == points.len()
        };
        let seeds = points.first().map(|point| point.runs.keys());
        let common = seeds.into_iter().flatten().find(finished);
        points.iter().filter_map(move |point| {
            let run = common.and_then(|seed| point.runs.get(seed));
            let run = run.or_else(|| point.runs.values().next())?;
            Some((point.label.as_str(), run))
        })
    }

    fn add(&mut self, row: Row, places: &mut BTreeMap<BTreeMap<String, String>, usize>) {
        // Runs of other seeds are points of the same values.
        let axes = match row.values.is_empty() {
            true => BTreeMap::from([("point".to_owned(), row.point.clone())]),
            false => row.values,
        };
        let place = *places.entry(axes.clone()).or_insert_with(|| {
            let values: Vec<&str> = axes.values().map(String::as_str).collect();
            self.points.push(Point {
                label: legible(&values.join(", ")),
                axes,
                runs: BTreeMap::new(),
            });
            self.points.len() - 1
        });
        let run = self.points[place].runs.entry(row.seed).or_default();
        let status = match row.status {
            Status::Finished => FINISHED,
            Status::Failed => "failed",
        };
        run.status = match row.reason {
            Some(reason) => format!("{status}: {reason}"),
            None => status.to_owned(),
        };
        run.id = row.point;
        run.commit = row.commit;
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
        mean(self.finite(metric).into_values().collect())
    }

    /// The finite values of a metric by their seeds.
    fn finite(&self, metric: &str) -> BySeed {
        let runs = self.runs.iter();
        let values = runs.filter_map(|(seed, run)| Some((*seed, *run.values.get(metric)?)));
        values.filter(|(_, value)| value.is_finite()).collect()
    }
}

/// Mean and interval of some values; none without any.
pub(super) fn mean(values: Vec<f64>) -> Option<Mean> {
    if values.is_empty() {
        return None;
    }
    let (mean, scatter) = Scatter::around_mean(&values, size(&values));
    let half = scatter.map(|scatter| scatter.half_width);
    Some(Mean { values, mean, half })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        assert_eq!(sweep.points[0].runs[&1].id, "1b");
        let first = |most| {
            let runs = sweep.first_runs(most);
            runs.map(|(_, run)| run.id.as_str()).collect::<Vec<_>>()
        };
        // The second point finished none: the first of each.
        assert_eq!(first(9), ["1a", "2a", "3"]);
        assert_eq!(first(1), ["1a"]);
        assert_eq!(sweep.points[0].runs[&1].commit.as_deref(), Some("abc"));
        // Seed 1 is the first that all of them finished.
        let mended = row("2b", r#""mask":"none","ratio":"0 %""#, 1, &finished(2.0));
        fs::write(
            folder.path().join(ROWS),
            [&rows[..6], &[mended, String::new()]].concat().join("\n"),
        )
        .unwrap();
        let sweep = SweepResults::read(folder.path()).unwrap();
        let common: Vec<&str> = sweep
            .first_runs(9)
            .map(|(_, run)| run.id.as_str())
            .collect();
        assert_eq!(common, ["1b", "2b", "3"]);
    }

    #[test]
    fn the_rows_alone_have_their_verdicts() {
        let folder = tempfile::tempdir().unwrap();
        let row = |mask: &str, seed: u64, value: f64, rest: &str| {
            format!(
                r#"{{"point":"{mask}{seed}","values":{{"mask":"{mask}"}},"seed":{seed},"metric":"held_out/loss","value":{value},"standard_error":null,"steps":9,"flops":1e9,"hours":null,"dollars":null,"commit":null,"status":"finished"{rest}}}"#
            )
        };
        let table = |rest: &str, steps: &str| {
            let (low, high) = ([20.1, 19.9, 20.6], [24.2, 24.1, 24.6]);
            let of = |mask: &str, values: [f64; 3]| -> String {
                let rows = (0..).zip(values);
                rows.map(|(seed, value)| row(mask, seed, value, rest) + "\n")
                    .collect()
            };
            of("low", low) + &of("high", high).replace("\"steps\":9", steps)
        };
        let read = |text: &str| {
            fs::write(folder.path().join(ROWS), text).unwrap();
            let sweep = SweepResults::read(folder.path()).unwrap();
            let compared = sweep.compared.iter();
            compared.map(ToString::to_string).collect::<String>()
        };
        let same = "\"steps\":9";
        let said = read(&table("", same));
        // As the summary of a sweep says it.
        assert!(
            said.ends_with("- low beats high by 4.1 ± 0.2 at equal steps, 3 seeds (smallest detectable difference 0.3)\n"),
            "{said}"
        );
        assert!(said.contains("held_out/loss, lower is better"), "{said}");
        let said = read(&table("", "\"steps\":10"));
        assert!(said.contains("at equal FLOPs, 3 seeds"), "{said}");
        let said = read(&table(
            r#","better":"higher","budget":"hours""#,
            "\"steps\":90",
        ));
        assert!(
            said.contains("high beats low by 4.1 ± 0.2 at equal hours"),
            "{said}"
        );
        // One of two rows of a metric says what it was measured under, and then the other.
        let text = table(r#","conditions":"ab""#, same);
        assert!(read(&text).contains("beats"));
        let said = read(&text.replacen("ab", "cd", 1));
        assert!(
            said.contains("held_out/loss is not compared") && !said.contains("beats"),
            "{said}"
        );
    }
}
