//! Every number of a recipe is tried with values nobody means: it is refused by name, or the run ends cleanly.
//!
//! The numbers are found by the types themselves, so that a new key is tried without being named here. A sample of the runs
//! is made by default; all of them with `MICRODIT_TRY_ALL=1 cargo test --workspace --test binary values -- --nocapture`.

mod samples;
mod schema;

use crate::{common::text, recipes::latents};
use microdit_train::{
    Recipe,
    plan::{self, Gpu, Machine, Plan},
    recipe::{RunConfig, Stage},
};
use samples::{Sample, samples};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What is put in the place of every number: what programs stumble over, then sizes that some range may just allow.
const HOSTILE: [&str; 30] = [
    "0",
    "-1",
    "1",
    "0.5",
    "-0.0",
    "NaN",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-308",
    "2147483648",
    "9007199254740992",
    "9223372036854775808",
    "18446744073709551615",
    "-9223372036854775808",
    "99999999999999999999999999999999999999999",
    "0x10",
    "1e-12",
    "1e-6",
    "1e-3",
    "0.999999999",
    "4",
    "10",
    "100",
    "1000",
    "65536",
    "1000000",
    "1e6",
    "1e9",
];

/// FLOPs beyond which a value is taken for a long run rather than a fault: a minute's work.
const LONG: f64 = 2e10;

/// Steps beyond which it is, for each has a cost of its own.
const MANY: u64 = 2000;

/// Address space of a run in KiB.
const MEMORY: &str = "4000000";

/// A number of a sample and a value for it.
struct Trial<'a> {
    file: &'a Path,
    /// `--set` for the number, in every stage that has it.
    sets: Vec<String>,
}

impl Trial<'_> {
    fn load(&self) -> Result<Recipe, String> {
        Recipe::load(self.file, &self.sets).map_err(|error| error.to_string())
    }

    /// Name of the number's key; a width may be named as a whole.
    fn key(&self) -> &str {
        let path = self.sets[0].split('=').next().unwrap();
        let name = |part: &&str| part.parse::<usize>().is_err() && !["from", "to"].contains(part);
        path.split('.').rfind(name).unwrap()
    }
}

/// Every value in the place of every number, each number in the first sample that has it.
fn trials<'a>(samples: &'a [Sample], files: &'a [PathBuf]) -> Vec<Trial<'a>> {
    let mut seen = BTreeSet::new();
    let mut trials = Vec::new();
    for (sample, file) in samples.iter().zip(files) {
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for number in &sample.numbers {
            places.entry(&number.place).or_default().push(&number.path);
        }
        places.retain(|place, _| seen.insert(*place));
        for paths in places.values() {
            for value in HOSTILE {
                let sets = paths.iter().map(|path| format!("{path}={value}"));
                trials.push(Trial {
                    file,
                    sets: sets.collect(),
                });
            }
        }
    }
    trials
}

/// The samples and their files in `folder`.
fn prepared(folder: &Path) -> (Vec<Sample>, Vec<PathBuf>) {
    let shards = folder.join("latents.tar");
    latents(&shards, 1.0);
    let samples = samples(folder, &shards);
    let files = samples.iter().enumerate().map(|(i, sample)| {
        let file = folder.join(format!("whole-{i}.ron"));
        std::fs::write(&file, &sample.text).unwrap();
        file
    });
    let files = files.collect();
    (samples, files)
}

#[test]
fn the_samples_have_every_number_of_a_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let (samples, files) = prepared(folder.path());
    let mut all = schema::numbers::<RunConfig>("run");
    all.extend(schema::numbers::<Stage>("stage"));
    let had: BTreeSet<String> = samples
        .iter()
        .flat_map(|sample| &sample.numbers)
        .map(|number| number.place.clone())
        .collect();
    let lacking: Vec<&String> = all.difference(&had).collect();
    assert!(
        lacking.is_empty(),
        "no sample has {lacking:?}: add one to values/samples.rs"
    );
    let unknown: Vec<&String> = had.difference(&all).collect();
    assert!(unknown.is_empty(), "the schema does not know {unknown:?}");
    for (sample, file) in samples.iter().zip(&files) {
        let again = Recipe::load(file, &[]).unwrap();
        assert_eq!(again.run, sample.recipe.run);
        assert_eq!(again.stages, sample.recipe.stages);
    }
}

#[test]
fn every_value_is_refused_by_name_or_can_be_planned() {
    let folder = tempfile::tempdir().unwrap();
    let (samples, files) = prepared(folder.path());
    let (mut refused, mut accepted, mut faults) = (0, 0, Vec::new());
    for trial in trials(&samples, &files) {
        let set = &trial.sets[0];
        match trial.load() {
            Err(message) => {
                refused += 1;
                // A rule between two values may be reported at the place of the other.
                let placed = message.contains("--set") || message.contains("whole-");
                if !placed || !message.contains(trial.key()) {
                    faults.push(format!("{set} is not named: {message}"));
                }
            }
            Ok(recipe) => {
                accepted += 1;
                if !work(&recipe).is_finite() || set.ends_with("NaN") || set.ends_with("inf") {
                    faults.push(format!("{set} is accepted"));
                }
            }
        }
    }
    println!("{refused} values refused, {accepted} accepted");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(refused > 1000 && accepted > 200, "{refused} and {accepted}");
}

/// FLOPs of a run: training, pictures and held-out samples.
fn work(recipe: &Recipe) -> f64 {
    let machine = Machine {
        gpu: Gpu::known().remove(0),
        count: 1,
        mfu: 1.0,
        usd_per_gpu_hour: 1.0,
    };
    let image = recipe
        .stages
        .iter()
        .map(plan::flop_per_image)
        .fold(0.0, f64::max);
    let steps = recipe.steps() as f64;
    // As often as the most eager stage asks for it.
    let times = |every: Option<u64>, of_stage: fn(&Stage) -> Option<u64>| {
        let stages = recipe.stages.iter().filter_map(of_stage);
        let least = every.map(|every| stages.fold(every, u64::min));
        least.map_or(1.0, |every| 1.0 + steps / every as f64)
    };
    let sampling = &recipe.run.sampling;
    let grids = times(sampling.every, |stage| stage.draw_every);
    // Two evaluations a step, each with and without the caption.
    let drawn = (sampling.pictures() * sampling.steps * 4) as f64 * grids;
    let held_out = recipe.run.evaluation.as_ref().map_or(0.0, |config| {
        let evaluations = times(Some(config.every), |stage| stage.evaluate_every);
        let distance = config.feature_distance.as_ref();
        // As many pictures are drawn, and as many generated and looked at.
        let pictures = distance.map_or(0, |config| config.samples * sampling.steps * 4);
        let reference = distance.and_then(|config| config.reference_samples);
        (2.0 * config.samples as f64 + pictures as f64) * evaluations
            + 4.0 * reference.unwrap_or(0) as f64
    });
    Plan::new(recipe, machine).flop + image * (drawn + held_out)
}

/// Trains under limits of memory and time.
fn train(trial: &Trial<'_>, run: &Path) -> Output {
    let script = r#"ulimit -v "$0"; exec timeout 120 "$@""#;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        script,
        MEMORY,
        env!("CARGO_BIN_EXE_microdit"),
        "train",
    ]);
    command.arg(trial.file).arg("--run").arg(run);
    command.arg("--cache").arg(run.with_extension("cache"));
    for set in &trial.sets {
        command.args(["--set", set]);
    }
    command.output().expect("sh starts")
}

/// How an accepted value ended; a fault, if it is none of the ways it may.
fn ending(output: &Output, run: &Path) -> Result<&'static str, String> {
    let said = text(output);
    match output.status.code() {
        Some(0) if said.contains("the budget is spent") => Ok("stopped by the budget"),
        Some(0) => {
            // An average that begins later than the stage ends is not there.
            let average = run.join("ema.safetensors");
            let averaged = !average.is_file() || is_finite(&average);
            match averaged && is_finite(&run.join("weights.safetensors")) {
                true => Ok("finished"),
                false => Err("finished with weights that are not finite".into()),
            }
        }
        Some(1) if said.contains("not finite") => Ok("ended where nothing was finite"),
        Some(1) if said.contains("samples are damaged") => Ok("refused for its data"),
        Some(1) if said.contains("the reference: ") => Ok("refused for its reference"),
        Some(1) if said.contains("GiB of memory") => Ok("refused for its memory"),
        other => Err(format!("ended with {other:?}: {said}")),
    }
}

fn is_finite(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().all(|(_, tensor)| {
        let (numbers, _) = tensor.data().as_chunks::<4>();
        numbers
            .iter()
            .all(|number| f32::from_le_bytes(*number).is_finite())
    })
}

#[test]
fn accepted_values_come_to_an_orderly_end() {
    let folder = tempfile::tempdir().unwrap();
    let (samples, files) = prepared(folder.path());
    let every = match std::env::var_os("MICRODIT_TRY_ALL") {
        Some(_) => 1,
        None => 47,
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    let mut accepted = 0;
    for trial in trials(&samples, &files) {
        let Ok(recipe) = trial.load() else {
            *counts.entry("refused").or_default() += 1;
            continue;
        };
        if work(&recipe) > LONG || recipe.steps() > MANY {
            *counts.entry("left out as long").or_default() += 1;
            continue;
        }
        accepted += 1;
        if accepted % every != 0 {
            continue;
        }
        let run = folder.path().join("run");
        let output = train(&trial, &run);
        match ending(&output, &run) {
            Ok(ending) => *counts.entry(ending).or_default() += 1,
            Err(fault) => faults.push(format!("{:?} {fault}", trial.sets)),
        }
        let _ = std::fs::remove_dir_all(&run);
    }
    println!("{counts:?}, {} faults", faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(counts.contains_key("finished"), "{counts:?}");
}
