//! Sweeps whose numbers mean the same or do not: by the data they were trained on, and by the losses they were measured with.

use crate::{
    common::{fails, succeeds},
    recipes::latents,
    sweep::Lab,
};
use serde_json::Value;
use std::fs;

#[test]
fn points_of_other_data_are_refused_and_moved_ones_are_not() {
    let define = |lab: &Lab, seeds: &str| {
        lab.define(&format!(
            "points: [(name: \"plain\")], seeds: {seeds}, metrics: [(name: \"held_out/loss\", better: lower)],"
        ));
    };
    let lab = Lab::new("");
    define(&lab, "[0]");
    for folder in ["one", "moved", "other"] {
        fs::create_dir(lab.path(folder)).unwrap();
    }
    latents(&lab.path("one/a.tar"), 1.0);
    latents(&lab.path("other/a.tar"), 1.5);
    fs::copy(lab.path("one/a.tar"), lab.path("moved/a.tar")).unwrap();
    let held_out = lab.path("one/a.tar");
    let sets = |folder: &str| {
        let shards = lab.path(folder).join("a.tar");
        let sets = [
            format!("data=Latents(image_size: 256, tokens: 3, shards: {shards:?})"),
            format!("evaluation=(every: 7, samples: 8, shards: {held_out:?})"),
            "model.in_channels=4".into(),
            "model.input_size=8".into(),
            "model.patch_size=2".into(),
            "model.caption_channels=6".into(),
            "sampling.every=None".into(),
            "sampling.prompts=[]".into(),
        ];
        let sets = sets.into_iter().flat_map(|set| ["--set".to_owned(), set]);
        sets.collect::<Vec<String>>()
    };
    let run = |folder: &str| {
        let sets = sets(folder);
        lab.run("out", &sets.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(run("one").status.success());
    // One more seed, on the same data in another place.
    define(&lab, "[0, 1]");
    assert!(run("moved").status.success());
    let rows = lab.rows("out");
    assert_eq!(rows.len(), 2 * 18);
    let data = rows[0]["data"].as_str().unwrap();
    assert!(data.starts_with("1 shards of "), "{data}");
    assert!(rows.iter().all(|row| row["data"] == data));
    define(&lab, "[0, 1, 2]");
    let refused = [
        "trained on other data",
        "plain, seed 0: ",
        data,
        "--set data.shards",
    ];
    fails(&run("other"), &refused);
    assert_eq!(lab.rows("out"), rows);
    // Rows of a version that did not record it are continued.
    let old = rows.iter().map(|row| {
        let mut row = row.clone();
        for key in ["data", "better", "budget", "conditions"] {
            row.as_object_mut().unwrap().remove(key);
        }
        row.to_string() + "\n"
    });
    fs::write(lab.path("out/sweep.jsonl"), old.collect::<String>()).unwrap();
    assert!(run("one").status.success());
    let grown = lab.rows("out");
    assert_eq!(grown.len(), 3 * 18);
    let values =
        |rows: &[Value]| -> Vec<Value> { rows.iter().map(|row| row["value"].clone()).collect() };
    assert_eq!(values(&grown)[..2 * 18], values(&rows)[..]);
}

#[test]
fn losses_that_mean_different_things_are_not_compared_and_runs_are_shown_side_by_side() {
    let lab = Lab::new(
        r#"points: [
            (name: "EDM"),
            (name: "flow matching", set: ["diffusion=FlowMatching()"]),
        ], seeds: [0, 1], metrics: [(name: "held_out/loss", better: lower)],"#,
    );
    let said = lab.finishes("out", &[]);
    assert!(said.contains("held_out/loss is not compared"), "{said}");
    assert!(
        !said.contains("beats") && !said.contains("differ by"),
        "{said}"
    );
    let page = lab.path("page.html");
    let out = lab.path("out");
    let [out, text] = [&out, &page].map(|path| path.to_str().unwrap());
    succeeds(&["report", out, "--out", text]);
    let whole = fs::read_to_string(&page).unwrap();
    for part in [
        "held_out/loss is not compared",
        "one run of each of 2 of 2 points",
        "held out: loss",
        "Differences between the recipes",
        "How it was run",
        "FlowMatching",
    ] {
        assert!(whole.contains(part), "no {part}");
    }
    // The newest grid of each.
    assert_eq!(whole.matches("<img class=\"samples\"").count(), 2);
    // The rows alone say as much, and what is lacking.
    fs::remove_dir_all(lab.path("out/points")).unwrap();
    fs::remove_file(lab.path("out/table.md")).unwrap();
    succeeds(&["report", out, "--out", text]);
    let rows = fs::read_to_string(&page).unwrap();
    for part in [
        "held_out/loss is not compared",
        "The run directories are not in this folder",
    ] {
        assert!(rows.contains(part), "no {part}");
    }
}
