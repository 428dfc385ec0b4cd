//! A sweep as people read it: a table of its settings over their seeds, and what may be said about their differences.

use super::{
    definition::Metric,
    error::SweepError,
    points::{Point, Sweep},
    row::{Row, Status},
};
use crate::Table;
use crate::statistics::{BySeed, Comparison, Direction, SIGNIFICANCE, quantile, rounded, verdicts};
use std::{collections::BTreeSet, fmt};

/// The table and the verdicts of a sweep.
#[derive(Debug)]
pub struct Summary {
    table: Table,
    metrics: Vec<Metric>,
    /// Verdicts of each metric, over all pairs of settings that differ in one axis.
    verdicts: Vec<Vec<Comparison>>,
    /// Metrics whose values mean different things.
    incomparable: Vec<String>,
}

impl Summary {
    /// Sums up the rows of a sweep.
    ///
    /// # Errors
    /// Numbers that cannot be compared.
    pub fn new(sweep: &Sweep, points: &[Point], rows: &[Row]) -> Result<Self, SweepError> {
        let metrics = sweep.definition().metrics.clone();
        let at = format!("equal {}", sweep.definition().budget.unit());
        let values = |metric: &Metric| -> Vec<BySeed> {
            let of = |setting: usize| by_seed(points, rows, setting, &metric.name);
            (0..sweep.settings().len()).map(of).collect()
        };
        let all: Vec<Vec<BySeed>> = metrics.iter().map(values).collect();
        let labels: Vec<String> = sweep
            .settings()
            .iter()
            .map(|setting| setting.label())
            .collect();
        let pairs = pairs(sweep);
        let incomparable: Vec<String> = metrics
            .iter()
            .filter(|metric| conditions(rows, &metric.name) > 1)
            .map(|metric| metric.name.clone())
            .collect();
        let compared = metrics.iter().zip(&all).map(|(metric, values)| {
            if incomparable.contains(&metric.name) {
                return Ok(Vec::new());
            }
            let common = |(a, b): &&(usize, usize)| {
                values[*a].keys().any(|seed| values[*b].contains_key(seed))
            };
            let named = |setting: usize| (labels[setting].as_str(), &values[setting]);
            let pairs: Vec<_> = pairs
                .iter()
                .filter(common)
                .map(|&(a, b)| (named(a), named(b)))
                .collect();
            verdicts(&pairs, metric.better, &at)
        });
        Ok(Self {
            verdicts: compared.collect::<Result<_, _>>()?,
            table: table(&metrics, &labels, &all, points, rows),
            incomparable,
            metrics,
        })
    }

    /// What follows for each metric, in the order of the definition: all pairs of settings that differ in one axis and share a
    /// seed.
    pub fn verdicts(&self) -> impl Iterator<Item = (&Metric, &[Comparison])> {
        let verdicts = self.verdicts.iter().map(Vec::as_slice);
        self.metrics.iter().zip(verdicts)
    }
}

impl fmt::Display for Summary {
    /// As Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        for metric in &self.incomparable {
            writeln!(
                f,
                "\n{metric} is not compared: the points differ in samples, reference, feature network or constants (`conditions` in sweep.jsonl, and their eval.json)"
            )?;
        }
        for (metric, verdicts) in self.verdicts() {
            if verdicts.is_empty() {
                continue;
            }
            let better = match metric.better {
                Direction::Lower => "lower",
                Direction::Higher => "higher",
            };
            writeln!(
                f,
                "\n{}, {better} is better ({:.0} % intervals; errors over all {} pairs kept below {:.0} %, Holm):\n",
                metric.name,
                100.0 * (1.0 - SIGNIFICANCE),
                verdicts.len(),
                100.0 * SIGNIFICANCE
            )?;
            for verdict in verdicts {
                writeln!(f, "- {verdict}")?;
            }
        }
        Ok(())
    }
}

/// The finite values of a metric of a setting, by seed.
fn by_seed(points: &[Point], rows: &[Row], setting: usize, metric: &str) -> BySeed {
    let own = points.iter().filter(|point| point.setting == setting);
    let value = |point: &Point| {
        let mut rows = rows.iter().filter(|row| row.point == point.id);
        let row = rows.find(|row| row.metric.as_deref() == Some(metric))?;
        Some((point.seed, row.value?))
    };
    own.filter_map(value).collect()
}

/// How many different conditions the values of a metric were measured under.
fn conditions(rows: &[Row], metric: &str) -> usize {
    let own = rows
        .iter()
        .filter(|row| row.metric.as_deref() == Some(metric));
    own.map(|row| &row.conditions)
        .collect::<BTreeSet<_>>()
        .len()
}

/// Pairs of settings that differ in one axis.
fn pairs(sweep: &Sweep) -> Vec<(usize, usize)> {
    let settings = sweep.settings();
    let mut pairs = Vec::new();
    for (b, second) in settings.iter().enumerate() {
        for (a, first) in settings[..b].iter().enumerate() {
            let both = first.values.iter().zip(&second.values);
            if both.filter(|(a, b)| a != b).count() == 1 {
                pairs.push((a, b));
            }
        }
    }
    pairs.sort_unstable();
    pairs
}

fn table(
    metrics: &[Metric],
    labels: &[String],
    values: &[Vec<BySeed>],
    points: &[Point],
    rows: &[Row],
) -> Table {
    let names = metrics
        .iter()
        .flat_map(|metric| [metric.name.clone(), "deviation".into()]);
    let header = ["point".to_owned(), "seeds".into()]
        .into_iter()
        .chain(names);
    let costs = ["steps", "FLOPs", "hours", "dollars"].map(str::to_owned);
    let mut table = Table::new(header.chain(costs).collect());
    for (setting, label) in labels.iter().enumerate() {
        let own: Vec<&Point> = points
            .iter()
            .filter(|point| point.setting == setting)
            .collect();
        let recorded: Vec<&Row> = own
            .iter()
            .filter_map(|point| rows.iter().find(|row| row.point == point.id))
            .collect();
        let failed = recorded
            .iter()
            .filter(|row| row.status == Status::Failed)
            .count();
        let finished = recorded.len() - failed;
        let mut seeds = format!("{finished} of {}", own.len());
        if failed > 0 {
            seeds += &format!(", {failed} failed");
        }
        let mut cells = vec![label.clone(), seeds];
        for values in values {
            cells.extend(mean_and_deviation(&values[setting]));
        }
        let mean = |of: fn(&Row) -> Option<f64>| {
            let all: Vec<f64> = recorded.iter().filter_map(|row| of(row)).collect();
            (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
        };
        let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or("-".into(), show);
        cells.push(
            own.first()
                .map_or("-".into(), |point| point.recipe.steps().to_string()),
        );
        cells.push(
            own.first()
                .map_or("-".into(), |point| format!("{:.3e}", point.flops())),
        );
        cells.push(shown(mean(|row| row.hours), |hours| format!("{hours:.3}")));
        cells.push(shown(mean(|row| row.dollars), |dollars| {
            format!("{dollars:.2}")
        }));
        table.push(cells);
    }
    table
}

/// The mean over the seeds with half the width of its 95 % interval, and the standard deviation of a seed.
fn mean_and_deviation(values: &BySeed) -> [String; 2] {
    let count = values.len() as f64;
    let mean = values.values().sum::<f64>() / count;
    match values.len() {
        0 => ["-".into(), "-".into()],
        1 => [rounded(mean, 0.0).0, "-".into()],
        _ => {
            let squares = values.values().map(|value| (value - mean).powi(2));
            let deviation = (squares.sum::<f64>() / (count - 1.0)).sqrt();
            let half = quantile(1.0 - SIGNIFICANCE / 2.0, count - 1.0) * deviation / count.sqrt();
            let (mean, half) = rounded(mean, half);
            [format!("{mean} ± {half}"), rounded(deviation, 0.0).0]
        }
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
    fn means_have_intervals_of_students_t() {
        // Standard deviation 1; 4.3027 / sqrt(3) = 2.484.
        let three = BySeed::from([(0, 4.0), (1, 5.0), (7, 6.0)]);
        assert_eq!(mean_and_deviation(&three), ["5 ± 2", "1.000"]);
        let one = BySeed::from([(0, 0.215_149)]);
        assert_eq!(mean_and_deviation(&one), ["0.2151", "-"]);
        assert_eq!(mean_and_deviation(&BySeed::new()), ["-", "-"]);
    }

    /// Rows of the quickstart's masks, `value(setting, seed)` each.
    fn rows(value: impl Fn(usize, u64) -> f64) -> (Sweep, Vec<Point>, Vec<Row>) {
        let (sweep, points) = (read(MASKS, &[]).unwrap(), points(MASKS, &[]));
        let of = |point: &Point| Row {
            value: Some(value(point.setting, point.seed)),
            ..row(&sweep, point, "held_out/loss")
        };
        let rows = points.iter().map(of).collect();
        (sweep, points, rows)
    }

    #[test]
    fn every_pair_of_an_axis_has_its_verdict() {
        let (sweep, points, mut rows) =
            rows(|setting, seed| setting as f64 + 0.001 * (seed * setting as u64) as f64);
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        let (metric, verdicts) = summary.verdicts().next().unwrap();
        assert_eq!(metric.name, "held_out/loss");
        let pairs: Vec<(&str, &str)> = verdicts
            .iter()
            .map(|verdict| (verdict.a.as_str(), verdict.b.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("deferred", "naive"),
                ("deferred", "none"),
                ("naive", "none")
            ]
        );
        let text = summary.to_string();
        assert!(text.contains("deferred beats naive by 1.00"), "{text}");
        assert!(text.contains("at equal steps, 2 seeds"), "{text}");
        assert!(text.contains("all 3 pairs"), "{text}");
        // A setting without results is no reason to compare the others less.
        rows.retain(|row| row.values["mask"] != "naive");
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        assert_eq!(summary.verdicts().next().unwrap().1.len(), 1);
        assert!(summary.to_string().contains("0 of 2"));
    }

    #[test]
    fn settings_are_compared_within_an_axis() {
        let rest = r#"axes: [
            (name: "a", values: [(name: "1"), (name: "2", set: ["model.mixer.depth=3"])]),
            (name: "b", values: [(name: "3"), (name: "4", set: ["model.mixer.dim=64"])]),
        ], seeds: [0], metrics: [(name: "held_out/loss", better: lower)],"#;
        // Neither (1, 3) with (2, 4) nor (1, 4) with (2, 3).
        assert_eq!(
            pairs(&read(rest, &[]).unwrap()),
            [(0, 1), (0, 2), (1, 3), (2, 3)]
        );
    }

    #[test]
    fn values_of_other_conditions_are_not_compared() {
        let (sweep, points, mut rows) = rows(|setting, _| setting as f64);
        rows[3].conditions = Some("ab".into());
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        assert_eq!(summary.verdicts().next().unwrap().1.len(), 0);
        assert!(
            summary
                .to_string()
                .contains("held_out/loss is not compared")
        );
    }
}
