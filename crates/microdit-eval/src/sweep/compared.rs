//! What may be said about one metric of a sweep: the verdicts over its settings, with what a reader must know to take them right.

use super::{definition::Metric, names, row::Row};
use crate::statistics::{
    BySeed, Comparison, Direction, Labelled, SIGNIFICANCE, StatisticsError, verdicts,
};
use std::{collections::BTreeSet, fmt};

/// One combination of values and what its runs came to by one metric.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arm {
    /// The values in a few words.
    pub(crate) label: String,
    /// The value of each axis, in one order for all arms.
    pub(crate) values: Vec<String>,
    /// What was measured.
    pub(crate) found: BySeed,
}

/// What follows for one metric from the runs of a sweep.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The metric.
    pub metric: Metric,
    /// All pairs of settings that differ in one axis and share a seed; none if the values mean different things.
    pub verdicts: Vec<Comparison>,
    /// Whether all values were measured under the same conditions, as far as these are known.
    pub is_comparable: bool,
}

impl Compared {
    /// Compares `arms` by `metric`, of which `rows` are all values; `at` says what was equal.
    pub(crate) fn new(
        metric: &Metric,
        at: &str,
        arms: &[Arm],
        rows: &[Row],
    ) -> Result<Self, StatisticsError> {
        let is_comparable = count_conditions(rows, &metric.name) <= 1;
        let mut pairs: Vec<(Labelled<'_>, Labelled<'_>)> = Vec::new();
        for (i, a) in arms.iter().enumerate().filter(|_| is_comparable) {
            for b in &arms[i + 1..] {
                let common = a.found.keys().any(|seed| b.found.contains_key(seed));
                if common && differ_in_one(&a.values, &b.values) {
                    pairs.push(((&a.label, &a.found), (&b.label, &b.found)));
                }
            }
        }
        Ok(Self {
            metric: metric.clone(),
            verdicts: verdicts(&pairs, metric.better, at)?,
            is_comparable,
        })
    }

    /// What the verdicts are about, in a sentence; none where there are none to introduce.
    pub fn heading(&self) -> Option<String> {
        let name = &self.metric.name;
        if !self.is_comparable {
            return Some(format!(
                "{name} is not compared: the points differ in samples, reference, feature network, constants, how images were drawn, diffusion family or held-out data (`conditions` in sweep.jsonl, and their recipes and eval.json)"
            ));
        }
        if self.verdicts.is_empty() {
            return None;
        }
        let better = match self.metric.better {
            Direction::Lower => "lower",
            Direction::Higher => "higher",
        };
        let tested = self.verdicts.iter();
        let tested = tested.filter(|verdict| verdict.corrected_p.is_some());
        Some(match tested.count() {
            0 => format!("{name}, {better} is better (nothing to tell a difference from chance):"),
            1 => format!(
                "{name}, {better} is better (± is the {:.0} % interval; the smallest detectable difference is found with 80 % power at that level):",
                100.0 * (1.0 - SIGNIFICANCE),
            ),
            count => format!(
                "{name}, {better} is better (± is the {:.0} % interval of one pair by itself; errors over all {count} pairs kept below {:.0} %, Holm; the smallest detectable difference is found with 80 % power at that level):",
                100.0 * (1.0 - SIGNIFICANCE),
                100.0 * SIGNIFICANCE
            ),
        })
    }
}

impl fmt::Display for Compared {
    /// As Markdown: a blank line, the heading, and a list; nothing where nothing was compared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(heading) = self.heading() else {
            return Ok(());
        };
        writeln!(f, "\n{heading}")?;
        if !self.verdicts.is_empty() {
            writeln!(f)?;
        }
        self.verdicts
            .iter()
            .try_for_each(|verdict| writeln!(f, "- {verdict}"))
    }
}

/// Whether two settings have the same values but for one axis.
pub(super) fn differ_in_one<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    let both = a.iter().zip(b);
    both.filter(|(a, b)| a != b).count() == 1
}

/// How many different conditions the values of a metric were measured under. Rows of older versions do not say for numbers of a
/// log: they are taken with the others.
fn count_conditions(rows: &[Row], metric: &str) -> usize {
    let own = rows
        .iter()
        .filter(|row| row.metric.as_deref() == Some(metric));
    let known = own.filter_map(|row| row.conditions.as_ref());
    known.collect::<BTreeSet<_>>().len()
}

/// The metrics that rows are compared by, in order of first appearance: those that say which way they improve, or in rows of
/// older versions, which do not, all that are known to improve one way, but for the losses at single noise levels.
pub(crate) fn metrics(rows: &[Row]) -> Vec<Metric> {
    let says = rows.iter().any(|row| row.better.is_some());
    let mut found: Vec<Metric> = Vec::new();
    for row in rows {
        let Some(name) = &row.metric else {
            continue;
        };
        let better = match says {
            true => row.better,
            false => names::direction(name),
        };
        if let Some(better) = better.filter(|_| found.iter().all(|known| known.name != *name)) {
            let name = name.clone();
            found.push(Metric { name, better });
        }
    }
    found
}

/// What was equal for all rows, as a verdict says it. Rows of older versions do not name their budget, but have its steps and FLOPs.
pub(crate) fn equal(rows: &[Row]) -> String {
    if let Some(budget) = rows.iter().find_map(|row| row.budget.as_deref()) {
        return format!("equal {budget}");
    }
    let Some(first) = rows.first() else {
        return "equal steps".into();
    };
    let close = |row: &Row| (row.flops - first.flops).abs() <= row.flops / row.steps.max(1) as f64;
    if rows.iter().all(|row| row.steps == first.steps) {
        "equal steps".into()
    } else if rows.iter().all(close) {
        "equal FLOPs".into()
    } else {
        "their own numbers of steps".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::read_rows;
    use std::path::Path;

    #[test]
    fn rows_of_the_version_before_are_read_and_compared() {
        let results = "../../benches/results/2026-11-29-cifar10-masking/sweep.jsonl";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(results);
        let mut rows = read_rows(&path).unwrap();
        for row in &mut rows {
            (row.better, row.budget, row.data) = (None, None, None);
            // As they were: numbers of a log said nothing.
            if row.metric.as_ref().is_some_and(|name| name.contains('/')) {
                row.conditions = None;
            }
        }
        assert_eq!(equal(&rows), "equal steps");
        let names: Vec<(String, Direction)> = metrics(&rows)
            .into_iter()
            .map(|metric| (metric.name, metric.better))
            .collect();
        let expected = [
            ("class-accuracy", Direction::Higher),
            ("fd-classifier", Direction::Lower),
            ("held_out/ema_loss", Direction::Lower),
            ("held_out/loss", Direction::Lower),
        ];
        let expected = expected.map(|(name, better)| (name.to_owned(), better));
        assert_eq!(names, expected);
    }
}
