//! Nothing is lost: runs killed, damaged, doubled and stopped.

use crate::{
    common::{WEB_DATASET, fails, microdit, root, small, succeeds, text},
    recipes::overflowing,
};
use microdit::rng::{Purpose, Stream};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Steps of the runs in these tests, over both stages.
const STEPS: u64 = 24;

fn command(run: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    let shards = root().join("tests/goldens/wds_clean.tar");
    command
        .args(["train", "recipes/quickstart.ron", "--run"])
        .arg(run)
        .args(small())
        .args(["--set", "stages.masked.steps=14"])
        .args(["--set", "stages.unmasked.steps=10"])
        .args(["--set", "checkpoints.every=3"])
        .args(["--set", "stages.unmasked.ema=[(decay: Smoothing(0.9)), (decay: HalfLife(2.0), start: 2, every: 3)]"])
        .args(["--set", WEB_DATASET, "--set"])
        .arg(format!("data.shards={}", shards.display()))
        .arg("--set")
        .arg(format!(
            "evaluation=(every: 4, samples: 5, shards: {shards:?})"
        ))
        .args(more)
        .current_dir(root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs to the end; what it said.
#[track_caller]
fn finish(run: &Path, more: &[&str]) -> String {
    let output = command(run, more).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Lets a run continue until it has reported `step`, and a little longer; returns whether it got that far.
fn run_until(child: &mut Child, step: u64, longer: Duration) -> bool {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.map_while(Result::ok).any(|line| {
        let rest = line
            .strip_prefix("step ")
            .and_then(|rest| rest.split('/').next());
        rest.and_then(|number| number.parse::<u64>().ok()) >= Some(step)
    });
    std::thread::sleep(longer);
    reached
}

/// The results of a run.
#[derive(Debug, PartialEq)]
struct Results {
    weights: Vec<u8>,
    /// Files of the last checkpoint: weights, both averages, moments.
    state: Vec<(String, Vec<u8>)>,
    /// Lines of the log, without their timings.
    log: Vec<String>,
    evaluation: String,
    /// Averages kept for later.
    snapshots: Vec<(PathBuf, Vec<u8>)>,
}

/// The files of averages below `folder`, if it is there, by their paths in it.
fn snapshots(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(stages) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let inside = |path: PathBuf| {
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let files = stages
        .map(|stage| stage.unwrap().path())
        .flat_map(inside)
        .flat_map(inside);
    let mut files: Vec<_> = files
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path.strip_prefix(folder).unwrap().to_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

fn results(run: &Path) -> Results {
    let read = |name: &str| fs::read(run.join(name)).unwrap();
    let text = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    let timeless = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["images_per_second", "hours", "usd", "usd_left"] {
            line[key].take();
        }
        line.to_string()
    };
    let evaluation = text("evaluation.jsonl");
    assert_eq!(evaluation.lines().count() as u64, STEPS / 4, "{evaluation}");
    Results {
        weights: read("weights.safetensors"),
        state: tensors_of(&checkpoints(run).pop().unwrap()),
        log: text("metrics.jsonl").lines().map(timeless).collect(),
        evaluation,
        snapshots: snapshots(&run.join("snapshots")),
    }
}

/// The files of tensors in a directory.
fn tensors_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".safetensors"));
    names.sort();
    let others = names.iter().filter(|name| !name.starts_with("post-hoc-"));
    assert_eq!(
        others.collect::<Vec<_>>(),
        [
            "ema-2.safetensors",
            "ema.safetensors",
            "model.safetensors",
            "optimizer.safetensors"
        ]
    );
    let read = |name: String| {
        let bytes = fs::read(folder.join(&name)).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_killed_run_ends_as_if_it_had_not_been_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    finish(&whole, &[]);
    let kills = std::env::var("MICRODIT_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let mut random = Stream::new(0, Purpose::Shuffle, 0, 0);
    for kill in 0..kills {
        // Later and later in the run, at a random moment within a step or within saving it.
        let step = 1 + kill * (STEPS - 6) / kills;
        let longer = Duration::from_micros(random.below(8_000) as u64);
        let mut child = command(&killed, &["--resume"]).spawn().unwrap();
        assert!(run_until(&mut child, step, longer));
        // SIGKILL: the process cannot prepare for it.
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before it was killed");
    }
    finish(&killed, &["--resume"]);
    assert_eq!(results(&killed), results(&whole));
    assert_eq!(checkpoints(&killed), {
        let names = checkpoints(&whole).into_iter();
        names
            .map(|path| killed.join("checkpoints").join(path.file_name().unwrap()))
            .collect::<Vec<_>>()
    });
    // A finished run stays as it is.
    let before = fs::metadata(killed.join("weights.safetensors")).unwrap();
    let said = finish(&killed, &["--resume"]);
    assert!(said.contains("finished its 24 steps already"), "{said}");
    let after = fs::metadata(killed.join("weights.safetensors")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

/// What ablations choose in place of the defaults.
const AXES: [&str; 12] = [
    "--set",
    "stages.masked.masking=DeferredBlocks(ratio: 0.75, side: 2)",
    "--set",
    "model.feed_forward=Gelu",
    "--set",
    "model.router=Decoupled",
    "--set",
    "model.decoder=(dim: 16, depth: 1, head_dim: 8)",
    "--set",
    "reconstruction=(norm_pix_loss: false)",
    "--set",
    "post_hoc_ema=(every: 4)",
];

#[test]
fn what_ablations_choose_resumes_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    finish(&whole, &AXES);
    for step in [4, 17] {
        let more = [&["--resume"], &AXES[..]].concat();
        let mut child = command(&killed, &more).spawn().unwrap();
        assert!(run_until(&mut child, step, Duration::ZERO));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish(&killed, &[&["--resume"], &AXES[..]].concat());
    let results = [&killed, &whole].map(|run| results(run));
    assert_eq!(results[0], results[1]);
    // At steps 4, 8, 12 and 14 of one stage, 4, 8 and 10 of the other: two averages and their record.
    assert_eq!(results[0].snapshots.len(), 3 * 7);
    // An average of another length is drawn with like any other weights.
    let (average, picture) = (
        folder.path().join("average.safetensors"),
        folder.path().join("a.png"),
    );
    let [run, average, picture] = [&killed, &average, &picture].map(|path| path.to_str().unwrap());
    let said = succeeds(&["ema", "--run", run, "--sigma-rel", "0.15", "--out", average]);
    assert!(said.contains("stage unmasked after 10 steps"), "{said}");
    succeeds(&[
        "sample",
        "--weights",
        average,
        "--steps",
        "2",
        "--prompt",
        "a circle",
        "--out",
        picture,
    ]);
    let other = [
        "ema",
        "--run",
        run,
        "--sigma-rel",
        "0.1",
        "--stage",
        "other",
        "--out",
        average,
    ];
    fails(
        &microdit(&other),
        &["there is no stage other", "masked, unmasked"],
    );
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    finish(&whole, &[]);
    let mut child = command(&damaged, &[]).spawn().unwrap();
    assert!(run_until(&mut child, 10, Duration::ZERO));
    child.kill().unwrap();
    child.wait().unwrap();
    let newest = checkpoints(&damaged).pop().unwrap();
    let file = newest.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let said = finish(&damaged, &["--resume"]);
    assert!(
        said.contains("is damaged (optimizer.safetensors")
            && said.contains("the checkpoint before it"),
        "{said}"
    );
    assert_eq!(results(&damaged), results(&whole));
}

#[test]
fn a_directory_has_one_master_and_a_signal_saves_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    finish(&whole, &[]);
    let mut first = command(&stopped, &[]).spawn().unwrap();
    assert!(run_until(&mut first, 2, Duration::ZERO));
    let second = command(&stopped, &["--resume"]).output().unwrap();
    fails(&second, &["another microdit is at work"]);
    let terminated = Command::new("kill").arg(first.id().to_string()).status();
    assert!(terminated.unwrap().success());
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    first
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("saving the state"), "{said}");
    assert!(!stopped.join("weights.safetensors").exists());
    // What it learned so far can be drawn.
    let drawn = Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(["sample", "--steps", "2", "--run"])
        .arg(&stopped)
        .arg("--out")
        .arg(folder.path().join("drawn.png"))
        .output()
        .unwrap();
    assert!(
        drawn.status.success(),
        "{}",
        String::from_utf8_lossy(&drawn.stderr)
    );
    finish(&stopped, &["--resume"]);
    assert_eq!(results(&stopped), results(&whole));
}

#[test]
fn a_spent_budget_stops_the_run_and_more_of_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, poor) = (folder.path().join("whole"), folder.path().join("poor"));
    finish(&whole, &[]);
    // Nothing, then a hundredth of a second at a dollar an hour.
    for usd in ["0", "3e-6"] {
        let budget = format!("budget=(usd: {usd}, usd_per_gpu_hour: 1.0)");
        let said = finish(&poor, &["--resume", "--set", &budget]);
        let spent = said.contains("the budget is spent: stopped after");
        assert!(spent, "{said}");
        assert!(!poor.join("weights.safetensors").exists());
    }
    let said = finish(
        &poor,
        &[
            "--resume",
            "--set",
            "budget=(usd: 9.0, usd_per_gpu_hour: 1.0)",
        ],
    );
    assert!(said.contains("$0.00 spent, $9.00 left"), "{said}");
    assert_eq!(results(&poor), results(&whole));
}

/// A network without experts, whose choices turn a rounding into another token: without them, runs that sum in another
/// order differ by rounding alone.
const SMOOTH: [&str; 2] = ["--set", "model.moe=None"];

fn smooth<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMOOTH[..], more].concat()
}

#[test]
fn micro_batches_give_the_weights_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    finish(&whole, &smooth(&[]));
    finish(&parts, &smooth(&["--set", "micro_batch=3"]));
    let (a, b) = (results(&whole), results(&parts));
    assert_ne!(
        a.weights, b.weights,
        "sums in another order differ in the last bits"
    );
    assert_close(&a, &b);
}

#[test]
fn activations_computed_again_give_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, again) = (folder.path().join("kept"), folder.path().join("again"));
    finish(&kept, &smooth(&[]));
    finish(&again, &smooth(&["--set", "activation_checkpointing=On"]));
    assert_close(&results(&kept), &results(&again));
}

#[test]
fn any_number_of_replicas_gives_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let run = folder.path().join(name);
        finish(&run, &smooth(more));
        results(&run)
    };
    let one = run("one", &[]);
    let two = run("two", &["--devices", "0-1"]);
    let four = run("four", &["--devices", "0-3"]);
    let uneven = run("uneven", &["--devices", "0-2", "--set", "micro_batch=1"]);
    for other in [&two, &four, &uneven] {
        assert_close(&one, other);
    }
    assert_eq!(
        two,
        run("again", &["--devices", "0-1"]),
        "sums have one order"
    );
    // Interrupted, and continued on another number of replicas.
    let changed = folder.path().join("changed");
    let mut child = command(&changed, &smooth(&["--devices", "0-3"]))
        .spawn()
        .unwrap();
    assert!(run_until(&mut child, 9, Duration::ZERO));
    child.kill().unwrap();
    child.wait().unwrap();
    finish(&changed, &smooth(&["--resume", "--devices", "0-1"]));
    assert_close(&one, &results(&changed));
}

/// Two runs differ by nothing but rounding: their losses by what Adam makes of it over some twenty steps, while one
/// dropped or doubled sample changes a loss by percents; their weights by much less than one step changes them.
#[track_caller]
fn assert_close(a: &Results, b: &Results) {
    let number = |line: &String, key: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line[key].as_f64().unwrap()
    };
    assert_eq!(a.log.len(), b.log.len());
    for (a, b) in a.log.iter().zip(&b.log) {
        for key in ["loss", "grad_norm"] {
            let (a, b) = (number(a, key), number(b, key));
            assert!((a / b - 1.0).abs() < 1e-4, "{key}: {a} and {b}");
        }
    }
    let weights = |results: &Results| -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(&results.weights).unwrap();
        let mut tensors = file.tensors();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let bytes = tensors
            .iter()
            .flat_map(|(_, tensor)| tensor.data().as_chunks::<4>().0);
        bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (a, b) = (weights(a), weights(b));
    assert_eq!(a.len(), b.len());
    let distance: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum();
    let mean = distance / a.len() as f32;
    assert!(mean < 1e-6, "weights differ by {mean} on average");
}

/// What several processes need is said by the one that cannot have it.
#[test]
#[cfg(not(feature = "mpi"))]
fn ranks_without_an_engine_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let refused = |environment: &[(&str, &str)], more: &[&str], parts: &[&str]| {
        let mut command = command(&run, more);
        command.envs(environment.iter().copied());
        fails(&command.output().unwrap(), parts);
        assert!(!run.exists());
    };
    let parts = ["rank 1 of 2", "--features mpi", "mpirun -n 2"];
    for (rank, size) in [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
        ("RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ("JOB_COMPLETION_INDEX", "WORLD_SIZE"),
    ] {
        refused(&[(rank, "1"), (size, "2")], &[], &parts);
    }
    refused(&[], &["--rank", "1", "--world-size", "2"], &parts);
    let parts = ["nothing says the rank", "give --rank and --world-size"];
    refused(&[], &["--world-size", "2"], &parts);
    let parts = ["rank 2 is not below the world size, 2"];
    refused(&[], &["--rank", "2", "--world-size", "2"], &parts);
}

#[test]
fn a_run_without_finite_gradients_stops_and_names_its_batches() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let sets = overflowing(&folder.path().join("huge.tar"));
    let sets = sets.iter().map(String::as_str);
    let more: Vec<&str> = sets.chain(["--set", "max_non_finite_steps=4"]).collect();
    let output = command(&run, &more).output().unwrap();
    fails(&output, &["in 4 steps in a row, up to step 4"]);
    let broken = fs::read_to_string(run.join("non_finite.jsonl")).unwrap();
    assert_eq!(broken.lines().count(), 4);
    let line: serde_json::Value = serde_json::from_str(broken.lines().next().unwrap()).unwrap();
    assert_eq!(line["keys"].as_array().unwrap().len(), 4);
    assert_eq!(line["times"].as_array().unwrap().len(), 4);
    assert!(!run.join("weights.safetensors").exists());
    assert!(
        checkpoints(&run)
            .iter()
            .all(|path| path.join("state.json").is_file())
    );
}
