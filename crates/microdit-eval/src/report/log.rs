//! What a run logs while it trains, as curves.

use super::{
    json_lines::JsonLines,
    series::{MovingMean, Series},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, io, path::Path};

/// Most numbers of different names that are kept: a damaged log may have any.
const MOST_NAMES: usize = 500;

/// The log of a run, read as it grows.
#[derive(Debug)]
pub struct Log {
    metrics: JsonLines,
    evaluation: JsonLines,
    mean: MovingMean,
    images: u64,
    /// The last line.
    pub(super) last: Line,
    /// Lines of the training log.
    pub(super) lines: u64,
    /// Steps that were skipped because loss or gradient were not finite.
    pub(super) non_finite: u64,
    /// Images seen in each stage, by its name.
    pub(super) images_of: BTreeMap<String, u64>,
    pub(super) loss: Series,
    pub(super) mean_loss: Series,
    pub(super) terms: BTreeMap<String, Series>,
    pub(super) grad_norm: Series,
    pub(super) lr: Series,
    pub(super) images_per_second: Series,
    pub(super) mfu: Series,
    /// What probes found: by probe and number.
    pub(super) found: BTreeMap<(String, String), Series>,
}

/// A line of `metrics.jsonl`. What is not a number is null there.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Line {
    pub(super) step: u64,
    #[serde(default)]
    pub(super) stage: String,
    pub(super) loss: Option<f64>,
    #[serde(default)]
    terms: BTreeMap<String, Option<f64>>,
    grad_norm: Option<f64>,
    lr: Option<f64>,
    pub(super) images_per_second: Option<f64>,
    #[serde(default)]
    pub(super) images: u64,
    #[serde(default)]
    non_finite: u64,
    pub(super) hours: Option<f64>,
    mfu: Option<f64>,
    pub(super) usd: Option<f64>,
}

/// A line of `evaluation.jsonl`.
#[derive(Deserialize)]
struct Evaluated {
    step: u64,
    probe: String,
    #[serde(flatten)]
    numbers: Map<String, Value>,
}

impl Log {
    /// The log of the run in `folder`; nothing is read yet.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            metrics: JsonLines::new(folder.join("metrics.jsonl")),
            evaluation: JsonLines::new(folder.join("evaluation.jsonl")),
            mean: MovingMean::default(),
            images: 0,
            last: Line::default(),
            lines: 0,
            non_finite: 0,
            images_of: BTreeMap::new(),
            loss: Series::default(),
            mean_loss: Series::default(),
            terms: BTreeMap::new(),
            grad_norm: Series::default(),
            lr: Series::default(),
            images_per_second: Series::default(),
            mfu: Series::default(),
            found: BTreeMap::new(),
        }
    }

    /// Lines that were damaged.
    pub fn damaged(&self) -> u64 {
        self.metrics.damaged + self.evaluation.damaged
    }

    /// Whether no line of it has been read.
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Reads the lines that were added since.
    pub(super) fn read(&mut self) -> io::Result<()> {
        // Taken out, so that the lines can be added to what it is a part of.
        let mut metrics = std::mem::replace(&mut self.metrics, JsonLines::new("".into()));
        let read = metrics.read(|line| self.add(line));
        self.metrics = metrics;
        read?;
        self.evaluation.read(|line: Evaluated| {
            for (name, value) in line.numbers {
                let Some(value) = value.as_f64() else {
                    continue;
                };
                let key = (line.probe.clone(), name);
                if self.found.len() < MOST_NAMES || self.found.contains_key(&key) {
                    let series = self.found.entry(key).or_default();
                    series.push(line.step as f64, value);
                }
            }
        })
    }

    fn add(&mut self, line: Line) {
        let step = line.step as f64;
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let loss = number(line.loss);
        self.loss.push(step, loss);
        self.mean_loss.push(step, self.mean.push(loss));
        for (name, value) in &line.terms {
            if self.terms.len() < MOST_NAMES || self.terms.contains_key(name) {
                let term = self.terms.entry(name.clone()).or_default();
                term.push(step, number(*value));
            }
        }
        self.grad_norm.push(step, number(line.grad_norm));
        self.lr.push(step, number(line.lr));
        let rate = number(line.images_per_second);
        self.images_per_second.push(step, rate);
        self.mfu.push(step, number(line.mfu));
        let new = line.images.saturating_sub(self.images);
        if self.images_of.len() < MOST_NAMES || self.images_of.contains_key(&line.stage) {
            *self.images_of.entry(line.stage.clone()).or_default() += new;
        }
        self.images = self.images.max(line.images);
        self.non_finite = self.non_finite.saturating_add(line.non_finite);
        self.lines += 1;
        self.last = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn images_are_counted_by_stage() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [
            r#"{"step":1,"stage":"a","loss":1.0,"images":4,"hours":0.1,"non_finite":0}"#,
            r#"{"step":2,"stage":"a","loss":null,"images":8,"hours":0.2,"non_finite":1}"#,
            r#"{"step":3,"stage":"b","loss":3.0,"images":14,"hours":0.3,"terms":{"denoise":2.0}}"#,
            r#"{"step":4"#,
        ];
        fs::write(folder.path().join("metrics.jsonl"), lines.join("\n")).unwrap();
        fs::write(
            folder.path().join("evaluation.jsonl"),
            "{\"step\":2,\"probe\":\"held_out\",\"loss\":0.5,\"note\":\"x\"}\n",
        )
        .unwrap();
        let mut log = Log::new(folder.path());
        log.read().unwrap();
        assert_eq!((log.lines, log.damaged(), log.non_finite), (3, 0, 1));
        assert_eq!(log.loss.points(), [(1.0, 1.0), (3.0, 3.0)]);
        assert_eq!(log.terms["denoise"].points(), [(3.0, 2.0)]);
        let counted: Vec<(&str, u64)> = log
            .images_of
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        assert_eq!(counted, [("a", 8), ("b", 6)]);
        let key = ("held_out".to_owned(), "loss".to_owned());
        assert_eq!(log.found.len(), 1);
        assert_eq!(log.found[&key].points(), [(2.0, 0.5)]);
    }
}
