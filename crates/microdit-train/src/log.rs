//! What a run logs while it trains: lines of JSON, and the same numbers for TensorBoard.

use crate::{error::TrainError, events::EventFile};
use microdit::atomic_file;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Names of the logs: of the lines reported, the evaluations and the skipped steps.
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const EVALUATION: &str = "evaluation.jsonl";
pub(crate) const NON_FINITE: &str = "non_finite.jsonl";

/// One line of `metrics.jsonl`. Values since the line before are since the resume, if that came later.
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
    /// Steps since the line before that were skipped because loss or gradient were not finite.
    pub non_finite: u64,
    /// Time the run has taken so far.
    pub hours: f64,
    /// Model FLOPs over the devices' peak rate (MFU) since the line before; none where the rate is not known.
    pub mfu: Option<f64>,
    /// Price of that time, if the recipe names one.
    pub usd: Option<f64>,
    /// What the budget leaves of it.
    pub usd_left: Option<f64>,
}

/// The last whole line of a run's `metrics.jsonl`; none if it has none yet.
///
/// # Errors
/// If the file cannot be read.
pub fn last_metrics(run: &Path) -> Result<Option<serde_json::Value>, TrainError> {
    let path = run.join(METRICS);
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        tail => tail.map_err(TrainError::io(&path))?,
    };
    let lines = tail.rsplit(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .find(serde_json::Value::is_object))
}

/// Bytes that hold the last lines of a log for sure.
const TAIL: u64 = 1 << 16;

/// The numbers of a probe, by name. A name that ends with [`STANDARD_ERROR`] is the standard error of the number named before it.
pub type Numbers = BTreeMap<&'static str, f64>;

/// The end of the name of a standard error.
pub const STANDARD_ERROR: &str = "_standard_error";

/// One line of `evaluation.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// Finished optimizer steps.
    pub step: u64,
    /// The probe that ran.
    pub probe: &'static str,
    /// What it found, by name.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// The logs of a run that is trained.
pub(crate) struct Log {
    metrics: JsonLines,
    /// Step of the last line that was there when it was opened.
    last: Option<u64>,
    evaluation: JsonLines,
    /// Probes whose numbers at the step it was opened at are logged.
    evaluated: BTreeSet<String>,
    events: EventFile,
}

impl Log {
    /// Opens the logs in `folder`, without their lines beyond `step`: a run resumed from there writes them again.
    pub(crate) fn open(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let last = forget_beyond(&folder.join(METRICS), step)?;
        forget_beyond(&folder.join(NON_FINITE), step)?;
        let evaluation = folder.join(EVALUATION);
        forget_beyond(&evaluation, step)?;
        Ok(Self {
            metrics: JsonLines::append_to(folder.join(METRICS))?,
            last,
            evaluated: evaluated_at(&evaluation, step)?,
            evaluation: JsonLines::append_to(evaluation)?,
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
        let tagged = line.numbers.iter();
        let tagged = tagged.map(|(name, value)| (format!("{}/{name}", line.probe), *value));
        let tagged: Vec<(String, f64)> = tagged.collect();
        let scalars: Vec<(&str, f64)> = tagged.iter().map(|(tag, v)| (tag.as_str(), *v)).collect();
        self.events.scalars(line.step, &scalars)
    }

    /// Adds a picture a probe drew, the PNG in a file, for TensorBoard.
    pub(crate) fn picture(&mut self, step: u64, probe: &str, png: &Path) -> Result<(), TrainError> {
        self.events.picture(step, probe, png)
    }

    /// Step of the last line that was there when the log was opened.
    pub(crate) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Whether the log has what a probe found at the step it was opened at.
    pub(crate) fn has_evaluation(&self, probe: &str) -> bool {
        self.evaluated.contains(probe)
    }

    /// Flushes the lines to the disk, so that a checkpoint does not outlive what the log says about the steps before it.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        self.metrics.sync()?;
        self.evaluation.sync()
    }
}

/// Removes the lines of later steps, and those that are damaged, as the last line of a killed run may be; one warning
/// tells of them. Returns the step of the last line that is left.
fn forget_beyond(path: &Path, step: u64) -> Result<Option<u64>, TrainError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(TrainError::io(path))?;
    let (mut kept, mut last, mut damaged) = (Vec::new(), None, 0);
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

/// The probes that have a line of `step` in a file of evaluations.
fn evaluated_at(path: &Path, step: u64) -> Result<BTreeSet<String>, TrainError> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
        probe: String,
    }
    if !path.is_file() {
        return Ok(BTreeSet::new());
    }
    let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let of_step = lines.filter(|line: &Line| line.step == step);
    Ok(of_step.map(|line| line.probe).collect())
}

/// A file with one JSON value per line.
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
        // No line is appended to one without its end.
        fs::write(&path, &lines[0][..lines[0].len() - 1]).unwrap();
        assert_eq!(forget_beyond(&path, 5).unwrap(), None);
        JsonLines::append_to(path.clone())
            .unwrap()
            .push(&serde_json::json!({"step": 1}))
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    }
}
