//! `eval.json`: every number that was measured, and a table of them.

use super::error::EvaluateError;
use crate::{Table, measured::Measured, statistics::rounded};
use microdit::checksum::hexadecimal;
use microdit_data::files::{read_json, write_json};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// What `eval.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// One number each, in the order of what they depend on.
    pub results: Vec<Measured>,
}

impl Record {
    /// Reads a file; nothing, if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, EvaluateError> {
        match path.try_exists() {
            Ok(false) => Ok(Self::default()),
            _ => Ok(read_json(path)?),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EvaluateError> {
        Ok(write_json(path, self)?)
    }

    /// Adds a number, in place of one that depends on the same.
    pub fn add(&mut self, row: Measured) {
        self.results.retain(|old| identity(old) != identity(&row));
        self.results.push(row);
        self.results.sort_by_key(identity);
    }

    /// A table in Markdown: values with as many digits as their standard errors have.
    pub fn table(&self) -> String {
        let header = [
            "metric",
            "value",
            "95 %",
            "pictures",
            "how",
            "compared with",
            "network",
        ];
        let mut table = Table::new(header.map(str::to_owned).into());
        for row in &self.results {
            // All with the digits that the standard error leaves, or of an interval by itself a quarter of it.
            let quarter = || row.interval.map(|[low, high]| (high - low) / 4.0);
            let error = row
                .standard_error
                .filter(|&error| error > 0.0)
                .or_else(quarter);
            let shown = |value| rounded(value, error.unwrap_or(f64::NAN)).0;
            let interval = row.interval.map_or_else(String::new, |[low, high]| {
                format!("{} .. {}", shown(low), shown(high))
            });
            let labels: Vec<String> = row
                .labels
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "weights" => format!("{key} {}", digits(value)),
                    _ => format!("{key} {value}"),
                })
                .collect();
            let reference = row.reference.as_ref();
            let network = row.network.as_ref();
            table.push(vec![
                row.metric.clone(),
                shown(row.value),
                interval,
                row.samples.to_string(),
                labels.join(", "),
                reference.map_or_else(String::new, |set| {
                    let count = set.samples.map_or_else(String::new, |n| format!(", {n}"));
                    format!("{} ({}{count})", set.name, short(&set.sha256))
                }),
                network.map_or_else(String::new, |network| {
                    let resize = &network.resize;
                    format!("{} ({}), {resize}", network.name, short(&network.sha256))
                }),
            ]);
        }
        table.to_string()
    }
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

/// The first 8 digits of the checksum of weights, or of what is said of several files.
fn digits(weights: &str) -> String {
    let sha256 = weights.strip_prefix("sha256:").unwrap_or(weights);
    let one = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    match one {
        true => sha256[..8].to_owned(),
        false => hexadecimal(&Sha256::digest(weights)[..4]),
    }
}

/// All but the numbers themselves.
fn identity(row: &Measured) -> String {
    let mut bare = Measured {
        value: 0.0,
        standard_error: None,
        interval: None,
        ..row.clone()
    };
    // Nothing depends on it, and rows of before say nothing of it.
    if let Some(network) = &mut bare.network {
        network.source = None;
    }
    let labels: Vec<String> = bare
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let rest = serde_json::to_string(&bare).expect("a row is plain data");
    format!("{}\n{rest}", labels.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::prompt_accuracy::mean;

    fn row(metric: &str, guidance: &str, values: &[f64]) -> Measured {
        let mut row = mean(metric, values);
        row.labels.insert("guidance".into(), guidance.into());
        row
    }

    #[test]
    fn a_number_replaces_the_one_that_depends_on_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eval.json");
        let mut record = Record::read(&path).unwrap();
        record.add(row("b", "2", &[0.0, 1.0]));
        record.add(row("a", "2", &[0.5, 0.75]));
        record.add(row("b", "1.5", &[1.0, 1.0]));
        record.write(&path).unwrap();
        let mut other = Record::read(&path).unwrap();
        assert_eq!(other, record);
        other.add(row("b", "2", &[1.0, 0.5]));
        let found: Vec<(&str, f64)> = other
            .results
            .iter()
            .map(|row| (row.metric.as_str(), row.value))
            .collect();
        assert_eq!(found, [("b", 1.0), ("a", 0.625), ("b", 0.75)]);
        // In whatever order they are added.
        let mut turned = Record::default();
        for row in record.results.iter().rev() {
            turned.add(row.clone());
        }
        assert_eq!(turned, record);
        std::fs::write(&path, "{\"results\": [").unwrap();
        let error = Record::read(&path).unwrap_err().to_string();
        assert!(error.contains("eval.json"), "{error}");
    }

    #[test]
    fn a_table_has_a_line_for_each_number() {
        let mut record = Record::default();
        record.add(row("prompt-accuracy", "2", &[0.0, 1.0, 1.0, 1.0]));
        record.add(row("one", "2", &[0.5]));
        let table = record.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("|---"), "{table}");
        // A standard error of a quarter leaves one digit.
        assert!(
            lines[3].contains(" 0.8 |") && lines[3].contains(" .. "),
            "{table}"
        );
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{table}");
    }

    #[test]
    fn rows_of_other_weights_settings_and_prompts_are_told_apart() {
        let mut record = Record::default();
        let sums = ["ab", "cd"].map(|pair| format!("sha256:{}", pair.repeat(32)));
        let adapted = format!("{} + 0.5 x {}", sums[0], sums[1]);
        for (weights, rescale, pictures) in [
            (&sums[0], "0", "01020304"),
            (&sums[1], "0", "01020304"),
            (&adapted, "0", "01020304"),
            (&sums[0], "0.7", "01020304"),
            (&sums[0], "0", "05060708"),
        ] {
            let mut row = row("fd", "5", &[0.5]);
            let labels = [
                ("weights", &**weights),
                ("rescale", rescale),
                ("pictures", pictures),
            ];
            row.labels
                .extend(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
            record.add(row);
        }
        let table = record.table();
        let rows: std::collections::BTreeSet<&str> = table.lines().skip(2).collect();
        assert_eq!(rows.len(), 5, "{table}");
        let first = "guidance 5, pictures 01020304, rescale 0, weights abababab";
        assert!(table.contains(first), "{table}");
    }

    #[test]
    fn a_row_of_before_is_replaced_by_one_that_says_where_the_network_is_from() {
        let mut row = row("fd-dinov2", "2", &[0.5]);
        let network =
            r#"{"family": "dino-v2", "name": "dinov2-base", "sha256": "00", "resize": "none"}"#;
        row.network = Some(serde_json::from_str(network).unwrap());
        let mut record = Record::default();
        record.add(row.clone());
        let source = "https://huggingface.co/facebook/dinov2-base";
        row.network.as_mut().unwrap().source = Some(source.into());
        record.add(row);
        assert_eq!(record.results.len(), 1);
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(source), "{text}");
    }
}
