//! Runs of several ranks, on threads: they are what one process with as many replicas is, bit for bit, and end together.

use super::*;
use crate::{
    checkpoint::tests::tiny,
    collective::{Lost, Operation, Threads},
    recipe::Stage,
};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use std::{
    collections::BTreeMap,
    fs, panic,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

type Tracked = Autodiff<Flex>;

/// Operations before the first step, and in a step.
const BEFORE: usize = 1;
const A_STEP: usize = 4;

/// Eight steps over two stages.
pub(super) fn recipe(more: &[&str]) -> Recipe {
    let own = [
        "batch=5",
        "log_every=1",
        "stages.masked.steps=3",
        "stages.unmasked.steps=5",
    ];
    tiny(&[&own[..], more].concat())
}

/// What becomes of a rank before it takes part in an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    /// It is asked to stop.
    Asked,
    /// It is gone.
    Dies,
    /// It does something else for six seconds.
    Hangs,
}

/// A rank with a fault after as many operations.
#[derive(Debug)]
struct Faulty {
    rank: Threads,
    fault: Fault,
    after: AtomicUsize,
    stop: Arc<AtomicBool>,
}

impl Collective for Faulty {
    fn rank(&self) -> usize {
        self.rank.rank()
    }

    fn world_size(&self) -> usize {
        self.rank.world_size()
    }

    fn collect(
        &self,
        operation: &Operation,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        if self.after.fetch_sub(1, Ordering::Relaxed) == 0 {
            match self.fault {
                Fault::None => {}
                Fault::Asked => self.stop.store(true, Ordering::Relaxed),
                // Without a chance to save anything, and without a word.
                Fault::Dies => panic::resume_unwind(Box::new("dead")),
                Fault::Hangs => thread::sleep(Duration::from_secs(6)),
            }
        }
        self.rank.collect(operation, numbers, patience)
    }
}

/// How the ranks of a run end, one of which has a fault.
pub(super) struct Job<'a> {
    path: &'a Path,
    /// Where the ranks but the first have the run directory.
    others: &'a Path,
    count: usize,
    faulty: usize,
    fault: Fault,
    after: usize,
    rank_timeout: Duration,
}

impl<'a> Job<'a> {
    pub(super) fn new(path: &'a Path, count: usize) -> Self {
        Self {
            path,
            others: path,
            count,
            faulty: 0,
            fault: Fault::None,
            after: 0,
            rank_timeout: Duration::from_secs(60),
        }
    }

    pub(super) fn with(self, faulty: usize, fault: Fault, after: usize) -> Self {
        Self {
            faulty,
            fault,
            after,
            ..self
        }
    }

    pub(super) fn elsewhere(self, others: &'a Path) -> Self {
        Self { others, ..self }
    }

    /// Trains what `recipe` says for each rank.
    pub(super) fn run(
        &self,
        recipe: impl Fn(usize) -> Recipe + Sync,
    ) -> Vec<Result<Ended, TrainError>> {
        thread::scope(|scope| {
            let recipe = &recipe;
            let start = |rank: Threads| {
                scope.spawn(move || {
                    // Ranks are processes of their own, with workers of their own.
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
                    pool.build().unwrap().install(|| self.rank(rank, recipe))
                })
            };
            let threads: Vec<_> = Threads::new(self.count).into_iter().map(start).collect();
            let dead = |_| Err(TrainError::lost(None)(Lost::Engine("dead".into())));
            let ends = threads.into_iter();
            ends.map(|thread| thread.join().unwrap_or_else(dead))
                .collect()
        })
    }

    fn rank(
        &self,
        rank: Threads,
        recipe: &(impl Fn(usize) -> Recipe + Sync),
    ) -> Result<Ended, TrainError> {
        let stop = Arc::new(AtomicBool::new(false));
        let number = rank.rank();
        let own = self.fault != Fault::None && number == self.faulty;
        let ranks = Faulty {
            rank,
            fault: if own { self.fault } else { Fault::None },
            after: self.after.into(),
            stop: stop.clone(),
        };
        let recipe = recipe(number);
        // Free again before others learn that this rank is gone.
        let run = match number {
            0 => RunDir::enter(self.path, true)?,
            _ => RunDir::follow(self.others),
        };
        let session = Session {
            ranks: &ranks,
            rank_timeout: self.rank_timeout,
            ..Session::alone(&stop)
        };
        let devices = [Default::default()];
        let training = Training::open(&recipe, &run, &devices, false, &Stage::task::<Tracked>)?;
        let outcome = training.run(&session, &"a test", |_| ())?;
        let weights = StateDict::from_module(&outcome.task);
        Ok(Ended {
            ending: outcome.ending,
            steps: outcome.steps,
            early: outcome.traffic.map_or(0, |traffic| traffic.early),
            weights: weights
                .iter()
                .flat_map(|(_, data)| data.iter::<f32>().map(f32::to_bits))
                .collect(),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) steps: u64,
    /// Bytes of gradients that left while others were computed.
    pub(super) early: u64,
    /// Bits of the weights.
    pub(super) weights: Vec<u32>,
}

/// The files of tensors of the newest checkpoint.
fn state(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let newest = newest(path);
    let files = fs::read_dir(newest.path()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let tensors = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    tensors
        .map(|file| (file.file_name().unwrap().into(), fs::read(file).unwrap()))
        .collect()
}

pub(super) fn newest(path: &Path) -> Checkpoint {
    let newest = Checkpoint::newest(&path.join("checkpoints"));
    newest.unwrap().expect("a checkpoint")
}

#[test]
fn ranks_are_what_replicas_are() {
    let _alone = super::tests::alone();
    for count in [2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let [replicas, ranks] = ["replicas", "ranks"].map(|name| folder.path().join(name));
        let devices = vec![Default::default(); count];
        let build = &Stage::task::<Tracked>;
        train(&recipe(&[]), &replicas, &devices, build, |_| ()).unwrap();
        let ended = Job::new(&ranks, count).run(|_| recipe(&[]));
        let ended: Vec<Ended> = ended.into_iter().map(Result::unwrap).collect();
        assert_eq!((ended[0].ending, ended[0].steps), (Ending::Finished, 8));
        assert!(ended.iter().all(|other| *other == ended[0]));
        assert_eq!(state(&ranks), state(&replicas), "{count} ranks");
    }
}

/// Whichever rank stops and however it does, all end after the same step, which is saved, and the run resumes.
#[test]
fn ranks_end_together_and_resume() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let finished = Job::new(&whole, 2).run(|_| recipe(&[]));
    for (faulty, fault, steps) in [
        (0, Fault::Asked, 2),
        (1, Fault::Asked, 4),
        (1, Fault::Dies, 2),
        (1, Fault::Dies, 5),
        (0, Fault::Dies, 2),
        (0, Fault::Dies, 5),
        (1, Fault::Hangs, 4),
    ] {
        let context = format!("{faulty} {fault:?} after {steps} steps");
        let path = folder.path().join(&context);
        let after = BEFORE + A_STEP * steps;
        let mut job = Job::new(&path, 2).with(faulty, fault, after);
        if fault == Fault::Hangs {
            job.rank_timeout = Duration::from_secs(2);
        }
        let ended = job.run(|_| recipe(&[]));
        let steps = steps as u64;
        // Whoever is left: rank 1 takes the place of rank 0.
        let left = if fault == Fault::Dies { 1 - faulty } else { 0 };
        let saved = match (fault, &ended[left]) {
            // Its part of the step is there already when it is asked, and counts.
            (Fault::Asked, Ok(ended)) => {
                assert_eq!(ended.ending, Ending::Stopped, "{context}");
                ended.steps
            }
            (_, Err(TrainError::RanksLost { lost, step })) => {
                assert_eq!(*step, Some(steps), "{context}");
                let silent = matches!(lost, Lost::Silent(_));
                assert_eq!(silent, fault == Fault::Hangs, "{context}: {lost}");
                steps
            }
            (_, other) => panic!("{context}: {other:?}"),
        };
        assert!((steps..=steps + 1).contains(&saved), "{context}: {saved}");
        assert_eq!(newest(&path).progress().step, saved, "{context}");
        if let (Ok(one), Ok(other)) = (&ended[0], &ended[1]) {
            assert_eq!(one, other, "{context}");
        }
        let resumed = Job::new(&path, 2).run(|_| recipe(&[]));
        assert_eq!(resumed[0].as_ref().unwrap(), finished[0].as_ref().unwrap());
        assert_eq!(state(&path), state(&whole), "{context}");
        let log = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 8, "{context}: {log}");
    }
}

#[test]
fn fewer_samples_than_ranks_are_refused_by_all_of_them() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    for ended in Job::new(&path, 3).run(|_| recipe(&["batch=2"])) {
        assert!(matches!(
            ended,
            Err(TrainError::MoreRanksThanSamples { batch: 2, ranks: 3 })
        ));
    }
}

#[test]
fn ranks_of_other_recipes_do_not_begin() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let ended = Job::new(&path, 2).run(|rank| match rank {
        0 => recipe(&["optimizer.lr=1e-3"]),
        _ => recipe(&["optimizer.lr=2e-3"]),
    });
    for ended in ended {
        let error = ended.unwrap_err().to_string();
        let difference = "stages.masked.optimizer.lr: 0.001 on rank 0, 0.002 on rank 1";
        assert!(error.contains(difference), "{error}");
        assert!(!error.contains("seed"), "{error}");
    }
    assert!(!path.exists(), "it had begun");
    // Nor does a rank that does not see the checkpoint.
    Job::new(&path, 1).run(|_| recipe(&["stages.unmasked.steps=1"]));
    let elsewhere = folder.path().join("elsewhere");
    let recipe = &recipe(&[]);
    let started: Vec<_> = thread::scope(|scope| {
        let start = |(rank, path): (Threads, PathBuf)| {
            scope.spawn(move || {
                let run = RunDir::enter(&path, true).unwrap();
                let devices = [Default::default()];
                let build = &Stage::task::<Tracked>;
                let training = Training::open(recipe, &run, &devices, true, build).unwrap();
                let stop = Arc::default();
                let session = Session {
                    ranks: &rank,
                    rank_timeout: Duration::from_secs(60),
                    ..Session::alone(&stop)
                };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
                let pool = pool.build().unwrap();
                pool.install(|| training.run(&session, &"a test", |_| ()))
                    .unwrap_err()
            })
        };
        let places = Threads::new(2).into_iter().zip([path, elsewhere]);
        let threads: Vec<_> = places.map(start).collect();
        let ends = threads.into_iter();
        ends.map(|thread| thread.join().unwrap().to_string())
            .collect()
    });
    for error in started {
        assert!(error.contains("checkpoint: after step 4"), "{error}");
        assert!(error.contains("none on rank 1"), "{error}");
    }
}
