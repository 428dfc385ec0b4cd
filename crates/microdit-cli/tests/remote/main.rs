//! Data by URL: web servers that misbehave, buckets, the hub. Built with `--features remote`.

mod bucket;
#[allow(dead_code, unreachable_pub)]
#[path = "../binary/common.rs"]
mod common;
#[allow(dead_code, unreachable_pub)]
#[path = "../binary/encoders.rs"]
mod encoders;
mod hub;
#[allow(dead_code, unreachable_pub)]
#[path = "../binary/tiny.rs"]
mod tiny;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../microdit-data/src/remote/tests/web.rs"]
mod web;
#[allow(dead_code, unreachable_pub)]
#[path = "../binary/workshop.rs"]
mod workshop;

use common::{fails, root, text};
use safetensors::SafeTensors;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};
use tiny::WEB_DATASET;
use web::{Files, Mischief, Web};
use workshop::{Workshop, cards, same};

/// The command with a cache of its own, and a server that is waited for shortly.
fn microdit(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command.args(arguments).current_dir(root());
    with_cache(&mut command, cache);
    command
}

fn with_cache(command: &mut Command, cache: &Path) {
    command
        .env("MICRODIT_CACHE", cache)
        .env("MICRODIT_TIMEOUT", "2")
        .env("MICRODIT_RETRIES", "6")
        .env("HF_HOME", cache.join("hf"))
        .env_remove("HF_HUB_OFFLINE");
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Golden shards by name.
fn goldens(names: &[(&str, &str)]) -> Files {
    let read = |&(name, golden): &(&str, &str)| {
        let content = fs::read(root().join("tests/goldens").join(golden)).unwrap();
        (name.to_owned(), content)
    };
    names.iter().map(read).collect()
}

/// Two shards, one of them with damaged samples.
fn two() -> Files {
    goldens(&[("0.tar", "wds_clean.tar"), ("1.tar", "wds_dirty.tar")])
}

/// Writes files below a directory.
fn write(folder: &Path, files: &Files) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// Trains the tiny recipe on shards.
fn train(cache: &Path, run: &Path, shards: &str, more: &[&str]) -> Command {
    let shards = format!("data.shards={shards}");
    let evaluation = shards.replace("data.", "evaluation.");
    let sets = ["--set", WEB_DATASET, "--set", &shards, "--set", &evaluation];
    let damage = ["--set", "data.max_damage=0.5"];
    let mut command = tiny::command(run, &[&sets[..], &damage, more].concat());
    with_cache(&mut command, cache);
    command
}

/// Checks that two runs have the same logs and tensors, down to the last bit. Their other files, and what those of weights say beside
/// the tensors, tell where the data lie.
#[track_caller]
fn assert_same(found: &Path, expected: &Path, context: &str) {
    let tensors = |bytes: Vec<u8>| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = file.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        format!("{all:?}").into_bytes()
    };
    let results = |run: &Path| {
        let mut results = tiny::results(run);
        results.retain(|name, _| name.ends_with(".safetensors") || name.ends_with(".jsonl"));
        assert!(results.len() > 4, "{:?}", results.keys());
        for (name, bytes) in &mut results {
            if name.ends_with(".safetensors") {
                *bytes = tensors(std::mem::take(bytes));
            }
        }
        results
    };
    let (found, expected) = (results(found), results(expected));
    assert!(found.keys().eq(expected.keys()), "{context}");
    let other = found
        .iter()
        .find(|(name, bytes)| expected[*name] != **bytes);
    assert_eq!(other.map(|(name, _)| name), None, "{context}");
}

#[test]
fn remote_shards_train_as_local_ones_do_and_can_be_moved_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("data"), &two());
    let local = at("data").to_string_lossy().into_owned();
    succeeds(&mut train(&at("cache"), &at("runs/local"), &local, &[]));
    // Every other request fails in its own way.
    let faults = [
        Mischief::Drop,
        Mischief::Busy,
        Mischief::Short,
        Mischief::OtherEtag,
        Mischief::OtherTotal,
        Mischief::Stall,
    ];
    let web = Web::new(two(), move |request| match request.content % 2 {
        0 => faults[request.content / 2 % faults.len()],
        _ => Mischief::None,
    });
    let url = format!("{}/{{0,1}}.tar", web.address);
    let said = succeeds(&mut train(&at("cache"), &at("runs/remote"), &url, &[]));
    assert!(said.contains("asked again in"), "{said}");
    assert!(web.spoiled() > 0);
    assert_same(&at("runs/remote"), &at("runs/local"), "by URL");
    // Begun on files, killed, continued by URL: the same data, wherever they lie.
    let moved = at("runs/moved");
    let mut child = train(&at("cache"), &moved, &local, &[]).spawn().unwrap();
    let begun = Instant::now();
    let saved =
        || fs::read_dir(moved.join("checkpoints")).is_ok_and(|mut saved| saved.next().is_some());
    while !saved() && begun.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let more = ["--resume", "--allow-changes"];
    succeeds(&mut train(&at("other"), &moved, &url, &more));
    assert_same(&moved, &at("runs/local"), "moved");
}

#[test]
fn remote_shards_are_inspected_prepared_and_precomputed_as_local_ones_are() {
    let workshop = Workshop::new();
    let folder = workshop.folder.path();
    let cache = folder.join("cache");
    let pictures = workshop.files("pictures").into_iter();
    let files: Files = pictures
        .map(|(name, bytes)| (name.to_string_lossy().into_owned(), bytes))
        .collect();
    let web = Web::new(files, |request| match request.content % 2 {
        0 => Mischief::Drop,
        _ => Mischief::None,
    });
    let url = format!("{}/{{0..5}}.tar", web.address);
    let local = workshop.path("pictures/{0..5}.tar");
    let inspect = |shards: &str| {
        let output = microdit(
            &cache,
            &["data", "inspect", shards, "--json", "--max-damage", "1"],
        );
        String::from_utf8({ output }.output().unwrap().stdout).unwrap()
    };
    let found = inspect(&url);
    assert!(found.contains("\"samples\": 91"), "{found}");
    assert_eq!(found, inspect(&local));
    let [shards, _] = cards(folder);
    for (source, out) in [(&local, "prepared"), (&url, "prepared-by-url")] {
        let out = workshop.path(out);
        let words = [
            "data",
            "prepare",
            &shards,
            "--source",
            source,
            "--out",
            &out,
            "--max-damage",
            "1",
        ];
        succeeds(&mut microdit(&cache, &words));
    }
    same(
        &workshop.files("prepared-by-url"),
        &workshop.files("prepared"),
    );
    workshop.precomputed("latents", &[]);
    let encode = [
        "data",
        "precompute",
        &url,
        "--out",
        &workshop.path("latents-by-url"),
        "--vae",
        &workshop.path("vae"),
        "--text-encoder",
        &workshop.path("clip"),
        "--sizes",
        "32,64",
        "--batch",
        "3",
    ];
    succeeds(&mut microdit(&cache, &encode));
    same(
        &workshop.files("latents-by-url"),
        &workshop.files("latents"),
    );
    assert!(web.spoiled() >= 6);
}

#[test]
fn remote_shards_that_cannot_be_had_are_errors_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let web = Web::new(two(), |request| match request.path.as_str() {
        "1.tar" => Mischief::OtherTotal,
        _ => Mischief::None,
    });
    let inspect = |shards: &str| microdit(&cache, &["data", "inspect", shards]);
    let url = |name: &str| format!("{}/{name}", web.address);
    let run = |command: &mut Command| command.output().unwrap();
    fails(
        &run(&mut inspect(&url("2.tar"))),
        &["/2.tar: no such object"],
    );
    fails(
        &run(&mut inspect("ftp://host/a.tar")),
        &["begins with https://"],
    );
    fails(
        &run(&mut inspect(&url("data"))),
        &["does not list its files", "{000000..000009}.tar"],
    );
    let small = run(inspect(&url("0.tar")).env("MICRODIT_CACHE_GIB", "much"));
    fails(
        &small,
        &["MICRODIT_CACHE_GIB: \"much\"; expected a number from 0.001 to 1000000"],
    );
    // A lost connection ends a run, which can be resumed; it does not leave samples out.
    let run_dir = folder.path().join("run");
    let mut lost = train(&cache, &run_dir, &url("{0,1}.tar"), &[]);
    let length = two()["1.tar"].len();
    fails(
        &run(lost.env("MICRODIT_RETRIES", "1")),
        &[
            &url("1.tar"),
            &format!(
                "its length differs: expected {length} bytes, found {}",
                length + 7
            ),
            "upload both again",
        ],
    );
}
