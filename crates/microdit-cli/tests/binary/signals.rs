//! Signals are heard wherever a run waits, and the state of the last step is saved.

use crate::{
    common::{root, text},
    eval::dinov2,
    strace::strace,
    tiny::{WEB_DATASET, arguments, assert_same, checkpoints, command, finish, recipe, send},
    workshop::Workshop,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How soon a signal is heard.
const SOON: Duration = Duration::from_secs(2);

/// The exit status of a command that a signal stopped before its work was done: a shell's own for Ctrl-C.
const STOPPED: i32 = 130;

/// Lets the run continue until it reports `step`.
fn wait_for(child: &mut Child, step: u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let start = format!("step {step}/");
    let reached = lines
        .map_while(Result::ok)
        .any(|line| line.starts_with(&start));
    assert!(reached, "step {step} was not reached: {}", said(child));
}

fn said(child: &mut Child) -> String {
    let mut said = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut said);
    said
}

/// Waits until the process is gone, which is soon. Where strace holds up one of its threads, it is gone when all others
/// have ended: strace lets that one end only later.
#[track_caller]
fn gone_soon(child: &mut Child) -> ExitStatus {
    let sent = Instant::now();
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let field = |name: &str| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned);
        line.unwrap_or_default().trim().to_owned()
    };
    let tracer = field("TracerPid:");
    let alive = || {
        let tasks = fs::read_dir(process.join("task"))
            .into_iter()
            .flatten()
            .flatten();
        let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        // The state follows the name, which stands in parentheses.
        let state = |stat: String| {
            stat.rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next())
        };
        status
            .filter_map(state)
            .any(|state| !matches!(state, 'Z' | 'X' | 't'))
    };
    while alive() {
        assert!(sent.elapsed() < SOON, "it is still there");
        sleep(Duration::from_millis(10));
    }
    if !matches!(tracer.as_str(), "" | "0") {
        let _ = Command::new("kill").args(["-KILL", &tracer]).status();
    }
    child.wait().unwrap()
}

/// Ends a run that is somewhere after `step` by `signals`; it saves that step and is soon gone.
#[track_caller]
fn ends_soon(mut child: Child, run: &Path, step: u64, signals: &[&str]) {
    // Into the middle of what it does.
    sleep(Duration::from_millis(300));
    for signal in signals {
        send(&child, signal);
    }
    let status = gone_soon(&mut child);
    let said = said(&mut child);
    assert_eq!(status.code(), Some(STOPPED), "{status}: {said}");
    assert!(said.contains("saving the state"), "{said}");
    let newest = checkpoints(run).pop().unwrap();
    assert_eq!(newest, format!("step-{step:010}"));
}

#[test]
fn a_signal_is_heard_while_pictures_are_drawn_and_losses_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole/run"), folder.path().join("run"));
    finish(&whole, &[]);
    // Minutes of a grid at the sixth step.
    let mut child = command(&run, &["--set", "sampling.steps=5000"])
        .spawn()
        .unwrap();
    wait_for(&mut child, 6);
    ends_soon(child, &run, 6, &["-TERM"]);
    assert!(!run.join("samples-00000006.png").exists());
    // Minutes of an evaluation at the eighth; a closed terminal says so twice.
    let more = ["--resume", "--set", "evaluation.samples=40000"];
    let mut child = command(&run, &more).spawn().unwrap();
    wait_for(&mut child, 8);
    ends_soon(child, &run, 8, &["-HUP", "-HUP"]);
    // What was not finished is done before the next step.
    finish(&run, &["--resume"]);
    assert_same(&run, &whole, "after two signals");
    // Drawn at the end, where all is saved already.
    fs::remove_file(run.join("samples.png")).unwrap();
    let mut child = command(&run, &["--resume", "--set", "sampling.steps=5000"])
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(800));
    send(&child, "-INT");
    assert_eq!(gone_soon(&mut child).code(), Some(STOPPED));
    assert!(!run.join("samples.png").exists());
}

#[test]
fn a_signal_is_heard_while_a_read_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole/run"), folder.path().join("run"));
    let (shard, slow) = (folder.path().join("a.tar"), folder.path().join("slow.tar"));
    for path in [&shard, &slow] {
        fs::copy(root().join("tests/goldens/wds_clean.tar"), path).unwrap();
    }
    let shards = format!("data.shards={}", shard.display());
    let more = [
        "--set",
        WEB_DATASET,
        "--set",
        &shards,
        "--set",
        "evaluation=None",
        "--set",
        "stages.masked.steps=40",
    ];
    finish(&whole, &more);
    let Some(mut traced) = strace() else {
        return;
    };
    // Every read of the slow file takes a minute; strace stays out of the way as a grandchild.
    traced.args([
        "-D",
        "-o",
        "/dev/null",
        "-e",
        "trace=read",
        "-e",
        "inject=read:delay_enter=60000000",
        "-P",
    ]);
    traced
        .arg(&slow)
        .arg(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments(&run, &more));
    let mut child = traced
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some passes are read ahead, then the disk hangs.
    wait_for(&mut child, 2);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&slow, &link).unwrap();
    fs::rename(&link, &shard).unwrap();
    sleep(Duration::from_secs(2));
    let steps = || {
        fs::read_to_string(run.join("metrics.jsonl"))
            .unwrap()
            .lines()
            .count() as u64
    };
    let hangs_at = steps();
    assert!(hangs_at < 40, "nothing hangs");
    ends_soon(child, &run, hangs_at, &["-TERM"]);
    finish(&run, &[&more[..], &["--resume"]].concat());
    assert_same(&run, &whole, "after a read that hung");
}

#[test]
fn a_second_signal_ends_a_run_that_cannot_save() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole/run"), folder.path().join("run"));
    finish(&whole, &[]);
    let Some(mut traced) = strace() else {
        return;
    };
    // The checkpoint of step 5 does not get onto the disk.
    traced.args([
        "-D",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:delay_enter=60000000",
        "-P",
    ]);
    traced.arg(run.join("checkpoints/.part-step-0000000005"));
    traced
        .arg(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments(&run, &[]));
    let mut child = traced
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut child, 5);
    sleep(Duration::from_millis(500));
    send(&child, "-INT");
    sleep(Duration::from_millis(700));
    assert!(
        child.try_wait().unwrap().is_none(),
        "it saves, however long that takes"
    );
    send(&child, "-INT");
    assert_eq!(gone_soon(&mut child).code(), Some(STOPPED));
    finish(&run, &["--resume"]);
    assert_same(&run, &whole, "after it was ended at once");
}

#[test]
fn a_signal_is_heard_while_pictures_are_drawn_to_be_compared() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    let network = folder.path().join("dinov2");
    dinov2(&network);
    let cache = folder.path().join("cache");
    let distance = |samples: u32| {
        format!(
            "evaluation.feature_distance=(samples: {samples}, network: Published({network:?}), reference_samples: 60)"
        )
    };
    let (few, many) = (distance(24), distance(500_000));
    // So long that the signal comes while pictures are drawn.
    let slowly = ["--set", "sampling.steps=500"];
    let common = ["--cache", cache.to_str().unwrap(), "--no-report", "--set"];
    finish(&whole, &[&common[..], &[&few]].concat());
    let mut child = command(&stopped, &[&common[..], &[&many], &slowly].concat())
        .spawn()
        .unwrap();
    wait_for(&mut child, 4);
    ends_soon(child, &stopped, 4, &["-TERM"]);
    // What was not compared then is compared now, and nothing else is different.
    finish(&stopped, &[&common[..], &[&few, "--resume"]].concat());
    assert_same(&stopped, &whole, "resumed");
}

/// Whatever it was doing, a command that was asked to stop says so, and ends with the same status.
#[test]
fn every_command_that_is_stopped_says_so_by_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let run = folder.path().join("run");
    finish(&run, &[]);
    let card = r#"(name: "s", source: "", license: "", size: "", get: "", layout: Shapes(size: 64, count: 100000000), store: Png)"#;
    fs::write(path("card.ron"), card).unwrap();
    let sweep = format!(
        "(base: {:?}, points: [(name: \"a\")], seeds: [0], metrics: [(name: \"held_out/loss\", better: lower)])",
        recipe(&run)
    );
    fs::write(path("sweep.ron"), sweep).unwrap();
    let workshop = Workshop::new();
    let long = ["--set", "stages.masked.steps=1000000"];
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let run = run.display();
    // Each of them has work for many minutes.
    let commands = |attempt: usize| {
        [
            words(format!(
                "train {} --run {} {}",
                path("run.ron"),
                path(&format!("train{attempt}")),
                long.join(" ")
            )),
            words(format!(
                "sample --run {run} --prompt circle --count 5000 --steps 100 --singles {}",
                path("singles")
            )),
            words(format!(
                "eval --run {run} --samples 50000 --steps 100 --cache {}",
                path("cache")
            )),
            words(format!(
                "sweep {} --out {} {}",
                path("sweep.ron"),
                path("sweep"),
                long.join(" ")
            )),
            words(format!(
                "data prepare {} --out {}",
                path("card.ron"),
                path(&format!("prepared{attempt}"))
            )),
            words(format!(
                "data precompute {} --out {} --vae {} --text-encoder {} --sizes 512 --batch 3",
                workshop.path("pictures"),
                path("latents"),
                workshop.path("vae"),
                workshop.path("clip")
            )),
        ]
    };
    for i in 0..commands(0).len() {
        // Until it listens, a signal ends it at once, which leaves nothing to say.
        let ended = (0..6).find_map(|attempt| {
            let arguments = commands(attempt).into_iter().nth(i).unwrap();
            let child = Command::new(env!("CARGO_BIN_EXE_microdit"))
                .args(&arguments)
                .current_dir(root())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            sleep(Duration::from_millis(500) * 2u32.pow(attempt as u32));
            send(&child, "-INT");
            let output = child.wait_with_output().unwrap();
            let code = output.status.code()?;
            Some((code, text(&output), arguments))
        });
        let (code, said, arguments) = ended.expect("it listens after half a minute");
        assert_eq!(code, STOPPED, "{arguments:?}: {said}");
        assert!(said.contains("stopped"), "{arguments:?}: {said}");
    }
}
