//! Gradients that leave for the other ranks while the backward pass goes on: what comes of them is the same bit for bit, and ranks end as
//! safely.

use super::{
    rank_tests::{Ended, Fault, Job, newest, recipe},
    shared_tests::{AVERAGES, SHARED, assert_same, die_at_any_operation},
    *,
};
use crate::recipe::Stage;
use burn_autodiff::Autodiff;
use burn_flex::Flex;

const RECOMPUTED: &str = "activation_checkpointing=On";

#[test]
fn gradients_that_leave_early_are_what_they_are_later() {
    let _alone = super::tests::alone();
    let shared = [&SHARED[..], &AVERAGES].concat();
    for (count, more) in [
        (2, &[][..]),
        // Ranks with one and with two micro-batches.
        (3, &["micro_batch=1"]),
        (2, &shared),
        (2, &["optimizer.method=Muon(momentum: 0.9)"]),
        (2, &["stages.unmasked.hand_over=(optimizer: true)"]),
    ] {
        let context = format!("{count} ranks, {more:?}");
        let settings = [&[RECOMPUTED], more].concat();
        let folder = tempfile::tempdir().unwrap();
        let [replicas, ranks] = ["replicas", "ranks"].map(|name| folder.path().join(name));
        // Of several devices of a rank, all leave at the end.
        let devices = vec![Default::default(); count];
        let build = &Stage::task::<Autodiff<Flex>>;
        train(&recipe(&settings), &replicas, &devices, build, |_| ()).unwrap();
        let ended = Job::new(&ranks, count).run(|_| recipe(&settings));
        let ended: Vec<Ended> = ended.into_iter().map(Result::unwrap).collect();
        assert!(ended[0].early > 0, "{context}: nothing left early");
        assert!(ended.iter().all(|other| *other == ended[0]), "{context}");
        assert_same(&ranks, &replicas, &context);
    }
}

/// As where one GPU has room for all activations and another has not.
#[test]
fn gradients_leave_early_where_all_ranks_find_them_in_parts() {
    let _alone = super::tests::alone();
    let folder = tempfile::tempdir().unwrap();
    let ended = Job::new(&folder.path().join("mixed"), 2).run(|rank| match rank {
        0 => recipe(&[RECOMPUTED]),
        _ => recipe(&["activation_checkpointing=Off"]),
    });
    let ended: Vec<Ended> = ended.into_iter().map(Result::unwrap).collect();
    assert_eq!(ended[0], ended[1]);
    assert_eq!((ended[0].steps, ended[0].early), (8, 0));
}

#[test]
fn a_rank_that_dies_while_gradients_leave_is_no_loss() {
    let _alone = super::tests::alone();
    die_at_any_operation(&[RECOMPUTED]);
}

/// At every operation from the second step of a stage to its end.
#[test]
fn a_rank_that_is_asked_to_stop_while_gradients_leave_stops_with_the_others() {
    let _alone = super::tests::alone();
    let settings = [RECOMPUTED, "micro_batch=1"];
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let finished = Job::new(&whole, 2).run(|_| recipe(&settings));
    let finished = finished[0].as_ref().unwrap();
    for after in 5..25 {
        let context = format!("asked before operation {after}");
        let path = folder.path().join(after.to_string());
        let job = Job::new(&path, 2).with(after % 2, Fault::Asked, after);
        let ended = job.run(|_| recipe(&settings));
        let ended: Vec<Ended> = ended.into_iter().map(Result::unwrap).collect();
        assert_eq!(ended[0], ended[1], "{context}");
        assert_eq!(ended[0].ending, Ending::Stopped, "{context}");
        assert_eq!(newest(&path).progress().step, ended[0].steps, "{context}");
        let resumed = Job::new(&path, 2).run(|_| recipe(&settings));
        assert_eq!(
            resumed[0].as_ref().unwrap().weights,
            finished.weights,
            "{context}"
        );
    }
}
