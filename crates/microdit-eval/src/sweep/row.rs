//! The results of a sweep as a table of one number a row.

use crate::statistics::Direction;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A line of `sweep.jsonl`: one number of one run; of a run that failed, why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Identity of the run: its values, seed and steps, as 16 hexadecimal digits.
    pub point: String,
    /// Names of its values by their axes.
    pub values: BTreeMap<String, String>,
    /// Its seed.
    pub seed: u64,
    /// What was measured; none of a run that failed.
    pub metric: Option<String>,
    /// The value; of a metric that nobody asked for it may be none, where it was not finite.
    pub value: Option<f64>,
    /// Its standard error, where one is known.
    pub standard_error: Option<f64>,
    /// What it was measured under, shortened to a checksum: samples, reference, feature network and constants of `eval.json`; of a
    /// held-out loss the diffusion family, the samples and the held-out data. Values that differ in it are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    /// Which way the metric improves, if the sweep compares by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Direction>,
    /// What is equal for all points: steps, FLOPs, hours or dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// The data the run was trained on, wherever they lie: shards, bytes and a checksum, as
    /// [`Recipe::trained_on`](microdit_train::Recipe::trained_on) tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Training steps.
    pub steps: u64,
    /// FLOPs of these steps, by the cost model.
    pub flops: f64,
    /// Hours the run took.
    pub hours: Option<f64>,
    /// Their price, where the recipe says what an hour costs.
    pub dollars: Option<f64>,
    /// Commit of the program that finished the run.
    pub commit: Option<String>,
    /// How the run ended.
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// At its last step, and measured.
    Finished,
    /// With an error.
    Failed,
}
