//! A sweep as people read it: a table of its settings over their seeds, and what may be said about their differences.

use super::{
    compared::{Arm, Compared},
    definition::Setting,
    error::SweepError,
    points::{Point, Sweep},
    row::{Row, Status},
};
use crate::Table;
use crate::statistics::{BySeed, Scatter, rounded, size};
use std::fmt;

/// The table and the verdicts of a sweep.
#[derive(Debug)]
pub struct Summary {
    table: Table,
    compared: Vec<Compared>,
}

impl Summary {
    /// Sums up the rows of a sweep.
    ///
    /// # Errors
    /// Numbers that cannot be compared.
    pub fn new(sweep: &Sweep, points: &[Point], rows: &[Row]) -> Result<Self, SweepError> {
        let metrics = &sweep.definition().metrics;
        let at = format!("equal {}", sweep.definition().budget.unit());
        let settings = sweep.settings().iter().enumerate();
        let all: Vec<Vec<Arm>> = metrics
            .iter()
            .map(|metric| {
                let arm = |(index, setting): (usize, &Setting)| Arm {
                    label: setting.label(),
                    values: setting
                        .values
                        .iter()
                        .map(|(_, name)| name.clone())
                        .collect(),
                    found: by_seed(points, rows, index, &metric.name),
                };
                settings.clone().map(arm).collect()
            })
            .collect();
        let compared = metrics
            .iter()
            .zip(&all)
            .map(|(metric, arms)| Compared::new(metric, &at, arms, rows));
        Ok(Self {
            compared: compared.collect::<Result<_, _>>()?,
            table: table(sweep, &all, points, rows),
        })
    }

    /// What follows for each metric, in the order of the definition.
    pub fn compared(&self) -> &[Compared] {
        &self.compared
    }
}

impl fmt::Display for Summary {
    /// As Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        self.compared
            .iter()
            .try_for_each(|compared| write!(f, "{compared}"))
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

fn table(sweep: &Sweep, arms: &[Vec<Arm>], points: &[Point], rows: &[Row]) -> Table {
    let metrics = &sweep.definition().metrics;
    let names = metrics
        .iter()
        .flat_map(|metric| [metric.name.clone(), "deviation".into()]);
    let header = ["point".to_owned(), "seeds".into()]
        .into_iter()
        .chain(names);
    let costs = ["steps", "FLOPs", "hours", "dollars"].map(str::to_owned);
    let mut table = Table::new(header.chain(costs).collect());
    for (index, setting) in sweep.settings().iter().enumerate() {
        let own: Vec<&Point> = points
            .iter()
            .filter(|point| point.setting == index)
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
        let mut cells = vec![setting.label(), seeds];
        for arms in arms {
            cells.extend(mean_and_deviation(&arms[index].found));
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

/// The mean over the seeds with half the width of its 95 % interval, and the standard deviation of a seed. Equal values say nothing
/// about how others would scatter.
fn mean_and_deviation(values: &BySeed) -> [String; 2] {
    let found: Vec<f64> = values.values().copied().collect();
    if found.is_empty() {
        return ["-".into(), "-".into()];
    }
    let (mean, scatter) = Scatter::around_mean(&found, size(&found));
    let Some(scatter) = scatter else {
        return [rounded(mean, 0.0).0, "-".into()];
    };
    let (mean, half) = rounded(mean, scatter.half_width);
    let deviation = rounded(scatter.deviation, 0.0).0;
    [format!("{mean} ± {half}"), deviation]
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
        let equal = BySeed::from([(0, 0.25), (1, 0.25)]);
        assert_eq!(mean_and_deviation(&equal), ["0.2500", "-"]);
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
        let compared = &summary.compared()[0];
        assert_eq!(compared.metric.name, "held_out/loss");
        let pairs: Vec<(&str, &str)> = compared
            .verdicts
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
        assert_eq!(summary.compared()[0].verdicts.len(), 1);
        assert!(summary.to_string().contains("0 of 2"));
    }

    #[test]
    fn settings_are_compared_within_an_axis() {
        let rest = r#"axes: [
            (name: "a", values: [(name: "1"), (name: "2", set: ["model.mixer.depth=3"])]),
            (name: "b", values: [(name: "3"), (name: "4", set: ["model.mixer.dim=64"])]),
        ], seeds: [0], metrics: [(name: "held_out/loss", better: lower)],"#;
        let (sweep, points) = (read(rest, &[]).unwrap(), points(rest, &[]));
        let rows: Vec<Row> = points
            .iter()
            .map(|point| row(&sweep, point, "held_out/loss"))
            .collect();
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        let pairs: Vec<[&str; 2]> = summary.compared()[0]
            .verdicts
            .iter()
            .map(|verdict| [verdict.a.as_str(), verdict.b.as_str()])
            .collect();
        // Neither (1, 3) with (2, 4) nor (1, 4) with (2, 3).
        assert_eq!(
            pairs,
            [
                ["1, 3", "1, 4"],
                ["1, 3", "2, 3"],
                ["1, 4", "2, 4"],
                ["2, 3", "2, 4"]
            ]
        );
    }

    #[test]
    fn values_of_other_conditions_are_not_compared() {
        let (sweep, points, mut rows) = rows(|setting, _| setting as f64);
        // Rows of before, which do not say.
        rows[3].conditions = Some("ab".into());
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        assert_eq!(summary.compared()[0].verdicts.len(), 3);
        rows[0].conditions = Some("cd".into());
        let summary = Summary::new(&sweep, &points, &rows).unwrap();
        assert_eq!(summary.compared()[0].verdicts.len(), 0);
        assert!(
            summary
                .to_string()
                .contains("held_out/loss is not compared")
        );
    }
}
