//! Runs whose ranks and devices share the optimizer's state are what they are without that, bit for bit, and end as safely.

use super::{
    rank_tests::{Fault, Job, newest, recipe},
    *,
};
use crate::recipe::Stage;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::weights::StateDict;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

type Tracked = Autodiff<Flex>;

pub(super) const SHARED: [&str; 1] = ["distributed.shard_optimizer=true"];

/// Averages that begin at once, later, and never; what is measured, kept and handed over of them.
pub(super) const AVERAGES: [&str; 7] = [
    "stages.unmasked.ema=[(decay: Smoothing(0.9)), (decay: Smoothing(0.5), start: 2), (decay: Smoothing(0.5), start: 99)]",
    "stages.masked.ema=[(decay: Smoothing(0.5), start: 1)]",
    "post_hoc_ema=(every: 2)",
    "stages.unmasked.hand_over=(weights: Ema, optimizer: true)",
    "evaluation=(every: 2, samples: 3)",
    "checkpoints.every=2",
    "checkpoints.keep=9",
];

/// Every tensor of every checkpoint and snapshot of a run, whichever file it lies in, and what was measured.
fn contents(run: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(run).unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(stem) = name.strip_suffix(".safetensors") {
                // `model-00001-of-00002` is a part of `model`.
                let whole = match stem.rsplit_once("-of-") {
                    Some((part, _)) => part.rsplit_once('-').unwrap().0,
                    None => stem,
                };
                for (tensor, data) in StateDict::read(&path).unwrap().iter() {
                    let bits = data.iter::<f32>().map(f32::to_bits).collect();
                    let before = all.insert(format!("{whole}/{tensor}"), bits);
                    assert!(before.is_none(), "{tensor} is there twice");
                }
            } else if name == "evaluation.jsonl" {
                let text = fs::read(&path).unwrap();
                all.insert(name.into(), text.into_iter().map(u32::from).collect());
            }
        }
    }
    all
}

#[track_caller]
pub(super) fn assert_same(found: &Path, expected: &Path, context: &str) {
    let (found, expected) = (contents(found), contents(expected));
    let names = |all: &BTreeMap<String, Vec<u32>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{context}");
    let other = found.iter().find(|(name, bits)| expected[*name] != **bits);
    assert!(other.is_none(), "{context}: {} differs", other.unwrap().0);
}

#[test]
fn a_shared_optimizer_changes_nothing() {
    let _alone = super::tests::alone();
    for (count, method) in [
        (2, "AdamW"),
        (3, "Muon(momentum: 0.9)"),
        (2, "Lamb()"),
        (4, "Sgd"),
    ] {
        let method = format!("optimizer.method={method}");
        let folder = tempfile::tempdir().unwrap();
        let [whole, shared, devices] =
            ["whole", "shared", "devices"].map(|name| folder.path().join(name));
        let plain = [&AVERAGES[..], &[&method]].concat();
        let settings = [&SHARED[..], &plain].concat();
        let expected = Job::new(&whole, count).run(|_| recipe(&plain));
        let expected: Vec<_> = expected.into_iter().map(Result::unwrap).collect();
        for ended in Job::new(&shared, count).run(|_| recipe(&settings)) {
            assert_eq!(ended.unwrap(), expected[0], "{count} ranks, {method}");
        }
        assert_same(&shared, &whole, &format!("{count} ranks, {method}"));
        // Files of all of them, and what they say together is what is sampled from.
        let saved = newest(&shared);
        let parts = fs::read_dir(saved.path()).unwrap();
        let names = parts.map(|part| part.unwrap().file_name().into_string().unwrap());
        let models = names.filter(|name| name.starts_with("model-")).count();
        assert_eq!(models, count);
        let drawn = |checkpoint: &Checkpoint| StateDict::read(&checkpoint.weights()).unwrap();
        let (one, other) = (drawn(&saved), drawn(&newest(&whole)));
        assert!(one.iter().eq(other.iter()));
        // Replicas in one process.
        let replicas = vec![Default::default(); count];
        let build = &Stage::task::<Tracked>;
        train(&recipe(&settings), &devices, &replicas, build, |_| ()).unwrap();
        assert_same(&devices, &whole, &format!("{count} devices, {method}"));
    }
}

#[test]
fn gradients_in_bf16_are_rounded_and_no_more() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, settings: &[&str]| {
        let path = folder.path().join(name);
        let ended = Job::new(&path, 2).run(|_| recipe(settings));
        ended.into_iter().next().unwrap().unwrap().weights
    };
    let narrow = ["distributed.gradients=Bf16"];
    let (wide, rounded) = (run("wide", &[]), run("rounded", &narrow));
    let shared = run("shared", &[&narrow[..], &SHARED].concat());
    assert_eq!(shared, rounded);
    assert_ne!(wide, rounded);
    let number = |bits: &u32| f64::from(f32::from_bits(*bits));
    let distance = |a: &[u32], b: &[u32]| -> f64 {
        let squares = a
            .iter()
            .zip(b)
            .map(|(a, b)| (number(a) - number(b)).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let still = ["masked", "unmasked"].map(|stage| format!("stages.{stage}.optimizer.lr=1e-12"));
    let moved = distance(&run("still", &[&still[0], &still[1]]), &wide);
    let apart = distance(&rounded, &wide);
    // Adam turns the rounding of tiny gradients into whole steps, but of few weights.
    assert!(apart > 0.0 && apart < 0.1 * moved, "{apart} of {moved}");
}

/// The state that a number of ranks has left is the same for any other, and trains on from there.
#[test]
fn a_shared_state_is_resumed_by_any_number_of_ranks() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SHARED[..], &AVERAGES].concat();
    let whole = folder.path().join("whole");
    let finished = Job::new(&whole, 3).run(|_| recipe(&settings));
    let finished = finished[0].as_ref().unwrap();
    let before = folder.path().join("before");
    // Some 79 operations are a run; all stop in its second stage.
    let job = Job::new(&before, 3).with(1, Fault::Asked, 50);
    for ended in job.run(|_| recipe(&settings)) {
        assert_eq!(ended.unwrap().ending, Ending::Stopped);
    }
    for count in [3, 1, 2, 4] {
        let path = folder.path().join(count.to_string());
        copy(&before, &path);
        let saved = newest(&path);
        let recipe = recipe(&settings);
        let stage = recipe.stages.last().unwrap();
        let device = Default::default();
        let task = stage.task::<Tracked>(0, &device).unwrap();
        let state = saved.load(stage, task, &device).unwrap();
        let Progress { stage, step, .. } = state.progress;
        assert!(
            stage == 1 && (5..8).contains(&step),
            "stage {stage}, step {step}"
        );
        assert!(!state.optimizer.slots().is_empty());
        assert!(
            state
                .emas
                .iter()
                .map(|ema| ema.average().is_some())
                .eq([true, true, false])
        );
        let ended = Job::new(&path, count).run(|_| recipe.clone());
        let ended = ended.into_iter().map(Result::unwrap);
        for ended in ended {
            assert_eq!((ended.ending, ended.steps), (Ending::Finished, 8));
            let number = |bits: &u32| f32::from_bits(*bits);
            let pairs = ended.weights.iter().zip(&finished.weights);
            let apart = pairs.map(|(a, b)| (number(a) - number(b)).abs());
            let mean = apart.sum::<f32>() / ended.weights.len() as f32;
            assert!(mean < 1e-6, "{count} ranks: {mean}");
            assert!(count != 3 || ended.weights == finished.weights);
        }
        if count == 3 {
            let [own, other] = [&path, &whole].map(|run| newest(run));
            assert_same(own.path(), other.path(), "the same number of ranks");
        }
    }
}

/// A stop at the boundary of two stages, of which the second alone is shared: all agree that its beginning is saved already.
#[test]
fn ranks_stop_where_sharing_begins() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let settings = ["stages.unmasked.distributed.shard_optimizer=true"];
    let whole = folder.path().join("whole");
    let finished = Job::new(&whole, 2).run(|_| recipe(&settings));
    let finished = finished[0].as_ref().unwrap();
    let mut stops = BTreeSet::new();
    // From the second step, which has four operations, to behind the fourth.
    for after in 5..20 {
        let asked = after % 2;
        let context = format!("rank {asked} is asked before operation {after}");
        let path = folder.path().join(after.to_string());
        let job = Job::new(&path, 2).with(asked, Fault::Asked, after);
        let ended = job.run(|_| recipe(&settings)).into_iter();
        let ended: Vec<_> = ended
            .map(|ended| ended.unwrap_or_else(|error| panic!("{context}: {error}")))
            .collect();
        assert_eq!(ended[0], ended[1], "{context}");
        assert_eq!(ended[0].ending, Ending::Stopped, "{context}");
        assert_eq!(newest(&path).progress().step, ended[0].steps, "{context}");
        stops.insert(ended[0].steps);
        let resumed = Job::new(&path, 2).run(|_| recipe(&settings));
        assert_eq!(resumed[0].as_ref().unwrap(), finished, "{context}");
    }
    assert!(stops.contains(&3), "none at the boundary: {stops:?}");
}

/// A checkpoint is not sealed without what another rank wrote of it, on a disk of its own.
#[test]
fn a_run_directory_that_is_not_shared_is_refused() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SHARED[..], &["checkpoints.every=99"]].concat();
    for (name, is_there) in [("missing", false), ("apart", true)] {
        let [path, others] =
            ["", "-elsewhere"].map(|end| folder.path().join(format!("{name}{end}")));
        if is_there {
            // The first checkpoint is of the first stage's end.
            let part = others.join("checkpoints/.part-step-0000000003");
            fs::create_dir_all(part).unwrap();
        }
        let job = Job::new(&path, 2).elsewhere(&others);
        let ended = job.run(|_| recipe(&settings));
        let finds = usize::from(!is_there);
        let [found, told] = [finds, 1 - finds].map(|rank| ended[rank].as_ref().unwrap_err());
        assert!(matches!(found, TrainError::NotShared(_)), "{name}: {found}");
        let by_other = matches!(told, TrainError::RankFailed { rank, .. } if *rank == finds);
        assert!(by_other, "{name}: {told}");
        let newest = Checkpoint::newest(&path.join("checkpoints"));
        assert!(newest.unwrap().is_none(), "{name}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, to).unwrap()),
        }
    }
}

/// A rank dies before any of the operations of a run, among them those by which a checkpoint is written together: the run resumes from
/// its newest intact one as if nothing had happened.
#[test]
fn a_rank_that_dies_at_any_operation_is_no_loss_to_a_shared_state() {
    let _alone = super::tests::alone();
    die_at_any_operation(&[]);
}

pub(super) fn die_at_any_operation(more: &[&str]) {
    /// Operations between two points that are tried; it has no divisor in common with those of a step.
    const EVERY: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SHARED[..], &AVERAGES, more].concat();
    let whole = folder.path().join("whole");
    let finished = Job::new(&whole, 2).run(|_| recipe(&settings));
    let finished = finished[0].as_ref().unwrap();
    let mut points = 0;
    for after in (1..).step_by(EVERY) {
        let faulty = (after / EVERY) % 2;
        let context = format!("rank {faulty} dies before operation {after}");
        let path = folder.path().join(after.to_string());
        let job = Job::new(&path, 2).with(faulty, Fault::Dies, after);
        let ended = job.run(|_| recipe(&settings));
        let survivor = &ended[1 - faulty];
        if survivor.is_ok() && ended[faulty].is_ok() {
            break;
        }
        points += 1;
        // Or it had all it needed of the other.
        let lost = matches!(survivor, Ok(_) | Err(TrainError::RanksLost { .. }));
        assert!(lost, "{context}: {survivor:?}");
        let shelf = path.join("checkpoints");
        if shelf.is_dir() {
            // Intact, or none at all.
            Checkpoint::newest(&shelf).unwrap();
        }
        let resumed = Job::new(&path, 2).run(|_| recipe(&settings));
        let resumed = resumed[0].as_ref();
        let resumed = resumed.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(resumed.weights, finished.weights, "{context}");
        assert_same(&path, &whole, &context);
    }
    assert!(points > 20, "{points} points");
}

/// What no step moves is on every rank, in whatever it is kept.
#[test]
fn a_teacher_in_bf16_is_not_shared() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let [whole, shared] = ["whole", "shared"].map(|name| folder.path().join(name));
    let plain = [
        "stages.unmasked.distill=Some((guidance: 2.0, teacher_storage: Bf16, critic: (layers: [\"qkv\"], rank: 2)))",
        "stages.unmasked.ema=[(decay: Smoothing(0.9))]",
        "sampling.steps=1",
        "sampling.guidance=1.0",
    ];
    let settings = [&SHARED[..], &plain].concat();
    for (path, settings) in [(&whole, &plain[..]), (&shared, &settings)] {
        for ended in Job::new(path, 2).run(|_| recipe(settings)) {
            assert_eq!(ended.unwrap().ending, Ending::Finished);
        }
    }
    assert_same(&shared, &whole, "a teacher in bf16");
}
