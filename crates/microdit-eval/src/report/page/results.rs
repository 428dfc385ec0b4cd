//! What was measured of runs: the rows of their `eval.json`, and which of their numbers must not be compared.

use super::{Cell, table};
use crate::{
    measured::{Measured, comparable},
    report::{number::short, run::Run},
};
use maud::{Markup, html};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Columns that come first.
const FIRST: [&str; 4] = ["metric", "value", "standard_error", "interval"];

/// Digits of a checksum that are shown.
const DIGITS: usize = 12;

/// The rows of `eval.json`, with a column for each label.
pub(super) fn section(runs: &[Run]) -> Markup {
    let rows: Vec<(&Run, Map<String, Value>)> = rows(runs)
        .map(|(run, row)| (run, with_labels(row)))
        .collect();
    let others: BTreeSet<&str> = rows
        .iter()
        .flat_map(|(_, row)| row.keys().map(String::as_str))
        .filter(|key| !FIRST.contains(key))
        .collect();
    let heads: Vec<&str> = ["run"].into_iter().chain(FIRST).chain(others).collect();
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|(run, row)| {
            let cells = heads[1..].iter().map(|head| cell(row.get(*head)));
            [Cell::text(&run.label)].into_iter().chain(cells).collect()
        })
        .collect();
    html! {
        @if !cells.is_empty() {
            section { h2 { "Results" } (table(&heads, &cells)) }
        }
    }
}

fn rows(runs: &[Run]) -> impl Iterator<Item = (&Run, &Map<String, Value>)> {
    runs.iter()
        .flat_map(|run| run.results.iter().map(move |row| (run, row)))
}

/// A row whose labels are values like the others, unless one has its name.
fn with_labels(row: &Map<String, Value>) -> Map<String, Value> {
    let mut row = row.clone();
    if let Some(Value::Object(labels)) = row.get("labels").cloned() {
        row.remove("labels");
        for (label, value) in labels {
            row.entry(label).or_insert(value);
        }
    }
    row
}

/// A value: numbers, and texts that are numbers, are sorted as such; an interval by its lower end.
fn cell(value: Option<&Value>) -> Cell {
    match value {
        None | Some(Value::Null) => Cell::text(""),
        Some(Value::Number(number)) => Cell::number(number.as_f64(), short),
        Some(Value::String(text)) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Cell::number(Some(number), |_| text.clone()),
            _ => Cell::text(&words(&Value::String(text.clone()))),
        },
        Some(Value::Array(ends)) => match ends[..] {
            [ref low, ref high] if low.is_number() && high.is_number() => {
                Cell::number(low.as_f64(), |_| {
                    format!("{} .. {}", words(low), words(high))
                })
            }
            _ => Cell::text(&ends.iter().map(words).collect::<Vec<_>>().join(", ")),
        },
        Some(other) => Cell::text(&words(other)),
    }
}

/// A value in words: the fields of an object by their names, of a checksum its beginning.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let digits = text.strip_prefix("sha256:").unwrap_or(text);
            let is_checksum =
                digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            match is_checksum {
                true => digits[..DIGITS].to_owned(),
                false => text.clone(),
            }
        }
        Value::Number(number) => number.as_f64().map_or_else(String::new, short),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields: Vec<String> = fields
                .map(|(name, value)| format!("{name}={}", words(value)))
                .collect();
            fields.join(", ")
        }
        other => other.to_string(),
    }
}

/// Numbers of these runs that stand side by side and mean different things, a sentence for each.
pub(super) fn incomparable(runs: &[Run]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut seen: Vec<(&Run, Measured)> = Vec::new();
    let mut named = BTreeSet::new();
    for (run, row) in rows(runs) {
        // Rows of somebody else's may be anything.
        let Ok(row) = serde_json::from_value::<Measured>(Value::Object(row.clone())) else {
            continue;
        };
        let Some((first, before)) = seen.iter().find(|(_, other)| other.metric == row.metric)
        else {
            seen.push((run, row));
            continue;
        };
        if let Err(difference) = comparable(before, &row)
            && named.insert(row.metric.clone())
        {
            let (one, other) = (&first.label, &run.label);
            notes.push(format!(
                "{} of {one} and of {other}: {difference}",
                row.metric
            ));
        }
    }
    notes.extend(other_losses(runs));
    notes
}

/// Held-out losses that mean other things than those of the first run that has them.
fn other_losses(runs: &[Run]) -> Vec<String> {
    let mut known = runs
        .iter()
        .filter_map(|run| Some((run, run.recipe.as_ref()?.held_out.as_ref()?)));
    let Some((first, conditions)) = known.next() else {
        return Vec::new();
    };
    let note = |(run, others): (&Run, &BTreeMap<String, String>)| {
        let mut keys = conditions.keys().chain(others.keys());
        let key = keys.find(|key| conditions.get(*key) != others.get(*key))?;
        let [one, other] =
            [conditions, others].map(|of| of.get(key).map_or("none", String::as_str));
        let (a, b) = (&first.label, &run.label);
        Some(format!(
            "the held-out losses of {a} and of {b}: not comparable: {key} differs, {one} and {other}"
        ))
    };
    known.filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::RecipeFacts;
    use serde_json::json;
    use std::path::Path;

    fn run(label: &str, results: &[Value], samples: &str) -> Run {
        let mut run = Run::new(Path::new(label));
        run.results = results
            .iter()
            .map(|row| row.as_object().unwrap().clone())
            .collect();
        let held_out = BTreeMap::from([("evaluation.samples".to_owned(), samples.to_owned())]);
        run.recipe = Some(RecipeFacts {
            held_out: Some(held_out),
            ..RecipeFacts::default()
        });
        run
    }

    #[test]
    fn numbers_are_short_and_sort() {
        let row = json!({
            "metric": "kid", "value": 0.012_345_678_901_234_5, "interval": [0.011_111_111_1, 0.013_333_333_3],
            "samples": 5000, "labels": {"guidance": "1.5", "solver": "Heun", "weights": format!("sha256:{}", "cd".repeat(32))},
            "network": {"name": "pytorch-fid", "sha256": "ab".repeat(32)},
        });
        let page = section(&[run("one", &[row], "8")]).into_string();
        for part in [
            "0.01235",
            "0.01111 .. 0.01333",
            "data-value=\"0.0111111111\"",
            "data-value=\"1.5\"",
            ">guidance<",
            ">Heun<",
            "name=pytorch-fid, sha256=abababababab<",
            ">cdcdcdcdcdcd<",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }

    #[test]
    fn numbers_that_mean_different_things_are_named() {
        let of = |metric: &str, samples: u64| json!({"metric": metric, "value": 1.0, "samples": samples});
        let rows = |samples| [of("kid", samples), of("fid", 9)];
        let one = run("one", &rows(400), "4");
        assert!(incomparable(&[one]).is_empty());
        let two = [run("one", &rows(400), "4"), run("two", &rows(9), "400")];
        assert_eq!(
            incomparable(&two),
            [
                "kid of one and of two: not comparable: the number of pictures differs, 400 and 9",
                "the held-out losses of one and of two: not comparable: evaluation.samples differs, 4 and 400",
            ]
        );
        let alike = [run("one", &rows(400), "4"), run("two", &rows(400), "4")];
        assert!(incomparable(&alike).is_empty());
    }
}
