//! What an installed program does without a checkout: bundled recipes, and what it says of itself and the machine.

use crate::common::{fails, root, small, succeeds, text, train};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Runs the binary in a folder that is no checkout.
fn within(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What it printed, to a good end.
#[track_caller]
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = within(folder, arguments);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_bundled_recipe_is_listed_checked_and_trained_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let listed = printed(folder.path(), &["recipe", "list"]);
    for name in ["quickstart ", "microdit-xl2 ", "ablations/cifar10-masking "] {
        assert!(
            listed.lines().any(|line| line.starts_with(name)),
            "{listed}"
        );
    }
    let named = printed(folder.path(), &["recipe", "check", "quickstart"]);
    let file = root().join("recipes/quickstart.ron");
    let of_file = printed(folder.path(), &["recipe", "check", &file.to_string_lossy()]);
    assert_eq!(named, of_file);
    let start = ["train", "quickstart", "--run", "run"];
    let arguments: Vec<&str> = start.into_iter().chain(small()).collect();
    printed(folder.path(), &arguments);
    assert!(folder.path().join("run/weights.safetensors").is_file());
    // A sweep by the last part of its name, whose base is bundled too.
    let dry = [
        "sweep",
        "cifar10-moe",
        "--dry-run",
        "--set",
        "data.shards=x",
    ];
    let bill = printed(
        folder.path(),
        &[&dry[..], &["--set", "evaluation.shards=x"]].concat(),
    );
    assert!(bill.contains("dense, seed 2"), "{bill}");
    // A directory of that name is no recipe and hides none; a file comes first.
    fs::create_dir(folder.path().join("quickstart")).unwrap();
    assert_eq!(
        printed(folder.path(), &["recipe", "check", "quickstart"]),
        named
    );
    fs::remove_dir(folder.path().join("quickstart")).unwrap();
    fs::create_dir(folder.path().join("mine")).unwrap();
    fails(
        &within(folder.path(), &["recipe", "check", "mine"]),
        &["mine", "is not a regular file"],
    );
    fs::write(folder.path().join("quickstart"), "(name: 3)").unwrap();
    fails(
        &within(folder.path(), &["recipe", "check", "quickstart"]),
        &["quickstart:1"],
    );
    fails(
        &within(folder.path(), &["plan", "quickstrat"]),
        &["quickstrat", "did you mean quickstart"],
    );
}

#[test]
fn a_recipe_of_ones_own_begins_with_a_bundled_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| within(folder.path(), arguments);
    printed(folder.path(), &["recipe", "copy", "quickstart"]);
    let copy = fs::read_to_string(folder.path().join("quickstart.ron")).unwrap();
    assert_eq!(
        copy,
        fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap()
    );
    fails(
        &run(&["recipe", "copy", "quickstart"]),
        &["is there already"],
    );
    fails(
        &run(&["recipe", "copy", "none"]),
        &["no bundled recipe", "recipe list"],
    );

    printed(
        folder.path(),
        &["recipe", "init", "mine", "--from", "microdit-xl2"],
    );
    let path = folder.path().join("mine.ron");
    let begun = fs::read_to_string(&path).unwrap();
    let check = |name: &str| printed(folder.path(), &["plan", name]);
    let same = |text: &str| text.replace("microdit-xl2", "NAME").replace("mine", "NAME");
    assert_eq!(same(&check("mine.ron")), same(&check("microdit-xl2")));
    // Each comment is what the recipe says: with all of them in force, it says the same.
    let (header, body) = begun.split_once("(\n").unwrap();
    assert!(header.lines().all(|line| line.starts_with("//")), "{begun}");
    let forced = body.replace("    // ", "    ");
    fs::write(&path, format!("(\n{forced}")).unwrap();
    assert_eq!(same(&check("mine.ron")), same(&check("microdit-xl2")));

    fails(&run(&["recipe", "init", "mine"]), &["is there already"]);
    fails(&run(&["recipe", "init", ".."]), &["a name is"]);
    fails(&run(&["recipe", "init", "a*b"]), &["a name is"]);
    assert!(!folder.path().join("a*b.ron").exists());
}

#[test]
fn runs_are_listed_with_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    assert!(printed(folder.path(), &["runs", "."]).contains("no runs in"));
    fails(
        &within(folder.path(), &["runs"]),
        &["no directory runs", "microdit train quickstart"],
    );
    let output = train(&folder.path().join("first"), &[]);
    assert!(output.status.success(), "{}", text(&output));
    let arguments = ["sample", "--weights", "first", "--prompt", "a circle"];
    fails(
        &within(folder.path(), &arguments),
        &["first is a run", "--run"],
    );
    fs::create_dir(folder.path().join("begun")).unwrap();
    let recipe = folder.path().join("first/recipe.ron");
    fs::copy(recipe, folder.path().join("begun/recipe.ron")).unwrap();
    let table = printed(folder.path(), &["runs", "."]);
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.contains(name)).unwrap();
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let first = row("| first");
    let log = fs::read_to_string(folder.path().join("first/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let loss = format!("{:.4}", last["loss"].as_f64().unwrap());
    assert_eq!(first[2..5], ["finished".to_owned(), "5".into(), loss]);
    assert!(first[7].ends_with("samples.png"), "{table}");
    assert_eq!(row("| begun")[2..5], ["stopped", "-", "-"]);
}

#[test]
fn the_program_tells_of_itself_and_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let said = Command::new(env!("CARGO_BIN_EXE_microdit"))
        .arg("doctor")
        .env("RAYON_NUM_THREADS", "1")
        .env("HF_HOME", folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let said = text(&said);
    for part in [
        env!("CARGO_PKG_VERSION"),
        "1 of ",
        "RAYON_NUM_THREADS is 1",
        "GiB free",
        &folder.path().join("hub").display().to_string(),
        "HF_HUB_OFFLINE forbids",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeeds(&["completions", shell]);
        assert!(script.contains("precompute"), "{shell}");
    }
    let pages = folder.path().join("man");
    succeeds(&["man", "--out", &pages.to_string_lossy()]);
    let page = fs::read_to_string(pages.join("microdit-data-inspect.1")).unwrap();
    assert!(page.contains("\\-\\-sheet"), "{page}");
}

#[test]
fn a_run_is_exported_with_what_is_known_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = train(&run, &[]);
    assert!(output.status.success(), "{}", text(&output));
    let results = r#"{"results": [{"metric": "fid", "value": 12.5, "labels": {"guidance": "3"}}]}"#;
    fs::write(run.join("eval.json"), results).unwrap();
    let export = |more: &[&str]| {
        let start = ["export", "--run", "run", "--out", "out"];
        within(folder.path(), &[&start[..], more].concat())
    };
    fails(
        &export(&["--license", "a\nb: c"]),
        &["a licence is named by"],
    );
    let output = export(&["--license", "cc-by-4.0"]);
    assert!(output.status.success(), "{}", text(&output));
    let out = folder.path().join("out");
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    assert_eq!(
        read("model.safetensors"),
        fs::read(run.join("ema.safetensors")).unwrap()
    );
    assert_eq!(
        read("samples.png"),
        fs::read(run.join("samples.png")).unwrap()
    );
    let card = String::from_utf8(read("README.md")).unwrap();
    for part in [
        "---\nlicense: cc-by-4.0\n",
        "# quickstart\n",
        "masked (3 steps of 4 images), unmasked (2 steps of 4 images)",
        "| images seen | 20 |",
        "| fid | 12.5000 | guidance 3 |",
        "- a large red circle on a white background",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    assert_eq!(config["network"]["Dit"]["dim"], 32);
    fails(&export(&[]), &["out is there already"]);
    // The recipe trains the same again, and the folder draws.
    printed(&out, &["recipe", "check", "recipe.ron"]);
    let draw = [
        "sample",
        "--weights",
        "out",
        "--prompt",
        "a red circle",
        "--steps",
        "2",
        "--out",
        "a.png",
    ];
    printed(folder.path(), &draw);
}
