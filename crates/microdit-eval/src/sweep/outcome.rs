//! What is known of a run that is finished: the last numbers of its log, and those of its evaluation.

use super::conditions::checksum;
use crate::{evaluate::Record, measured::Measured};
use microdit_train::{probe::STANDARD_ERROR, run::RunDir};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fs, path::Path};

/// A number, and how sure it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measurement {
    /// The value; none if it is not finite.
    pub(super) value: Option<f64>,
    pub(super) standard_error: Option<f64>,
    /// A checksum of what else was said about it.
    pub(super) conditions: Option<String>,
}

/// What a run measured and took.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) metrics: BTreeMap<String, Measurement>,
    pub(super) hours: Option<f64>,
    pub(super) dollars: Option<f64>,
    pub(super) commit: Option<String>,
}

/// What `microdit eval` writes for a sweep, in a run directory: by itself, since what other arguments measured is no result of
/// this sweep.
pub(super) const EVALUATION: &str = "sweep";

/// The label that identifies pictures, a checksum.
const PICTURES: &str = "pictures";

impl Outcome {
    /// Reads the directory of a run that is finished after `steps`, and has what is `wanted`; `conditions` tells those of a number of its
    /// log.
    ///
    /// # Errors
    /// A file that cannot be read, or a wanted metric that is not there or not finite.
    pub(super) fn read<'a>(
        run: &RunDir,
        steps: u64,
        wanted: impl Iterator<Item = &'a str>,
        conditions: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let folder = run.path();
        let mut outcome = Self::default();
        for line in lines(&folder.join("evaluation.jsonl"))? {
            outcome.add_probe(line, steps, &conditions);
        }
        if let Some(text) = text(&folder.join(EVALUATION).join("eval.json"))? {
            outcome.add_evaluation(&text)?;
        }
        if let Some(last) = lines(&folder.join("metrics.jsonl"))?.pop() {
            outcome.hours = last.get("hours").and_then(Value::as_f64);
            outcome.dollars = last.get("usd").and_then(Value::as_f64);
        }
        outcome.commit = commit(&folder.join("run.json"))?;
        for name in wanted {
            outcome.require(name)?;
        }
        Ok(outcome)
    }

    /// A line of a probe's numbers, if they are those of the last step.
    fn add_probe(
        &mut self,
        line: Map<String, Value>,
        steps: u64,
        conditions: &impl Fn(&str) -> Option<String>,
    ) {
        let of_the_end = line.get("step").and_then(Value::as_u64) == Some(steps);
        let Some(probe) = line
            .get("probe")
            .and_then(Value::as_str)
            .filter(|_| of_the_end)
        else {
            return;
        };
        let numbers = line.iter().filter(|(key, _)| {
            !matches!(key.as_str(), "step" | "probe") && !key.ends_with(STANDARD_ERROR)
        });
        // Those of one probe are the same.
        let conditions = conditions(&format!("{probe}/"));
        for (name, value) in numbers {
            let measurement = Measurement {
                value: value.as_f64(),
                standard_error: line
                    .get(&format!("{name}{STANDARD_ERROR}"))
                    .and_then(Value::as_f64),
                conditions: conditions.clone(),
            };
            self.metrics.insert(format!("{probe}/{name}"), measurement);
        }
    }

    /// What `microdit eval` measured. A metric that was measured several times is told apart by the labels in which the
    /// results differ: `fid guidance=3`.
    fn add_evaluation(&mut self, text: &str) -> Result<(), String> {
        let record: Record =
            serde_json::from_str(text).map_err(|error| format!("eval.json: {error}"))?;
        let results = &record.results;
        for result in results {
            let alike = results.iter().filter(|other| other.metric == result.metric);
            let alike: Vec<&Measured> = alike.collect();
            let differing = result.labels.iter().filter(|(label, value)| {
                // The checksum of the pictures is another in every run: the same name must be had from all of them.
                label.as_str() != PICTURES
                    && alike
                        .iter()
                        .any(|other| other.labels.get(*label) != Some(*value))
            });
            let labels = differing.map(|(label, value)| format!(" {label}={value}"));
            let name = [result.metric.clone()]
                .into_iter()
                .chain(labels)
                .collect::<String>();
            let measurement = Measurement {
                value: Some(result.value),
                standard_error: result.standard_error,
                conditions: Some(conditions_of(result)),
            };
            if self.metrics.insert(name.clone(), measurement).is_some() {
                return Err(format!("eval.json: {name} occurs twice"));
            }
        }
        Ok(())
    }

    fn require(&self, name: &str) -> Result<(), String> {
        match self.metrics.get(name) {
            Some(measurement) if measurement.value.is_some() => Ok(()),
            Some(_) => Err(format!("{name} is not finite")),
            None => {
                let near = self
                    .metrics
                    .keys()
                    .map(|known| (strsim::jaro_winkler(known, name), known));
                let near = near.max_by(|a, b| a.0.total_cmp(&b.0));
                let there = match near {
                    Some((similarity, known)) if similarity > 0.7 => {
                        format!("; did you mean `{known}`?")
                    }
                    Some(_) => {
                        let known: Vec<&str> = self.metrics.keys().map(String::as_str).collect();
                        format!(", only {}", known.join(", "))
                    }
                    None => ", and nothing else".into(),
                };
                Err(format!("the run was not measured by {name}{there}"))
            }
        }
    }
}

/// What a result must have in common with others to be compared, in the order of names, as a checksum.
fn conditions_of(result: &Measured) -> String {
    let conditions = serde_json::to_value(result).expect("a result is plain data");
    let conditions: BTreeMap<String, Value> =
        serde_json::from_value(conditions).expect("a result is an object");
    // The name of the metric is that of the number; the others are what was found, and how people say it.
    let others = ["metric", "value", "standard_error", "interval", "labels"];
    let conditions = conditions
        .into_iter()
        .filter(|(key, _)| !others.contains(&key.as_str()));
    let mut conditions: BTreeMap<String, Value> = conditions.collect();
    // References and networks are told apart by checksums; their names do not matter.
    for part in ["reference", "network"] {
        if let Some(Value::Object(fields)) = conditions.get_mut(part) {
            fields.remove("name");
            fields.remove("source");
        }
    }
    let drawn = ["guidance", "steps", "seed"].map(|key| result.labels.get(key));
    checksum(&(conditions, drawn))
}

/// The text of a file, if it is there.
fn text(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text
            .map(Some)
            .map_err(|error| format!("{}: {error}", path.display())),
    }
}

/// The intact lines of a log; none if there is no such file.
fn lines(path: &Path) -> Result<Vec<Map<String, Value>>, String> {
    let text = text(path)?.unwrap_or_default();
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// The commit of the last process that trained the run.
fn commit(path: &Path) -> Result<Option<String>, String> {
    let processes: Vec<Value> = match text(path)? {
        Some(text) => serde_json::from_str(&text).unwrap_or_default(),
        None => Vec::new(),
    };
    let last = processes
        .last()
        .and_then(|process| process["commit"].as_str());
    Ok(last.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::checksum::hexadecimal;
    use sha2::{Digest as _, Sha256};

    fn read(files: &[(&str, &str)], wanted: &[&str]) -> Result<Outcome, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let of_probe = |name: &str| (name == "held_out/").then(|| "ab".to_owned());
        let run = RunDir::follow(folder.path());
        Outcome::read(&run, 8, wanted.iter().copied(), of_probe)
    }

    const LOG: (&str, &str) = (
        "evaluation.jsonl",
        "{\"step\":4,\"probe\":\"held_out\",\"loss\":0.5,\"early\":0.5}\n\
         {\"step\":8,\"probe\":\"held_out\",\"loss\":0.25,\"loss_standard_error\":0.125,\"ema_loss\":null}\n{\"step\":8,\"pro",
    );

    const EVALUATION: (&str, &str) = (
        "sweep/eval.json",
        "{\"results\":[{\"metric\":\"fid\",\"value\":12.5,\"standard_error\":0.5,\"samples\":9}]}",
    );

    #[test]
    fn the_last_step_and_the_evaluation_are_read() {
        let metrics = (
            "metrics.jsonl",
            "{\"step\":4,\"hours\":1.0}\n{\"step\":8,\"hours\":2.5,\"usd\":7.0}\n",
        );
        let run = ("run.json", "[{\"commit\":\"a\"},{\"commit\":\"b\"}]");
        let found = read(&[LOG, EVALUATION, metrics, run], &["fid", "held_out/loss"]).unwrap();
        let value = |name: &str| {
            (
                found.metrics[name].value,
                found.metrics[name].standard_error,
            )
        };
        assert_eq!(value("held_out/loss"), (Some(0.25), Some(0.125)));
        assert_eq!(value("held_out/ema_loss"), (None, None));
        assert_eq!(value("fid"), (Some(12.5), Some(0.5)));
        let loss = &found.metrics["held_out/loss"];
        assert_eq!(loss.conditions.as_deref(), Some("ab"));
        // What was measured before the end alone is no result.
        assert_eq!(found.metrics.len(), 3);
        assert_eq!((found.hours, found.dollars), (Some(2.5), Some(7.0)));
        assert_eq!(found.commit.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_wanted_and_missing_is_said() {
        for (wanted, part) in [
            ("held_out/los", "did you mean `held_out/loss`"),
            ("held_out/ema_loss", "is not finite"),
            ("zzz", "only held_out/ema_loss, held_out/loss"),
        ] {
            let said = read(&[LOG], &[wanted]).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let said = read(&[], &["fid"]).unwrap_err();
        assert!(said.contains("nothing else"), "{said}");
        let twice = EVALUATION
            .1
            .replace("[{", "[{\"metric\":\"fid\",\"value\":1.0,\"samples\":9},{");
        let said = read(&[("sweep/eval.json", &twice)], &[]).unwrap_err();
        assert!(said.contains("fid occurs twice"), "{said}");
        let said = read(&[("sweep/eval.json", "{")], &[]).unwrap_err();
        assert!(said.contains("eval.json: "), "{said}");
    }

    #[test]
    fn results_of_one_metric_are_told_apart_by_their_labels() {
        let result = |metric: &str, guidance: f64, pictures: &str| {
            format!(
                "{{\"metric\":\"{metric}\",\"value\":1.0,\"samples\":9,\"labels\":{{\"guidance\":\"{guidance}\",\"steps\":\"30\",\"pictures\":\"{pictures}\"}}}}"
            )
        };
        let results = [
            result("fid", 1.5, "01"),
            result("fid", 3.0, "02"),
            result("kid", 3.0, "02"),
        ];
        let results = results.join(",");
        let text = format!("{{\"results\":[{results}]}}");
        let found = read(&[("sweep/eval.json", &text)], &[]).unwrap();
        let names: Vec<&str> = found.metrics.keys().map(String::as_str).collect();
        assert_eq!(names, ["fid guidance=1.5", "fid guidance=3", "kid"]);
        // What was found and names are no conditions; how pictures were drawn and how many are.
        let conditions = |text: &str| {
            let found = read(&[("sweep/eval.json", text)], &[]).unwrap();
            found.metrics["kid"].conditions.clone().unwrap()
        };
        let own = conditions(&text);
        let varied = text.replace("1.0,", "2.0,\"interval\":[1.5,2.5],");
        assert_eq!(conditions(&varied), own);
        assert_ne!(conditions(&text.replace("30", "50")), own);
        let named = |name: &str| {
            let network = format!(
                "9,\"network\":{{\"family\":\"inception\",\"name\":\"{name}\",\"sha256\":\"00\",\"resize\":\"clean-fid\"}},"
            );
            conditions(&text.replace("9,", &network))
        };
        assert_eq!(named("a"), named("b"));
        assert_ne!(named("a"), own);
        assert_ne!(conditions(&text.replace("9,", "5,")), own);
        // Rows that were recorded once are compared with later ones: of these conditions, the checksum stays what it was.
        let text = r#"{"samples":9},["3","30",null]"#;
        assert_eq!(own, hexadecimal(&Sha256::digest(format!("[{text}]")))[..8]);
    }
}
