//! How long the steps of a point take: measured once, and part of the definition from then on, so that a budget of hours
//! gives the same steps, and hence the same results, whenever the sweep is repeated.

use super::error::SweepError;
use microdit::atomic_file;
use microdit_train::{Recipe, recipe::Override};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

/// Steps of every stage of a calibration, and between its lines of the log, of which the first is not counted.
const STEPS: u64 = 25;
const LOG_EVERY: u64 = 5;

/// What the steps of every setting take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Calibration(BTreeMap<String, Pace>);

/// What the steps of a setting take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pace {
    /// Its values, for people.
    pub(super) label: String,
    /// Seconds of a step of each stage.
    pub(super) seconds_per_step: Vec<f64>,
    /// What they were measured on, as the run says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
}

impl Calibration {
    /// Reads the record at `path`; an empty one if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Self, SweepError> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(SweepError::io(path))?,
        };
        serde_json::from_slice(&text).map_err(|error| SweepError::Damaged {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// Writes it to `path`.
    pub(super) fn write(&self, path: &Path) -> Result<(), SweepError> {
        let text = serde_json::to_string_pretty(self).expect("a calibration is plain data");
        atomic_file::write(path, |path| fs::write(path, text + "\n")).map_err(SweepError::io(path))
    }

    /// Whether nothing was timed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seconds of a step of each stage of the setting that is known by `pace`.
    pub(super) fn seconds_per_step(&self, pace: &str) -> Option<&[f64]> {
        self.0.get(pace).map(|pace| &pace.seconds_per_step[..])
    }

    /// Adds what was measured of the setting that is known by `pace`.
    pub(super) fn insert(&mut self, pace: String, measured: Pace) {
        self.0.insert(pace, measured);
    }
}

/// What turns the recipe of a setting into one whose steps are timed: few of them, and nothing else.
pub(super) fn short(recipe: &Recipe) -> Vec<Override> {
    let stages = recipe.stages.iter();
    let steps = stages.map(|stage| format!("stages.{}.steps={STEPS}", stage.name));
    let rest = [
        format!("log_every={LOG_EVERY}"),
        "evaluation=None".into(),
        "sampling.prompts=[]".into(),
        "sampling.every=None".into(),
        "budget=()".into(),
    ];
    let all = steps.chain(rest);
    all.map(|entry| Override::of_command_line(&entry)).collect()
}

/// Seconds of a step of each stage of `recipe`, from the log in the run directory `run`: the median over the lines of the
/// stage, without the first, in which memory is taken and kernels are compiled.
///
/// # Errors
/// A stage without lines.
pub(super) fn seconds_per_step(recipe: &Recipe, run: &Path) -> Result<Vec<f64>, String> {
    #[derive(Deserialize)]
    struct Line {
        stage: String,
        images_per_second: f64,
    }
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().map(serde_json::from_str::<Line>);
    let lines: Vec<Line> = lines.filter_map(Result::ok).collect();
    let stages = recipe.stages.iter().map(|stage| {
        let of_stage = lines.iter().filter(|line| line.stage == stage.name);
        let mut seconds: Vec<f64> = of_stage
            .skip(1)
            .map(|line| stage.batch as f64 / line.images_per_second)
            .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let middle = seconds.get(seconds.len() / 2).copied();
        middle.ok_or_else(|| format!("{} has no times of stage {}", path.display(), stage.name))
    });
    stages.collect()
}

/// The device of the run in `run`, as its last process described it: so many GPUs by their name, or else the processor.
pub(super) fn device(run: &Path) -> Option<String> {
    let text = fs::read_to_string(run.join("run.json")).ok()?;
    let processes: Vec<Value> = serde_json::from_str(&text).ok()?;
    let process = processes.last()?;
    match process["gpu"]["name"].as_str() {
        Some(name) => {
            let count = process["devices"].as_array().map_or(1, Vec::len);
            Some(format!("{count} x {name}"))
        }
        None => process["processor"].as_str().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_later_lines_is_taken() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let recipe = Recipe::load(&quickstart, &[]).unwrap();
        let recipe = Recipe::load_with(&quickstart, &short(&recipe)).unwrap();
        assert_eq!(recipe.steps(), 2 * STEPS);
        assert!(recipe.run.sampling.prompts.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let line = |stage: &str, rate: f64| {
            format!("{{\"stage\":\"{stage}\",\"images_per_second\":{rate},\"step\":1}}\n")
        };
        let masked = [1.0, 64.0, 16.0, 32.0]
            .map(|rate| line("masked", rate))
            .concat();
        let unmasked = [1.0, 8.0].map(|rate| line("unmasked", rate)).concat();
        let log = folder.path().join("metrics.jsonl");
        fs::write(&log, format!("{masked}{unmasked}{{\"st")).unwrap();
        assert_eq!(seconds_per_step(&recipe, folder.path()), Ok(vec![1.0, 4.0]));
        fs::write(&log, masked + &line("unmasked", 8.0)).unwrap();
        let said = seconds_per_step(&recipe, folder.path()).unwrap_err();
        assert!(said.contains("no times of stage unmasked"), "{said}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calibration.json");
        let mut calibration = Calibration::read(&path).unwrap();
        assert_eq!(calibration, Calibration::default());
        let run = |text: &str| fs::write(folder.path().join("run.json"), text).unwrap();
        assert_eq!(device(folder.path()), None);
        run(
            r#"[{"processor": "old"}, {"processor": "Xeon, 2 threads", "gpu": null, "devices": ["Cpu"]}]"#,
        );
        let found = device(folder.path());
        assert_eq!(found.as_deref(), Some("Xeon, 2 threads"));
        let pace = Pace {
            label: "75 %".into(),
            seconds_per_step: vec![0.1, 1e-9],
            device: found,
        };
        calibration.insert("ab".into(), pace);
        run(r#"[{"processor": "Xeon", "gpu": {"name": "H200"}, "devices": ["0", "1"]}]"#);
        assert_eq!(device(folder.path()).as_deref(), Some("2 x H200"));
        calibration.write(&path).unwrap();
        assert_eq!(Calibration::read(&path).unwrap(), calibration);
        assert_eq!(calibration.seconds_per_step("ab"), Some(&[0.1, 1e-9][..]));
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains("Xeon, 2 threads")
        );
        // Records of before are read.
        let old = r#"{"ab": {"label": "75 %", "seconds_per_step": [0.1, 1e-9]}}"#;
        fs::write(&path, old).unwrap();
        let old = Calibration::read(&path).unwrap();
        assert_eq!(
            old.seconds_per_step("ab"),
            calibration.seconds_per_step("ab")
        );
        fs::write(&path, "{\"ab\": 1}").unwrap();
        let said = Calibration::read(&path).unwrap_err().to_string();
        assert!(said.contains("calibration.json: "), "{said}");
    }
}
