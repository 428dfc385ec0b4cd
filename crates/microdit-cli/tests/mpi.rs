//! Runs of several processes, which MPI connects. Built with `--features mpi`, and run where `mpirun` is.

#[allow(dead_code, unreachable_pub)]
#[path = "binary/common.rs"]
mod common;
#[allow(dead_code, unreachable_pub)]
#[path = "binary/strace.rs"]
mod strace;
#[allow(dead_code, unreachable_pub)]
#[path = "binary/tiny.rs"]
mod tiny;

use common::{fails, root, small, text};
use microdit_train::collective::{Collective, Operation, Patience, Threads, mpi};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};
use tiny::{STEPS, arguments, checkpoints, metrics};

/// How soon the survivors of a rank have saved and gone.
const SOON: Duration = Duration::from_secs(40);

/// `mpirun` with these options; none where it is missing, which is an error in CI.
fn mpirun(options: &[&str]) -> Option<Command> {
    let mut version = Command::new("mpirun");
    let version = version.arg("--version").stdout(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "this test needs mpirun; apt install openmpi-bin");
        eprintln!("skipped: this test needs mpirun (apt install openmpi-bin)");
        return None;
    }
    let mut command = Command::new("mpirun");
    command
        // Of OpenMPI: in a container one is root, and has fewer processors than ranks.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        // Tests run side by side, and would all be bound to the first processors.
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .args(options)
        .current_dir(root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(command)
}

/// The command that trains the tiny recipe on as many ranks; without experts, whose choices turn a rounding into another token.
fn ranks(count: usize, options: &[&str], run: &Path, more: &[&str]) -> Option<Command> {
    let count = count.to_string();
    let mut command = mpirun(&[&["-n", &count], options].concat())?;
    command.arg(env!("CARGO_BIN_EXE_microdit")).args(arguments(
        run,
        &[&["--set", "model.moe=None"], more].concat(),
    ));
    Some(command)
}

/// Runs to the end; what it said.
#[track_caller]
fn finish(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// The same by one process.
#[track_caller]
fn alone(run: &Path, more: &[&str]) {
    tiny::finish(run, &[&["--set", "model.moe=None"], more].concat());
}

/// Waits until the run reports `step`.
#[track_caller]
fn wait_for(child: &mut Child, step: u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let start = format!("step {step}/");
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with(&start)), "{step}");
    // Whatever it says from now on is to fit into the pipe's other end.
    thread::spawn(move || lines.for_each(drop));
}

/// The process that is `rank`, below `mpirun`.
fn process_of(mpirun: &Child, rank: usize) -> u32 {
    let own = format!("OMPI_COMM_WORLD_RANK={rank}");
    let process = |folder: fs::DirEntry| {
        let id: u32 = folder.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(folder.path().join("stat")).ok()?;
        // After the name in parentheses: the state, and the parent.
        let parent = status.rsplit_once(") ")?.1.split(' ').nth(1)?;
        let environment = fs::read(folder.path().join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        (parent == mpirun.id().to_string() && variables.any(|variable| variable == own.as_bytes()))
            .then_some(id)
    };
    let mut folders = fs::read_dir("/proc").unwrap().flatten();
    folders.find_map(process).expect("the rank is running")
}

fn send(process: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Step of the newest checkpoint.
#[track_caller]
fn saved(run: &Path) -> u64 {
    let newest = checkpoints(run).pop().expect("the state is saved");
    newest.trim_start_matches("step-").parse().unwrap()
}

/// The end of the child, which is soon.
#[track_caller]
fn soon(child: Child) -> Output {
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    let took = since.elapsed();
    assert!(took < SOON, "{took:?}: {}", text(&output));
    output
}

/// Weights of a run.
fn weights(run: &Path) -> Vec<f32> {
    let bytes = fs::read(run.join("weights.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let bytes = tensors
        .iter()
        .flat_map(|(_, tensor)| tensor.data().as_chunks::<4>().0);
    bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Two runs differ by nothing but rounding: one dropped or doubled sample changes a loss by percents.
#[track_caller]
fn assert_close(a: &Path, b: &Path) {
    let losses = |run: &Path| -> Vec<f64> {
        let loss = |line: String| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            line["loss"].as_f64().unwrap()
        };
        metrics(run).into_iter().map(loss).collect()
    };
    let (one, other) = (losses(a), losses(b));
    assert_eq!((one.len(), other.len()), (STEPS as usize, STEPS as usize));
    for (a, b) in one.iter().zip(&other) {
        assert!((a / b - 1.0).abs() < 1e-4, "losses {a} and {b}");
    }
    let (a, b) = (weights(a), weights(b));
    assert_eq!(a.len(), b.len());
    let distance: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum();
    let mean = distance / a.len() as f32;
    assert!(mean < 1e-6, "weights differ by {mean} on average");
}

/// This program, started by `mpirun`, is a rank itself.
#[test]
#[ignore = "a rank of the next test"]
fn as_a_rank() {
    let stop = AtomicBool::new(false);
    let patience = Patience {
        stop: &stop,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(60),
    };
    let mpi = mpi::join(&patience).unwrap();
    let (own, count) = (mpi.rank(), mpi.world_size());
    // Every rank knows what the others bring, and what threads make of it.
    let brought = |rank: usize, length: usize| -> Vec<f32> {
        let number = |i: usize| ((i * 7 + rank * 13) % 101) as f32 - 50.0;
        (0..length).map(number).collect()
    };
    let parts: Vec<usize> = (0..count).map(|rank| 1000 * rank).collect();
    let all: usize = parts.iter().sum();
    type Work<'a> = dyn Fn(&dyn Collective) -> Vec<f32> + Sync + 'a;
    let patience = &patience;
    // Whose sums depend on their order.
    let thirds = |rank: usize| -> Vec<f32> {
        let numbers = brought(rank, all).into_iter();
        numbers.map(|number| number / 3.0).collect()
    };
    let works: [&Work<'_>; 7] = [
        &|ranks| {
            ranks
                .all_reduce(brought(ranks.rank(), 1), patience)
                .unwrap()
        },
        // More than one message of any engine.
        &|ranks| {
            let numbers = brought(ranks.rank(), 3_000_000);
            ranks.all_reduce(numbers, patience).unwrap()
        },
        &|ranks| {
            let numbers = brought(ranks.rank(), all);
            ranks.reduce_scatter(numbers, &parts, patience).unwrap()
        },
        &|ranks| {
            let numbers = thirds(ranks.rank());
            ranks.reduce_scatter(numbers, &parts, patience).unwrap()
        },
        &|ranks| {
            let (numbers, narrow) = (thirds(ranks.rank()), parts.clone());
            let narrow = Operation::ReduceScatterBf16(narrow);
            ranks.collect(&narrow, numbers, patience).unwrap()
        },
        &|ranks| {
            let rank = ranks.rank();
            let numbers = brought(rank, parts[rank]);
            ranks.all_gather(numbers, &parts, patience).unwrap()
        },
        &|ranks| {
            let numbers = brought(ranks.rank(), 5000);
            ranks.broadcast(numbers, count - 1, patience).unwrap()
        },
    ];
    for (i, work) in works.into_iter().enumerate() {
        let expected: Vec<Vec<f32>> = thread::scope(|scope| {
            let start = |rank: Threads| scope.spawn(move || work(&rank));
            let threads: Vec<_> = Threads::new(count).into_iter().map(start).collect();
            let ends = threads.into_iter();
            ends.map(|thread| thread.join().unwrap()).collect()
        });
        // Whole numbers, whose sums have no rounding, or sums in the order of the ranks.
        assert!(work(&mpi) == expected[own], "operation {i} on rank {own}");
    }
    mpi.leave(patience).unwrap();
    let error = mpi.barrier(patience).unwrap_err().to_string();
    assert!(error.contains("connection is closed"), "{error}");
}

#[test]
fn mpi_does_what_threads_do() {
    for count in ["1", "2", "3"] {
        let Some(mut command) = mpirun(&["-n", count]) else {
            return;
        };
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "as_a_rank", "--ignored"]);
        let said = finish(command);
        assert!(said.contains("1 passed"), "{said}");
    }
}

#[test]
fn ranks_train_what_one_process_trains() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let Some(two) = ranks(2, &[], &at("two"), &[]) else {
        return;
    };
    let said = finish(two);
    // Rank 0 speaks for all.
    assert_eq!(said.matches("training tiny into").count(), 1, "{said}");
    assert_eq!(said.matches("step 14/14").count(), 1, "{said}");
    assert_eq!(said.matches("this rank sent").count(), 1, "{said}");
    alone(&at("one"), &[]);
    assert_close(&at("two"), &at("one"));
    alone(&at("replicas"), &["--devices", "0-1"]);
    tiny::assert_same(&at("two"), &at("replicas"), "ranks and replicas");
    finish(ranks(4, &[], &at("four"), &[]).unwrap());
    assert_close(&at("four"), &at("one"));
    // Added in one order.
    alone(&at("four-replicas"), &["--devices", "0-3"]);
    tiny::assert_same(&at("four"), &at("four-replicas"), "four of them");
    finish(ranks(4, &[], &at("again"), &[]).unwrap());
    tiny::assert_same(&at("again"), &at("four"), "the same number of ranks");
    // More ranks than samples.
    let mut five = ranks(5, &[], &at("five"), &[]).unwrap();
    let parts = [
        "a batch of 4 has no sample for each of 5 ranks",
        "fewer ranks",
    ];
    fails(&five.output().unwrap(), &parts);
}

/// Options of OpenMPI's `mpirun` that give survivors time to save.
const PATIENT: [&str; 3] = ["--mca", "odls_base_sigkill_timeout", "5"];

/// Steps slow enough to be hit between two of them.
const SLOW: [&str; 2] = ["--set", "batch=2048"];

#[test]
fn a_rank_that_dies_or_hangs_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (one, run) = (folder.path().join("one"), folder.path().join("run"));
    let more = [&SLOW[..], &["--resume"]].concat();
    let Some(mut command) = ranks(2, &PATIENT, &run, &more) else {
        return;
    };
    alone(&one, &SLOW);
    let mut child = command.spawn().unwrap();
    wait_for(&mut child, 2);
    send(process_of(&child, 1), "-KILL");
    let output = soon(child);
    fails(&output, &["other ranks are lost", "start all ranks again"]);
    // Before the first that the recipe asks for.
    assert!((2..5).contains(&saved(&run)), "{}", saved(&run));
    // Another number of ranks; the second of them stands still.
    let impatient = [&more[..], &["--rank-timeout", "4"]].concat();
    let mut child = ranks(3, &PATIENT, &run, &impatient).unwrap();
    let mut child = child.spawn().unwrap();
    wait_for(&mut child, 6);
    send(process_of(&child, 1), "-STOP");
    let output = soon(child);
    fails(&output, &["other ranks are lost (no answer for 4 seconds)"]);
    assert!(saved(&run) >= 6, "{}", saved(&run));
    // Another takes the place of rank 0.
    let mut child = ranks(2, &PATIENT, &run, &more).unwrap().spawn().unwrap();
    wait_for(&mut child, 9);
    send(process_of(&child, 0), "-KILL");
    assert!(!soon(child).status.success());
    assert!(saved(&run) >= 9, "{}", saved(&run));
    let said = finish(ranks(2, &[], &run, &more).unwrap());
    assert!(said.contains("resuming after step"), "{said}");
    assert_close(&run, &one);
}

/// Each keeps its share of the optimizer's state.
const SHARED: [&str; 2] = ["--set", "distributed.shard_optimizer=true"];

/// Averages are shared and saved as well.
const AVERAGES: [&str; 2] = [
    "--set",
    "ema=[(decay: Smoothing(0.9)), (decay: Smoothing(0.5), start: 3)]",
];

/// Two runs have the same results, whatever files their checkpoints are made of.
#[track_caller]
fn assert_same_results(a: &Path, b: &Path, context: &str) {
    let results = |run: &Path| {
        let mut results = tiny::results(run);
        results.retain(|name, _| !name.starts_with("step-"));
        results
    };
    let (a, b) = (results(a), results(b));
    assert!(a.contains_key("weights.safetensors") && a.contains_key("ema.safetensors"));
    assert!(
        a.keys().eq(b.keys()),
        "{context}: {:?} {:?}",
        a.keys(),
        b.keys()
    );
    let other = a.keys().find(|name| a[*name] != b[*name]);
    assert_eq!(other, None, "{context}");
}

#[test]
fn ranks_that_share_the_optimizer_train_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (count, name) in [(2, "two"), (3, "three")] {
        let (whole, shared) = (at(name), at(&format!("{name}-shared")));
        let Some(command) = ranks(count, &[], &whole, &AVERAGES) else {
            return;
        };
        finish(command);
        let more = [&SHARED[..], &AVERAGES].concat();
        finish(ranks(count, &[], &shared, &more).unwrap());
        assert_same_results(&shared, &whole, name);
    }
    let narrow = ["--set", "distributed.gradients=Bf16"];
    let more = [&narrow[..], &SHARED, &AVERAGES].concat();
    finish(ranks(2, &[], &at("narrow"), &more).unwrap());
    let more = [&narrow[..], &AVERAGES].concat();
    finish(ranks(2, &[], &at("narrow-whole"), &more).unwrap());
    assert_same_results(&at("narrow"), &at("narrow-whole"), "in bf16");
    assert_ne!(weights(&at("narrow")), weights(&at("two")));
}

#[test]
fn a_rank_that_dies_with_its_share_is_resumed_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (one, run) = (folder.path().join("one"), folder.path().join("run"));
    let more = [&SLOW[..], &SHARED, &AVERAGES, &["--resume"]].concat();
    let Some(mut command) = ranks(2, &PATIENT, &run, &more) else {
        return;
    };
    alone(&one, &[&SLOW[..], &AVERAGES].concat());
    let mut child = command.spawn().unwrap();
    wait_for(&mut child, 6);
    send(process_of(&child, 1), "-KILL");
    let output = soon(child);
    fails(
        &output,
        &["other ranks are lost", "resumes from its newest checkpoint"],
    );
    assert_eq!(saved(&run), 5);
    // Another number of ranks, of which none dies, but one is asked to stop.
    let mut child = ranks(3, &PATIENT, &run, &more).unwrap().spawn().unwrap();
    wait_for(&mut child, 9);
    send(process_of(&child, 2), "-TERM");
    let said = text(&soon(child));
    assert!(said.contains("stopped after"), "{said}");
    assert!(saved(&run) >= 9, "{}", saved(&run));
    let said = finish(ranks(2, &[], &run, &more).unwrap());
    assert!(said.contains("resuming after step"), "{said}");
    assert_close(&run, &one);
    // What is left of it needs no ranks to draw with.
    let drawn = run.join("drawn.png");
    let output = Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args([
            "sample",
            "--prompt",
            "a red circle",
            "--steps",
            "2",
            "--run",
        ])
        .args([run.as_path(), Path::new("--out"), drawn.as_path()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Killed by strace as they enter a call that writes, one rank or the other, before, between and after the checkpoints.
#[test]
fn ranks_killed_as_they_write_go_on_as_if_they_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole/run");
    let more = [&SHARED[..], &AVERAGES, &["--resume"]].concat();
    let (Some(command), Some(_)) = (ranks(2, &[], &whole, &more), strace::strace()) else {
        return;
    };
    finish(command);
    let points = [
        (0, "rename", 4),
        (0, "rename", 7),
        (0, "rename", 10),
        (0, "fsync", 9),
        (0, "fsync", 14),
        (1, "rename", 2),
        (1, "rename", 5),
        (1, "fsync", 3),
    ];
    let mut killed = 0;
    for (rank, call, count) in points {
        let context = format!("rank {rank} at {call} number {count}");
        let run = folder.path().join(format!("{rank}-{call}-{count}/run"));
        let inject = format!("inject={call}:signal=KILL:when={count}");
        let trace = format!("trace={call}");
        let traced = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        let arguments = arguments(&run, &[&["--set", "model.moe=None"], &more[..]].concat());
        let mut command = mpirun(&PATIENT).expect("it ran before");
        for number in 0..2 {
            if number > 0 {
                command.arg(":");
            }
            command.args(["-n", "1"]);
            if number == rank {
                command.args(traced);
            }
            command.arg(env!("CARGO_BIN_EXE_microdit")).args(&arguments);
        }
        let output = command.output().unwrap();
        killed += usize::from(!output.status.success());
        finish(ranks(2, &[], &run, &more).unwrap());
        assert_same_results(&run, &whole, &context);
        tiny::assert_same(&run, &whole, &context);
    }
    assert!(killed >= points.len() / 2, "{killed} were killed");
}

#[test]
fn a_signal_stops_all_ranks_after_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole/run"), folder.path().join("run"));
    let Some(command) = ranks(2, &[], &whole, &SLOW) else {
        return;
    };
    finish(command);
    let more = [&SLOW[..], &["--resume"]].concat();
    let mut child = ranks(2, &PATIENT, &run, &more).unwrap().spawn().unwrap();
    wait_for(&mut child, 3);
    // As a scheduler does; OpenMPI's own launcher passes a signal on seconds later.
    for process in [0, 1].map(|rank| process_of(&child, rank)) {
        send(process, "-TERM");
    }
    soon(child);
    assert!((3..STEPS).contains(&saved(&run)), "{}", saved(&run));
    // One of them alone hears it.
    let mut child = ranks(2, &PATIENT, &run, &more).unwrap().spawn().unwrap();
    wait_for(&mut child, 8);
    send(process_of(&child, 1), "-TERM");
    let output = soon(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    finish(ranks(2, &[], &run, &more).unwrap());
    tiny::assert_same(&run, &whole, "after two signals");
}

#[test]
fn ranks_that_differ_do_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let Some(mut command) = ranks(1, &PATIENT, &run, &["--set", "seed=5"]) else {
        return;
    };
    command
        .args([":", "-n", "1", env!("CARGO_BIN_EXE_microdit")])
        .args(arguments(&run, &["--set", "model.moe=None"]));
    let parts = [
        "rank 1 differs from rank 0",
        "seed: 5 on rank 0, 0 on rank 1",
        "the same arguments everywhere",
    ];
    fails(&command.output().unwrap(), &parts);
    assert!(!run.exists(), "it had begun");
    // A launcher that MPI knows nothing of.
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command
        .args(arguments(&run, &["--rank", "1", "--world-size", "2"]))
        .current_dir(root());
    let parts = ["rank 1 of 2, but rank 0 of 1 to MPI", "mpirun -n 2"];
    fails(&command.output().unwrap(), &parts);
    // A run that is there already.
    finish(ranks(2, &[], &run, &[]).unwrap());
    let mut again = ranks(2, &[], &run, &[]).unwrap();
    fails(
        &again.output().unwrap(),
        &["already holds a run", "--resume"],
    );
}

/// The README's command, on sizes that fit a test.
#[test]
fn the_command_of_the_readme_runs() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("recipes"), folder.path().join("recipes")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut lines = readme.lines().filter(|line| line.starts_with("mpirun "));
    let line = lines.next().expect("the README starts several ranks");
    assert_eq!(lines.next(), None);
    let line = line.replace("target/release/microdit", env!("CARGO_BIN_EXE_microdit"));
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let Some(mut command) = mpirun(&words) else {
        return;
    };
    command.args(small()).current_dir(folder.path());
    finish(command);
    let run = words.iter().skip_while(|word| **word != "--run").nth(1);
    let weights = folder.path().join(run.unwrap()).join("weights.safetensors");
    assert!(weights.is_file());
}
