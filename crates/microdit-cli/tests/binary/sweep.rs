//! Sweeps: whole, killed, failing, grown, changed, and carried elsewhere.

use crate::{
    common::{fails, root, text},
    recipes::overflowing,
    tiny::{checkpoints, names, recipe, send},
};
use microdit::rng::{Purpose, Stream};
use microdit_train::run::RunDir;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How soon a signal is heard.
const SOON: Duration = Duration::from_secs(2);

/// Two masks, two seeds; the naive one sees fewer tokens, and has more steps for the same FLOPs.
const MASKS: &str = r#"
    axes: [(name: "mask", values: [
        (name: "deferred 50 %"),
        (name: "naive", set: ["stages.masked.masking=Naive(ratio: 0.5)"]),
    ])],
    seeds: [0, 1],
    budget: Flops,
    metrics: [(name: "held_out/loss", better: lower), (name: "held_out/ema_loss", better: lower)],
"#;

/// A folder with a recipe and a sweep over it.
pub(crate) struct Lab(tempfile::TempDir);

impl Lab {
    pub(crate) fn new(definition: &str) -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        recipe(&lab.path("tiny"));
        lab.define(definition);
        lab
    }

    pub(crate) fn define(&self, definition: &str) {
        let text = format!("(\n    base: \"tiny.ron\",{definition})");
        fs::write(self.path("masks.ron"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command
            .arg("sweep")
            .arg(self.path("masks.ron"))
            .arg("--out")
            .arg(self.path(out))
            .args(more)
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn finishes(&self, out: &str, more: &[&str]) -> String {
        let output = self.run(out, more);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    /// Its rows, without what depends on the time.
    pub(crate) fn rows(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("sweep.jsonl")).unwrap();
        let timeless = |line: &str| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["hours"].take();
            row
        };
        text.lines().map(timeless).collect()
    }

    /// Its table, without the column of hours.
    fn table(&self, out: &str) -> String {
        let text = fs::read_to_string(self.path(out).join("table.md")).unwrap();
        let timeless = |line: &str| {
            let mut cells: Vec<&str> = line.split('|').collect();
            if cells.len() > 3 {
                cells.remove(cells.len() - 3);
            }
            cells.join("|") + "\n"
        };
        text.lines().map(timeless).collect()
    }
}

/// The row of a point's metric.
fn row<'a>(rows: &'a [Value], value: &str, seed: u64, metric: &str) -> &'a Value {
    let mut rows = rows.iter();
    let found = rows.find(|row| {
        row["values"]["mask"] == value && row["seed"] == seed && row["metric"] == metric
    });
    found.unwrap_or_else(|| panic!("no {metric} of {value}, {seed}"))
}

#[test]
fn a_sweep_is_trained_measured_and_compared_and_done_once() {
    let lab = Lab::new(MASKS);
    let said = lab.finishes("out", &["--jobs", "2"]);
    assert!(
        said.contains("4 points, 0 finished, 0 failed, 4 to run, 2 at a time"),
        "{said}"
    );
    assert!(said.contains("naive, for equal FLOPs: masked"), "{said}");
    assert!(said.contains("at equal FLOPs, 2 seeds"), "{said}");
    let rows = lab.rows("out");
    // A mean and eight levels, raw and averaged, of four runs.
    assert_eq!(rows.len(), 4 * 18);
    let of = |value: &str, seed: u64, metric: &str| row(&rows, value, seed, metric).clone();
    // The reference keeps its steps, the other one's FLOPs are the same to within a step.
    let reference = of("deferred 50 %", 0, "held_out/loss");
    let naive = of("naive", 1, "held_out/loss");
    assert_eq!(reference["steps"], 14);
    let flops = |row: &Value| row["flops"].as_f64().unwrap();
    let steps = naive["steps"].as_u64().unwrap();
    assert!(steps > 14);
    let difference = (flops(&naive) - flops(&reference)).abs();
    assert!(difference < flops(&naive) / steps as f64, "{naive}");
    // A point is what `train` makes of its values.
    let run = lab.path("alone");
    let masked = format!("stages.masked.steps={}", steps - 6);
    let sets = ["seed=1", "stages.masked.masking=Naive(ratio: 0.5)", &masked];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    crate::tiny::finish(&run, &sets);
    let log = fs::read_to_string(run.join("evaluation.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["step"], steps);
    for metric in ["loss", "ema_loss", "loss_at_15"] {
        let name = format!("held_out/{metric}");
        assert_eq!(of("naive", 1, &name)["value"], last[metric], "{metric}");
    }
    let processes = fs::read(run.join("run.json")).unwrap();
    let processes: Value = serde_json::from_slice(&processes).unwrap();
    assert_eq!(naive["commit"], processes[0]["commit"]);
    // Again, nothing is trained, and the results stay.
    let log = lab
        .path("out/logs")
        .join(format!("{}.txt", naive["point"].as_str().unwrap()));
    let before = (fs::read(&log).unwrap(), lab.table("out"));
    let said = lab.finishes("out", &[]);
    assert!(said.contains("4 finished, 0 failed, 0 to run"), "{said}");
    assert_eq!((fs::read(&log).unwrap(), lab.table("out")), before);
    assert_eq!(lab.rows("out"), rows);
}

#[test]
fn a_sweep_killed_five_times_has_the_same_table() {
    let lab = Lab::new(MASKS);
    let long = [
        "--set",
        "stages.masked.steps=60",
        "--set",
        "checkpoints.every=7",
        "--jobs",
        "2",
    ];
    lab.finishes("whole", &long);
    let mut stream = Stream::named(3, Purpose::Shuffle, "kills");
    for kill in 0..5 {
        let mut sweep = lab.command("killed", &long).spawn().unwrap();
        sleep(Duration::from_millis(200 + stream.below(1200) as u64));
        send(&sweep, ["-KILL", "-TERM", "-INT"][kill % 3]);
        sweep.wait().unwrap();
    }
    lab.finishes("killed", &long);
    assert_eq!(lab.rows("killed"), lab.rows("whole"));
    assert_eq!(lab.table("killed"), lab.table("whole"));
}

/// Waits for a line that begins like this.
fn wait_for(child: &mut Child, start: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.any(|line| line.starts_with(start)),
        "it did not say {start}"
    );
}

#[test]
fn its_runs_stop_soon_with_it_however_it_ends() {
    let lab = Lab::new(MASKS);
    let long = ["--set", "stages.masked.steps=1000000", "--jobs", "2"];
    for (out, signal, status) in [("asked", "-TERM", Some(130)), ("killed", "-KILL", None)] {
        let mut sweep = lab.command(out, &long).spawn().unwrap();
        wait_for(&mut sweep, "naive, seed 0: ");
        let points = || {
            let points = lab.path(out).join("points");
            let all = names(&points)
                .into_iter()
                .map(move |name| points.join(name));
            all.collect::<Vec<PathBuf>>()
        };
        let trains = |run: &PathBuf| {
            let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
            log.lines().count() > 3
        };
        while points().len() < 2 || !points().iter().all(trains) {
            sleep(Duration::from_millis(20));
        }
        send(&sweep, signal);
        let sent = Instant::now();
        assert_eq!(sweep.wait().unwrap().code(), status);
        for run in points() {
            while RunDir::follow(&run).is_busy().unwrap() {
                assert!(sent.elapsed() < SOON, "{} is still trained", run.display());
                sleep(Duration::from_millis(10));
            }
            let saved = checkpoints(&run).pop().unwrap();
            assert!(!saved.ends_with("-0000000000"), "{saved}");
        }
        assert!(sent.elapsed() < SOON);
    }
    assert!(lab.rows("asked").is_empty());
}

#[test]
fn a_failing_point_is_recorded_and_the_others_finish() {
    let lab = Lab::new("");
    let sets = overflowing(&lab.path("a.tar"));
    let sets = sets
        .iter()
        .filter(|set| *set != "--set" && !set.starts_with("evaluation"));
    let shards = format!("evaluation.shards={}", lab.path("a.tar").display());
    let sets: Vec<&String> = sets.chain([&shards]).collect();
    let seeds = "seeds: [0], metrics: [(name: \"held_out/loss\", better: lower)],";
    let define = |sets: &[&String]| {
        lab.define(&format!(
            r#"points: [
                (name: "diverges", set: {sets:?}),
                (name: "plain"),
                (name: "absent", set: ["data=WebDataset(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6), shards: \"nowhere.tar\")", "evaluation.shards=nowhere.tar"]),
                (name: "wide", set: ["model.mixer.dim=24"]),
            ], {seeds}"#
        ));
    };
    define(&sets);
    let output = lab.run("out", &[]);
    let parts = [
        "2 of 4 points failed",
        "diverges, seed 0",
        "not finite",
        "--rerun failed",
    ];
    fails(&output, &parts);
    let of = |status: &str| -> BTreeSet<String> {
        let rows = lab.rows("out");
        let rows = rows.iter().filter(|row| row["status"] == status);
        rows.map(|row| row["values"]["point"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        of("failed"),
        ["absent", "diverges"].map(str::to_owned).into()
    );
    assert_eq!(of("finished"), ["plain", "wide"].map(str::to_owned).into());
    let rows = lab.rows("out");
    let reason = |name: &str| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row["values"]["point"] == name).unwrap();
        row["reason"].as_str().unwrap().to_owned()
    };
    assert!(
        reason("absent").contains("nowhere.tar"),
        "{}",
        reason("absent")
    );
    assert!(
        reason("diverges").contains("not finite"),
        "{}",
        reason("diverges")
    );
    assert!(lab.table("out").contains("0 of 1, 1 failed"));
    // What failed is left alone until it is asked for.
    let said = text(&lab.run("out", &[]));
    assert!(said.contains("2 finished, 2 failed, 0 to run"), "{said}");
    fs::rename(lab.path("a.tar"), lab.path("b.tar")).unwrap();
    let said = text(&lab.run("out", &["--rerun", "failed"]));
    assert!(said.contains("2 finished, 2 failed, 2 to run"), "{said}");
    assert!(
        said.contains("2 of 4 points failed") && said.contains("a.tar"),
        "{said}"
    );
    // Mended, it has another identity, and nothing is left of the failure.
    define(&[]);
    let said = text(&lab.run("out", &[]));
    fails(
        &lab.run("out", &[]),
        &["the points diverges and plain train the same recipe"],
    );
    assert!(said.contains("masks.ron"), "{said}");
    let wider = "model.mixer.dim=32".to_owned();
    define(&[&wider]);
    let said = text(&lab.run("out", &[]));
    assert!(said.contains("2 finished, 1 failed, 1 to run"), "{said}");
    assert_eq!(of("failed"), ["absent".to_owned()].into());
}

#[test]
fn the_first_failure_stops_the_others_where_that_is_asked_for() {
    let lab = Lab::new(
        r#"points: [
            (name: "absent", set: ["data=WebDataset(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6), shards: \"nowhere.tar\")", "evaluation.shards=nowhere.tar"]),
            (name: "plain"),
        ], seeds: [0, 1], metrics: [(name: "held_out/loss", better: lower)],"#,
    );
    let output = lab.run("out", &["--fail-fast"]);
    fails(&output, &["1 of 4 points failed", "nowhere.tar"]);
    assert_eq!(lab.rows("out").len(), 1);
}

#[test]
fn seeds_and_values_are_added_and_what_is_finished_is_not_changed() {
    let lab = Lab::new(MASKS);
    lab.finishes("out", &[]);
    let before = lab.rows("out");
    // A new seed, a new value, and another name for an old one.
    let free = "]),\n        (name: \"free\", set: [\"stages.masked.masking=None\"]),\n    ])],";
    let grown = MASKS
        .replace("[0, 1]", "[0, 1, 2]")
        .replace("deferred 50 %", "half")
        .replace("]),\n    ])],", free);
    lab.define(&grown);
    let said = lab.finishes("out", &[]);
    assert!(
        said.contains("9 points, 4 finished, 0 failed, 5 to run"),
        "{said}"
    );
    assert!(said.contains("3 seeds"), "{said}");
    let rows = lab.rows("out");
    for old in &before {
        let same = |row: &&Value| row["point"] == old["point"] && row["metric"] == old["metric"];
        let new = rows.iter().find(same).unwrap();
        assert_eq!(new["value"], old["value"]);
        assert_ne!(new["values"]["mask"], "deferred 50 %");
    }
    // Elsewhere, the rows alone are enough.
    fs::create_dir(lab.path("carried")).unwrap();
    fs::copy(lab.path("out/sweep.jsonl"), lab.path("carried/sweep.jsonl")).unwrap();
    let said = lab.finishes("carried", &[]);
    assert!(said.contains("9 finished, 0 failed, 0 to run"), "{said}");
    assert_eq!(lab.table("carried"), lab.table("out"));
    assert!(names(&lab.path("carried/points")).is_empty());
    // What would make other points of them is refused, and nothing is lost.
    let changed = [
        (
            grown.replace("Naive(ratio: 0.5)", "Naive(ratio: 0.25)"),
            "masking.ratio: 0.5 -> 0.25",
        ),
        (
            grown.replace("[0, 1, 2]", "[0, 2]"),
            "seed 1 is no longer there",
        ),
        (
            grown
                .replace("\"free\"", "\"unmasked\"")
                .replace("masking=None", "masking=Deferred(ratio: 0.1)"),
            "free: no longer there",
        ),
    ];
    for (definition, part) in changed {
        lab.define(&definition);
        fails(&lab.run("out", &[]), &[part, "--out"]);
    }
    lab.define(&grown);
    fails(
        &lab.run("out", &["--set", "optimizer.lr=3e-3"]),
        &["optimizer.lr: 0.002 -> 0.003"],
    );
    assert_eq!(lab.rows("out"), rows);
}

#[test]
fn mistakes_are_named_before_anything_is_written() {
    let lab = Lab::new(&MASKS.replace("stages.masked.masking", "stages.masked.maskng"));
    let place = "masks.ron:5, stages.masked.maskng=Naive(ratio: 0.5): ";
    fails(&lab.run("out", &[]), &[place, "did you mean `masking`"]);
    lab.define(&MASKS.replace("seeds", "sedes"));
    fails(
        &lab.run("out", &[]),
        &["masks.ron:7", "did you mean `seeds`"],
    );
    lab.define(&MASKS.replace("ratio: 0.5", "ratio: 1.5"));
    fails(
        &lab.run("out", &[]),
        &["masks.ron:5", "masking.ratio", "not 1.5"],
    );
    lab.define(MASKS);
    fails(
        &lab.run("out", &["--set", "evaluation=None"]),
        &["held_out/loss", "evaluation"],
    );
    fails(
        &lab.run("out", &["--metrics", "fid"]),
        &["fid:lower or fid:higher"],
    );
    let data = "data=WebDataset(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6))";
    let without = ["--set", data, "--set", "evaluation.shards=a.tar"];
    fails(
        &lab.run("out", &without),
        &["data.shards", "--set data.shards=PATH"],
    );
    // A metric nobody measures, by name.
    fails(
        &lab.run("out", &["--metrics", "held_out/los:lower"]),
        &[
            "held_out/los is measured neither",
            "did you mean `held_out/loss`",
        ],
    );
    // How points are measured is looked at too.
    let metric = ["--metrics", "fd-classifier:lower"];
    let eval = |words: &[&'static str]| lab.run("out", &[&metric[..], words].concat());
    fails(
        &eval(&[]),
        &["fd-classifier is measured by microdit eval", "-- --metrics"],
    );
    fails(
        &eval(&["--", "--metrics", "fd-classifier"]),
        &["fd-classifier", "--classifier"],
    );
    fails(&eval(&["--", "--sampels", "9"]), &["after --", "--sampels"]);
    // A point is given this by the sweep.
    fails(&eval(&["--", "--out", "x"]), &["after --", "--out"]);
    fails(
        &eval(&["--", "--metrics", "prompt-accuracy"]),
        &["fd-classifier is compared"],
    );
    fails(
        &lab.run("out", &["--", "--prompts", "nowhere.txt"]),
        &["nowhere.txt"],
    );
    assert!(!lab.path("out").exists());
}

#[test]
fn a_dry_run_prints_the_bill_and_writes_nothing() {
    let lab = Lab::new(MASKS);
    let said = lab.finishes("out", &["--dry-run", "--gpu", "h200", "--count", "1"]);
    for part in [
        "naive, seed 1",
        "deferred 50 %, seed 0",
        "4 runs at equal FLOPs",
        "1 x h200",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(!lab.path("out").exists());
    lab.define(&MASKS.replace("Flops", "Hours(1.0)"));
    let said = lab.finishes("out", &["--dry-run"]);
    assert!(said.contains("by calibration"), "{said}");
}

#[test]
fn a_budget_of_hours_is_calibrated_once() {
    let lab = Lab::new(&MASKS.replace("Flops", "Hours(0.0002)"));
    let bare = [
        "--set",
        "evaluation.every=1000",
        "--set",
        "sampling.every=None",
    ];
    let said = lab.finishes("out", &bare);
    assert!(said.contains("timing the steps of naive"), "{said}");
    let calibration = fs::read(lab.path("out/calibration.json")).unwrap();
    let timed: Value = serde_json::from_slice(&calibration).unwrap();
    let rows = lab.rows("out");
    for pace in timed.as_object().unwrap().values() {
        let seconds = |stage: usize| pace["seconds_per_step"][stage].as_f64().unwrap();
        let row = row(&rows, pace["label"].as_str().unwrap(), 0, "held_out/loss");
        let masked = row["steps"].as_f64().unwrap() - 6.0;
        let off = masked * seconds(0) + 6.0 * seconds(1) - 0.0002 * 3600.0;
        assert!(off.abs() <= 0.5 * seconds(0) + 1e-9, "{pace}: {masked}");
    }
    // Carried elsewhere, it gives the same points.
    fs::create_dir(lab.path("again")).unwrap();
    fs::write(lab.path("again/calibration.json"), &calibration).unwrap();
    let said = lab.finishes("again", &bare);
    assert!(!said.contains("timing"), "{said}");
    assert_eq!(lab.rows("again"), rows);
    // Without it the rows alone are not enough, and nothing is timed to find that out.
    fs::create_dir(lab.path("alone")).unwrap();
    fs::copy(lab.path("out/sweep.jsonl"), lab.path("alone/sweep.jsonl")).unwrap();
    fails(
        &lab.run("alone", &bare),
        &[
            "finished points of a budget of hours",
            "calibration.json",
            "copy it into the folder",
        ],
    );
    assert!(!lab.path("alone/calibration.json").exists());
}

#[test]
fn two_sweeps_do_not_share_a_folder() {
    let lab = Lab::new(MASKS);
    let mut first = lab
        .command("out", &["--set", "stages.masked.steps=1000000"])
        .spawn()
        .unwrap();
    wait_for(&mut first, "deferred 50 %, seed 0: ");
    fails(
        &lab.run("out", &[]),
        &["another sweep is at work there", "--out"],
    );
    send(&first, "-TERM");
    first.wait().unwrap();
}

/// Every bundled sweep has valid points and its bill.
#[test]
fn the_bundled_sweeps_resolve() {
    let folder = root().join("recipes/ablations");
    let is_sweep = |name: &String| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        text.contains("seeds: [")
    };
    let sweeps: Vec<String> = names(&folder).into_iter().filter(is_sweep).collect();
    assert!(sweeps.len() >= 20, "{sweeps:?}");
    for name in sweeps {
        let output = Command::new(env!("CARGO_BIN_EXE_microdit"))
            .args(["sweep", "--dry-run", "--out", "/nonexistent"])
            .arg(Path::new("recipes/ablations").join(&name))
            .current_dir(root())
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains(" runs at equal "), "{name}: {said}");
    }
}
