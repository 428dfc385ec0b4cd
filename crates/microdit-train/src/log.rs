//! What a run writes down while it trains: lines of JSON, and the same numbers for TensorBoard.

use crate::{error::TrainError, events::EventFile};
use microdit::atomic_file;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Names of the logs: of the lines reported, the evaluations and the steps left out.
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const EVALUATION: &str = "evaluation.jsonl";
pub(crate) const BROKEN: &str = "broken.jsonl";

/// One line of `metrics.jsonl`. What is since the line before is since the resume, where that came later.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Finished optimizer steps.
    pub step: u64,
    /// Stage the step belongs to.
    pub stage: String,
    /// Mean loss since the line before, over the steps where it was finite.
    pub loss: f32,
    /// Its terms, by name, where the task has several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub terms: BTreeMap<String, f32>,
    /// Global gradient norm of the last step, before clipping.
    pub grad_norm: f32,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Throughput since the line before.
    pub images_per_second: f64,
    /// Images seen.
    pub images: u64,
    /// Steps since the line before that were left out because loss or gradient were not finite.
    pub broken: u64,
    /// Time the run has taken so far.
    pub hours: f64,
    /// Model FLOPs over the devices' peak rate since the line before; none where the rate is not known.
    pub mfu: Option<f64>,
    /// Price of that time, if the recipe names one.
    pub usd: Option<f64>,
    /// What the budget leaves of it.
    pub usd_left: Option<f64>,
}

/// One line of `evaluation.jsonl`: the loss on held-out samples, always with the same noise and without mask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// Finished optimizer steps.
    pub step: u64,
    /// Of the weights as trained.
    pub loss: f32,
    /// Of the first average, where there is one.
    pub ema_loss: Option<f32>,
}

/// The logs of a run that is trained.
pub(crate) struct Log {
    metrics: JsonLines,
    evaluation: JsonLines,
    /// Step of the last evaluation.
    evaluated: Option<u64>,
    events: EventFile,
}

impl Log {
    /// Opens the logs in `folder`, without what they say beyond `step`: a run resumed from there says it again.
    pub(crate) fn open(folder: &Path, step: u64) -> Result<Self, TrainError> {
        forget_beyond(&folder.join(METRICS), step)?;
        forget_beyond(&folder.join(BROKEN), step)?;
        let evaluated = forget_beyond(&folder.join(EVALUATION), step)?;
        Ok(Self {
            metrics: JsonLines::append_to(folder.join(METRICS))?,
            evaluation: JsonLines::append_to(folder.join(EVALUATION))?,
            evaluated,
            events: EventFile::create(folder, step)?,
        })
    }

    pub(crate) fn metrics(&mut self, line: &Metrics) -> Result<(), TrainError> {
        self.metrics.push(line)?;
        let mut scalars = vec![
            ("train/loss", f64::from(line.loss)),
            ("train/grad_norm", f64::from(line.grad_norm)),
            ("train/lr", line.lr),
            ("speed/images_per_second", line.images_per_second),
        ];
        scalars.extend(line.mfu.map(|mfu| ("speed/mfu", mfu)));
        scalars.extend(line.usd.map(|usd| ("cost/usd", usd)));
        self.events.scalars(line.step, &scalars)
    }

    pub(crate) fn evaluated(&mut self, line: &Evaluated) -> Result<(), TrainError> {
        self.evaluation.push(line)?;
        self.evaluated = Some(line.step);
        let mut scalars = vec![("evaluation/loss", f64::from(line.loss))];
        let average = line.ema_loss.map(f64::from);
        scalars.extend(average.map(|loss| ("evaluation/ema_loss", loss)));
        self.events.scalars(line.step, &scalars)
    }

    /// Whether the evaluation of `step` is written down.
    pub(crate) fn has_evaluation(&self, step: u64) -> bool {
        self.evaluated == Some(step)
    }

    /// Flushes the lines to the disk, so that a checkpoint does not outlive what the log says of the steps before it.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        self.metrics.sync()?;
        self.evaluation.sync()
    }
}

/// Removes the lines of later steps, and those that are damaged, as the last line of a killed run may be, which is said
/// once. The step of the last line that stays.
fn forget_beyond(path: &Path, step: u64) -> Result<Option<u64>, TrainError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(TrainError::io(path))?;
    let (mut kept, mut damaged, mut last) = (Vec::new(), 0, None);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match logged_step(line) {
            Some(logged) if logged > step => {}
            Some(logged) => {
                kept.extend_from_slice(line);
                last = Some(logged);
            }
            None => damaged += 1,
        }
    }
    if damaged > 0 {
        tracing::warn!(
            "{}: lines that were damaged are left out: {damaged}",
            path.display()
        );
    }
    if kept != text {
        atomic_file::write(path, |path| fs::write(path, kept)).map_err(TrainError::io(path))?;
    }
    Ok(last)
}

/// A file of one JSON value a line.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file, which need not be there.
    pub(crate) fn append_to(path: PathBuf) -> Result<Self, TrainError> {
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.map_err(TrainError::io(&path))?;
        Ok(Self { path, file })
    }

    /// Writes one line.
    pub(crate) fn push(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(line).expect("a line of the log is plain data");
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(TrainError::io(&self.path))
    }

    fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io(&self.path))
    }
}

/// The step of a line of the log; none if the line is damaged or has no end.
fn logged_step(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Logged {
        step: u64,
    }
    let logged: Logged = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    Some(logged.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_costs_that_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let lines: [&[u8]; 6] = [
            b"{\"step\":1,\"loss\":0.5}\n",
            b"{\"step\":2,\"lo\xff\xfe\":0.5}\n",
            b"{\"step\":3,\"loss\":\n",
            b"{\"step\":4,\"loss\":null}\n",
            b"{\"step\":9,\"loss\":0.5}\n",
            b"{\"step\":4",
        ];
        fs::write(&path, lines.concat()).unwrap();
        assert_eq!(forget_beyond(&path, 5).unwrap(), Some(4));
        assert_eq!(fs::read(&path).unwrap(), [lines[0], lines[3]].concat());
        // A line without its end is not followed by another one.
        fs::write(&path, &lines[0][..lines[0].len() - 1]).unwrap();
        assert_eq!(forget_beyond(&path, 5).unwrap(), None);
        JsonLines::append_to(path.clone())
            .unwrap()
            .push(&serde_json::json!({"step": 1}))
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    }
}
