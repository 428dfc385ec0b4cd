//! Every flag that takes numbers is tried with values nobody means: it is refused, or the command comes to an orderly end.
//!
//! Commands and flags are found in the program's own help, so that a new one is tried without being named here.

use crate::{
    common::{fails, microdit, root, small, succeeds, text},
    encoders,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

/// What is given to every flag of numbers.
const HOSTILE: [&str; 18] = [
    "",
    "0",
    "1",
    "-1",
    "+5",
    "0.5",
    "-0.0",
    "NaN",
    "inf",
    "1e308",
    "1e-308",
    "0x10",
    "1e3",
    "2147483648",
    "4294967295",
    "18446744073709551615",
    "0-4294967295",
    "0-65535",
];

/// Address space of a command in KiB.
const MEMORY: &str = "4000000";

/// Words at the beginning of the lines of the help that begin with `indent`, after the line that is `title`.
fn listed(help: &str, title: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != title).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let words = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    words
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect()
}

/// Every command without subcommands, as the words that lead to it.
fn commands(path: &[String]) -> Vec<Vec<String>> {
    let help = help(path);
    let below = listed(&help, "Commands:");
    if below.is_empty() {
        return vec![path.to_vec()];
    }
    below
        .into_iter()
        .flat_map(|name| commands(&[path, &[name]].concat()))
        .collect()
}

fn help(path: &[String]) -> String {
    let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
    words.push("--help");
    let output = microdit(&words);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The flags of a command that take a value other than text: those that refuse text.
fn flags(path: &[String]) -> Vec<String> {
    let help = help(path);
    let valued = help.lines().filter_map(|line| {
        let (_, flag) = line.split_once("--")?;
        let (name, value) = flag.split_once(' ')?;
        value.starts_with('<').then(|| name.to_owned())
    });
    // Where it is taken for a path, nothing is left behind.
    let folder = tempfile::tempdir().unwrap();
    let word = folder.path().join("no such thing").display().to_string();
    valued
        .filter(|name| {
            let flag = format!("--{name}={word}");
            let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
            words.push(&flag);
            text(&microdit(&words)).contains("error: invalid value")
        })
        .collect()
}

/// A picture's worth of everything the commands need; `{}` is another new directory each time.
fn bases(folder: &Path) -> BTreeMap<&'static str, String> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    encoders::vae(&folder.join("vae"));
    encoders::clip(&folder.join("clip"));
    let card = r#"(name: "s", source: "", license: "", size: "", get: "", layout: Shapes(size: 64, count: 3), store: Png)"#;
    fs::write(folder.join("card.ron"), card).unwrap();
    succeeds(&[
        "data",
        "prepare",
        &path("card.ron"),
        "--out",
        &path("shards"),
    ]);
    let sweep = format!(
        "(base: {:?}, points: [(name: \"a\")], seeds: [0], metrics: [(name: \"x\", better: lower)])",
        root().join("recipes/quickstart.ron")
    );
    fs::write(folder.join("sweep.ron"), sweep).unwrap();
    let sets: Vec<&str> = small().collect();
    let recipe = "recipes/quickstart.ron";
    let run = path("run");
    let snapshots = ["--set", "post_hoc_ema=(every: 1)"];
    let train = [&["train", recipe, "--run", &run], &sets[..], &snapshots].concat();
    succeeds(&train);
    fs::write(folder.join("prompts.txt"), "circle").unwrap();
    let scene = "a large red circle on a white background";
    fs::write(folder.join("scene.txt"), scene).unwrap();
    succeeds(&[
        "sample",
        "--run",
        &run,
        "--prompts",
        &path("prompts.txt"),
        "--steps",
        "1",
        "--count",
        "1",
        "--out",
        &path("sheet.png"),
        "--singles",
        &path("singles"),
    ]);
    let sets = sets.join(" ");
    BTreeMap::from([
        ("train", format!("{recipe} --run {{}} {sets}")),
        (
            "sample",
            format!("--run {run} --prompt circle --out {{}}.png --count 1 --steps 1"),
        ),
        ("plan", recipe.to_owned()),
        (
            "ema",
            format!("--run {run} --sigma-rel 0.1 --out {{}}.safetensors"),
        ),
        ("export", format!("--run {run} --out {{}}")),
        (
            "merge",
            format!("{run}/weights.safetensors {run}/weights.safetensors --out {{}}.safetensors"),
        ),
        (
            "eval",
            format!(
                "--run {run} --prompts {} --samples 1 --steps 1 --metrics prompt-accuracy --out {{}} --cache {{}}/cache",
                path("scene.txt")
            ),
        ),
        (
            "sweep",
            format!("{} --dry-run --out {{}}", path("sweep.ron")),
        ),
        (
            "study",
            format!(
                "{singles} {singles} --prompts {} --out {{}}.html",
                path("prompts.txt"),
                singles = path("singles")
            ),
        ),
        ("data prepare", format!("{} --out {{}}", path("card.ron"))),
        (
            "data precompute",
            format!(
                "{} --out {{}} --vae {} --text-encoder {} --sizes 32",
                path("shards"),
                path("vae"),
                path("clip")
            ),
        ),
        (
            "data inspect",
            format!("{} --sheet {{}}.png", path("shards")),
        ),
    ])
}

/// Runs a command under limits of memory and time; a flag it has already is replaced.
fn run(path: &[String], base: &str, flag: &str, value: &str) -> Output {
    let mut words: Vec<&str> = base.split_whitespace().collect();
    let name = format!("--{flag}");
    if let Some(place) = words.iter().position(|word| *word == name) {
        words.drain(place..place + 2);
    }
    let script = r#"ulimit -v "$0"; exec timeout 120 "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, MEMORY, env!("CARGO_BIN_EXE_microdit")]);
    command
        .args(path)
        .args(words)
        .arg(format!("{name}={value}"));
    command.current_dir(root()).output().expect("sh starts")
}

#[test]
fn every_flag_of_numbers_is_refused_or_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let bases = bases(folder.path());
    let (mut tried, mut obeyed, mut faults) = (0, 0, Vec::new());
    for path in commands(&[]) {
        for flag in flags(&path) {
            let Some(base) = bases.get(path.join(" ").as_str()) else {
                // Words of a list and names of recipes are not numbers.
                let words = ["dtype", "to", "prediction", "recipe", "from"];
                let is_word = words.contains(&flag.as_str());
                assert!(is_word, "{path:?} --{flag} needs an entry in `bases`");
                continue;
            };
            for value in HOSTILE {
                let out = folder.path().join(format!("out-{tried}"));
                let base = base.replace("{}", &out.to_string_lossy());
                let output = run(&path, &base, &flag, value);
                tried += 1;
                match output.status.code() {
                    Some(0) => obeyed += 1,
                    // What was found wrong later, and what the parser refused.
                    Some(1 | 2) => {}
                    other => faults.push(format!(
                        "{path:?} --{flag}={value} ended with {other:?}: {}",
                        text(&output)
                    )),
                }
            }
        }
    }
    println!(
        "{tried} values tried, {obeyed} obeyed, {} faults",
        faults.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(tried > 300 && obeyed > 20, "{tried} tried, {obeyed} obeyed");
}

#[test]
fn a_refused_number_says_its_range() {
    let plan = |more: &[&str]| microdit(&[&["plan", "recipes/quickstart.ron"], more].concat());
    for (flag, parts) in [
        (
            "--mfu=0",
            &["--mfu", "at least 1e-6 and at most 1, not 0"][..],
        ),
        ("--mfu=NaN", &["--mfu", "not NaN"]),
        ("--count=0", &["--count", "0 is not in 1..=1000000"]),
        (
            "--usd-per-gpu-hour=-1",
            &["at least 0 and at most 1000000, not -1"],
        ),
    ] {
        fails(&plan(&[flag]), parts);
    }
    let sample = microdit(&["sample", "--run", "x", "--guidance=nan"]);
    fails(
        &sample,
        &["--guidance", "at least 0 and at most 1000, not NaN"],
    );
}
