//! Pictures that are not square: counted, encoded, trained on in batches of one shape, killed, resumed and drawn.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    latents::RECIPE,
    tiny,
    workshop::Workshop,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

/// Sixteen pictures: eight nearly square, six wide, two high.
fn golden() -> String {
    let path = root().join("tests/goldens/wds_clean.tar");
    path.to_string_lossy().into_owned()
}

#[test]
fn inspect_shows_how_many_pictures_each_bucket_has() {
    let said = succeeds(&[
        "data",
        "inspect",
        &golden(),
        "--buckets",
        "8",
        "--size",
        "32",
    ]);
    let bars: Vec<(String, u64)> = said
        .split("bucket ")
        .skip(1)
        .map(|bar| {
            let words: Vec<&str> = bar.split_whitespace().take(4).collect();
            (words[..3].join(" "), words[3].parse().unwrap())
        })
        .collect();
    let sizes: Vec<&str> = bars.iter().map(|(size, _)| size.as_str()).collect();
    assert_eq!(sizes, ["24 x 40", "32 x 32", "40 x 24"], "{said}");
    let counts: Vec<u64> = bars.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [2, 8, 6], "{said}");
    let json = succeeds(&[
        "data",
        "inspect",
        &golden(),
        "--buckets",
        "24x40,32x32",
        "--size",
        "32",
        "--json",
    ]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["buckets"]["24 x 40"], bars[0].1);
    assert_eq!(json["buckets"]["32 x 32"], 16 - bars[0].1);
    for (buckets, part) in [
        ("40x40", "are 1600 pixels, more than the 1024 of 32 x 32"),
        ("64", "no size of multiples of 64"),
        ("wide", "expected a step in pixels"),
    ] {
        let output = microdit(&[
            "data",
            "inspect",
            &golden(),
            "--buckets",
            buckets,
            "--size",
            "32",
        ]);
        fails(&output, &[part]);
    }
}

#[test]
fn latents_of_every_shape_are_encoded_and_trained_on() {
    let workshop = Workshop::new();
    let said = workshop.precomputed("latents", &["--buckets", "8"]);
    assert!(said.contains("91 samples"), "{said}");
    let found = succeeds(&["data", "inspect", &workshop.path("latents"), "--json"]);
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let of = |shape: &str| found["sizes"][shape].as_u64().unwrap_or(0);
    let [high, square, wide] = ["[4, 5, 3]", "[4, 4, 4]", "[4, 3, 5]"].map(of);
    assert_eq!(high + square + wide, 91, "{found}");
    assert!(high >= 10 && wide >= 30, "{found}");
    fails(
        &workshop.precompute("latents", &[]).output().unwrap(),
        &["other settings", "buckets: expected"],
    );
    fails(
        &workshop
            .precompute("odd", &["--buckets", "12"])
            .output()
            .unwrap(),
        &["images of 36 pixels cannot be encoded; expected a multiple of 8"],
    );
    let recipe = workshop.path("latents.ron");
    fs::write(&recipe, RECIPE).unwrap();
    let train = |run: &str, buckets: &str| {
        let (run, latents) = (workshop.path(run), workshop.path("latents"));
        let sets = [
            format!("data.shards={latents:?}"),
            format!("evaluation=(every: 2, samples: 8, shards: {latents:?})"),
            format!("data.buckets={buckets}"),
            "sampling.every=None".into(),
            "batch=4".into(),
            "stages.only.steps=8".into(),
        ];
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let all: Vec<&str> = ["train", &recipe, "--run", &run]
            .into_iter()
            .chain(sets)
            .collect();
        microdit(&all)
    };
    let output = train("run", "Step(step: 8)");
    assert!(output.status.success(), "{}", text(&output));
    for (i, (buckets, parts)) in [
        // Without them, what is not square is damage.
        ("None", ["samples are damaged", "its latent has shape"]),
        (
            "Sizes([(width: 32, height: 32)])",
            ["samples are damaged", "that of no bucket"],
        ),
        (
            "Step(step: 12)",
            ["data.buckets.step", "multiples of 8 pixels"],
        ),
        (
            "Sizes([(width: 64, height: 32)])",
            ["data.buckets", "more than the 1024 of 32 x 32"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        fails(&train(&format!("no {i}"), buckets), &parts);
    }
}

/// Trains the small recipe on pictures of three shapes.
fn sets() -> Vec<String> {
    let shards = golden();
    [
        tiny::WEB_DATASET.to_owned(),
        format!("data.shards={shards:?}"),
        "data.buckets=Step(step: 4, max_aspect: 2.5)".into(),
        "data.flip=true".into(),
        "data.random_crop=true".into(),
        format!("evaluation=(every: 4, samples: 5, shards: {shards:?})"),
    ]
    .into_iter()
    .flat_map(|set| ["--set".to_owned(), set])
    .collect()
}

#[test]
fn a_run_on_buckets_that_is_killed_again_and_again_ends_as_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let sets = sets();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    tiny::finish(&whole, &[&sets[..], &["--set", "data.threads=1"]].concat());
    let often = [
        "--resume",
        "--set",
        "checkpoints.every=1",
        "--set",
        "data.threads=3",
    ];
    let mut kills = 0;
    for step in [1, 3, 6, 9, 12] {
        let mut child = tiny::command(&killed, &[&sets[..], &often].concat())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reached = lines.map_while(Result::ok).any(|line| {
            let rest = line
                .strip_prefix("step ")
                .and_then(|rest| rest.split('/').next());
            rest.and_then(|number| number.parse::<u64>().ok()) >= Some(step)
        });
        std::thread::sleep(Duration::from_millis(3 * step));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        kills += usize::from(reached && !status.success());
    }
    assert!(kills >= 3, "only {kills} kills hit");
    tiny::finish(&killed, &[&sets[..], &often].concat());
    for file in ["weights.safetensors", "ema.safetensors", "evaluation.jsonl"] {
        let read = |run: &Path| fs::read(run.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs");
    }
    assert_eq!(tiny::metrics(&whole), tiny::metrics(&killed));
    // It draws pictures of the shapes it has seen, and of others.
    for (width, height) in [("20", "12"), ("12", "20"), ("32", "16")] {
        let (run, out) = (
            whole.to_str().unwrap(),
            folder.path().join(format!("{width}.png")),
        );
        let out = out.to_str().unwrap();
        let size = ["--width", width, "--height", height];
        let drawing = [
            "--prompt",
            "a large red circle on a white background",
            "--count",
            "4",
            "--steps",
            "2",
        ];
        succeeds(&[&["sample", "--run", run, "--out", out], &size[..], &drawing].concat());
        let sheet = image::open(out).unwrap();
        let side = |pixels: &str, sheet: u32| sheet > pixels.parse::<u32>().unwrap();
        assert!(side(width, sheet.width()) && side(height, sheet.height()));
    }
}
