//! A study, from pictures to a table.

use crate::{
    browser,
    common::{fails, microdit, root, small, succeeds},
    report::stands_alone,
};
use std::{fs, path::Path};

#[test]
fn pictures_of_a_run_are_studied() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let sets: Vec<&str> = small().collect();
    let recipe = root().join("recipes/quickstart.ron");
    let train = [
        "train",
        recipe.to_str().unwrap(),
        "--run",
        &path("run"),
        "--no-report",
    ];
    succeeds(&[&train[..], &sets].concat());
    fs::write(
        path("prompts.txt"),
        "a large red circle\na small blue square\n",
    )
    .unwrap();
    for (side, seed) in [("a", "0"), ("b", "1")] {
        let out = path(&format!("{side}.png"));
        let singles = path(side);
        succeeds(&[
            "sample",
            "--run",
            &path("run"),
            "--prompts",
            &path("prompts.txt"),
            "--count",
            "3",
            "--steps",
            "1",
            "--seed",
            seed,
            "--out",
            &out,
            "--singles",
            &singles,
        ]);
    }
    let study = |prompts: &str, each: &str, out: &str| {
        microdit(&[
            "study",
            &path("a"),
            &path("b"),
            "--prompts",
            &path(prompts),
            "--per-prompt",
            each,
            "--out",
            out,
        ])
    };
    let out = path("study.html");
    assert!(study("prompts.txt", "2", &out).status.success());
    let page = fs::read_to_string(&out).unwrap();
    stands_alone(&page);
    assert_eq!(
        page.matches("\"source\":\"data:image/png;base64,").count(),
        8
    );
    // Neither the folders nor what the pictures say of themselves.
    assert!(
        !page.contains(&path("a")) && !page.contains("weights"),
        "it says whose they are"
    );
    browser::shows(Path::new(&out), "4 pairs of pictures are shown");
    let again = path("again.html");
    study("prompts.txt", "2", &again);
    assert_eq!(fs::read_to_string(&again).unwrap(), page);
    fails(
        &study("prompts.txt", "4", &again),
        &["3 pictures of each prompt, and 4 are to be shown"],
    );
    fs::write(
        path("others.txt"),
        "a large red circle\na small green square\n",
    )
    .unwrap();
    fails(
        &study("others.txt", "3", &again),
        &[
            "00003.png: it was drawn for \"a small blue square\"",
            "\"a small green square\"",
        ],
    );
    // The votes of somebody who is asked twice, and a table.
    let data = page
        .split("\"study\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let token = page
        .split("\"token\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let votes = format!(
        r#"{{"format": "microdit study votes 1", "study": "{data}", "voter": "Ann", "votes": [{{"pair": 0, "left": "{token}", "better": "{token}", "match": "neither"}}]}}"#
    );
    fs::write(path("ann.json"), &votes).unwrap();
    fs::write(path("bob.json"), votes.replace("Ann", "Bob")).unwrap();
    let said = succeeds(&["study", "--votes", &path("ann.json"), &path("bob.json")]);
    for part in [
        "4 pairs, 2 voters",
        "better picture",
        // Two votes on the same pair are worth one.
        "100.0 % [20.7, 100.0]",
        "Wilson",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    fails(
        &microdit(&["study", "--votes", &path("ann.json"), &path("ann.json")]),
        &["both are votes of Ann"],
    );
    fails(
        &microdit(&["study", "--votes", &path("prompts.txt")]),
        &["prompts.txt: not a file of votes"],
    );
    fails(&microdit(&["study", &path("a")]), &["error:"]);
}
