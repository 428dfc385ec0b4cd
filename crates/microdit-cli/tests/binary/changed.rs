//! A run continues as what it was begun as, or says what changes.

use crate::{
    common::{fails, root, text},
    tiny::{WEB_DATASET, command, finish, names},
};
use std::{fs, path::Path};

/// A run of ten steps.
const SHORT: [&str; 2] = ["--set", "stages.unmasked.steps=2"];

#[test]
fn another_recipe_is_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &SHORT);
    let before = |run: &Path| -> Vec<(String, Vec<u8>)> {
        let files = names(run)
            .into_iter()
            .filter(|name| run.join(name).is_file());
        files
            .map(|name| (name.clone(), fs::read(run.join(name)).unwrap()))
            .collect()
    };
    let untouched = before(&run);
    for (set, part) in [
        (
            "optimizer.lr=1e-4",
            "stages.masked.optimizer.lr: 0.002 -> 0.0001",
        ),
        ("batch=8", "stages.unmasked.batch: 4 -> 8"),
        ("seed=1", "seed: 0 -> 1"),
        ("stages.masked.steps=9", "stages.masked.steps: 8 -> 9"),
        ("stages.unmasked.ema=[]", "stages.unmasked.ema: [{"),
        (
            r#"stages.masked.name="other""#,
            "stage number 0 of the run is masked",
        ),
    ] {
        let more = [&SHORT[..], &["--resume", "--set", set]].concat();
        fails(&command(&run, &more).output().unwrap(), &[part]);
        assert_eq!(before(&run), untouched, "{set}");
    }
    // What does not affect the weights is accepted, and reported.
    let more = [
        "--resume",
        "--set",
        "stages.unmasked.steps=4",
        "--set",
        "log_every=2",
        "--set",
        "micro_batch=2",
        "--set",
        "checkpoints.keep=3",
        "--set",
        "max_non_finite_steps=4",
        "--set",
        "data.threads=1",
    ];
    let said = finish(&run, &more);
    for part in [
        "resuming after step 10",
        "changed: log_every: 1 -> 2",
        "changed: stages.unmasked.steps: 2 -> 4",
        "stages.masked.micro_batch: (absent) -> 2",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(
        fs::read_to_string(run.join("recipe.ron"))
            .unwrap()
            .contains("log_every: 2")
    );
    // Whoever insists gets it.
    let more = [
        "--resume",
        "--allow-changes",
        "--set",
        "stages.unmasked.steps=5",
        "--set",
        "optimizer.lr=1e-4",
    ];
    let said = finish(&run, &more);
    assert!(
        said.contains("changed: stages.unmasked.optimizer.lr: 0.002 -> 0.0001"),
        "{said}"
    );
    fails(
        &command(&run, &["--allow-changes"]).output().unwrap(),
        &["--resume"],
    );
}

#[test]
fn a_recipe_that_cannot_be_read_is_not_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &SHORT);
    // A run of an earlier version: its checkpoints are of one too, and are not called damaged.
    let own = fs::read_to_string(run.join("recipe.ron")).unwrap();
    let old = own.replace("optimizer: (", "optimiser: (");
    fs::write(run.join("recipe.ron"), old).unwrap();
    let newest = run
        .join("checkpoints")
        .join(names(&run.join("checkpoints")).pop().unwrap());
    let state = fs::read_to_string(newest.join("state.json")).unwrap();
    let of_earlier = state.replace("optimizer_steps", "optimiser_steps");
    assert_ne!(state, of_earlier);
    fs::write(newest.join("state.json"), of_earlier).unwrap();
    let output = command(&run, &["--resume"]).output().unwrap();
    fails(&output, &["`optimiser` is now called `optimizer`"]);
    assert!(!text(&output).contains("damaged"), "{}", text(&output));
    fs::write(newest.join("state.json"), state).unwrap();
    fs::write(run.join("recipe.ron"), "(name: ").unwrap();
    let output = command(&run, &["--resume"]).output().unwrap();
    fails(&output, &["recipe.ron", "--allow-changes"]);
    assert_eq!(
        fs::read_to_string(run.join("recipe.ron")).unwrap(),
        "(name: "
    );
    finish(&run, &["--resume", "--allow-changes"]);
}

#[test]
fn a_stage_is_added_or_ends_earlier_than_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let stop = ["--set", "stages.unmasked.steps=5"];
    finish(&run, &stop);
    // Thirteen steps are done: the stage is finished, and so is the run.
    let said = finish(&run, &["--resume", "--set", "stages.unmasked.steps=3"]);
    assert!(
        said.contains("stage unmasked has 5 finished steps, more than the 3 the recipe asks for"),
        "{said}"
    );
    assert!(said.contains("finished its 13 steps already"), "{said}");
    let stages = "stages=[(name: \"masked\", steps: 8, masking: Deferred(ratio: 0.5)), \
        (name: \"unmasked\", steps: 3, hand_over: (optimizer: true), ema: [(decay: Smoothing(0.9))]), \
        (name: \"more\", steps: 2)]";
    let said = finish(&run, &["--resume", "--set", stages]);
    assert!(
        said.contains("changed: stages.more: (absent) -> 2 steps"),
        "{said}"
    );
    assert!(said.contains("step 15/15 more:"), "{said}");
    for line in said.split("step ").filter(|line| line.contains(" s left")) {
        let left = line
            .split(" s left")
            .next()
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap();
        assert!(left.parse::<f64>().unwrap() < 1e6, "{line}");
    }
    let output = command(&run, &["--resume"]).output().unwrap();
    fails(&output, &["number 2", "no longer has"]);
}

#[test]
fn data_are_what_they_are_and_not_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let shards = |name: &str| folder.path().join(name);
    let golden = root().join("tests/goldens/wds_clean.tar");
    for name in ["here", "there"] {
        fs::create_dir(shards(name)).unwrap();
        fs::copy(&golden, shards(name).join("a.tar")).unwrap();
    }
    let sets = |name: &str, steps: u32| -> Vec<String> {
        vec![
            WEB_DATASET.into(),
            format!("data.shards={}", shards(name).display()),
            format!("stages.unmasked.steps={steps}"),
            "evaluation=None".into(),
        ]
    };
    let more = |sets: &[String], more: &[&str]| -> Vec<String> {
        let sets = sets
            .iter()
            .flat_map(|set| ["--set".to_owned(), set.clone()]);
        sets.chain(more.iter().map(|text| (*text).to_owned()))
            .collect()
    };
    let finish = |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        finish(&run, &arguments)
    };
    finish(more(&sets("here", 2), &[]));
    fs::remove_dir_all(shards("here")).unwrap();
    let said = finish(more(&sets("there", 3), &["--resume"]));
    assert!(
        said.contains("changed: stages.unmasked.data.shards"),
        "{said}"
    );
    // One more shard, or another one of the same name.
    let refused = || {
        let arguments = more(&sets("there", 4), &["--resume"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = command(&run, &arguments).output().unwrap();
        fails(
            &output,
            &["the data of stage unmasked are not those", "put them back"],
        );
    };
    fs::copy(&golden, shards("there").join("b.tar")).unwrap();
    refused();
    fs::remove_file(shards("there").join("b.tar")).unwrap();
    fs::copy(
        root().join("tests/goldens/wds_dirty.tar"),
        shards("there").join("a.tar"),
    )
    .unwrap();
    refused();
    let arguments = more(
        &sets("there", 4),
        &[
            "--resume",
            "--allow-changes",
            "--set",
            "data.max_damage=1.0",
        ],
    );
    let said = finish(arguments);
    assert!(said.contains("they start from their beginning"), "{said}");
    assert!(!text(&command(&run, &[]).output().unwrap()).contains("panicked"));
}
