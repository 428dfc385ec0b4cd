//! Several captions of a picture: kept side by side, encoded, and drawn from in training.

use crate::{
    common::{WEB_DATASET, fails, microdit, small, succeeds},
    latents::RECIPE,
    prepare::picture,
    workshop::Workshop,
};
use std::fs;

/// Shards of eight pictures with a long and a short caption, in `data` of a workshop.
fn prepared(workshop: &Workshop) -> String {
    let pictures = workshop.path("collected");
    fs::create_dir(&pictures).unwrap();
    let rows: Vec<String> = (0..8)
        .map(|i| {
            let name = format!("{i}.png");
            picture(30 * i).save(format!("{pictures}/{name}")).unwrap();
            let short = if i == 3 { "null".into() } else { format!("\"short {i}\"") };
            format!(r#"{{"file_name": "{name}", "long": "a rather long caption {i}", "short": {short}}}"#)
        })
        .collect();
    fs::write(format!("{pictures}/captions.jsonl"), rows.join("\n")).unwrap();
    let card = workshop.path("card.ron");
    let layout = r#"Folder((captions: ["long", "short"]))"#;
    let text =
        format!(r#"(name: "n", source: "s", license: "l", size: "s", get: "g", layout: {layout})"#);
    fs::write(&card, &text).unwrap();
    let data = workshop.path("data");
    let prepare = ["data", "prepare", &card, "--source", &pictures, "--out"];
    succeeds(&[&prepare[..], &[&data]].concat());
    // One that says two things at once.
    fs::write(
        &card,
        text.replace("captions:", "caption: \"long\", captions:"),
    )
    .unwrap();
    let other = workshop.path("other");
    fails(
        &microdit(&[&prepare[..], &[&other]].concat()),
        &["layout.captions: several captions are named besides `caption`"],
    );
    data
}

/// Padding is trimmed off, which is another conditioning: named, drawn with, and not mixed with what has its padding.
#[test]
fn trimmed_padding_is_a_conditioning_of_its_own() {
    let workshop = Workshop::new();
    workshop.precomputed("whole", &[]);
    let said = workshop.precomputed("trimmed", &["--trim-padding"]);
    for part in [
        "with their padding",
        "took 9856",
        "another conditioning",
        "all 77 tokens",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    // What was done before is counted when the command is run again.
    let again = workshop.precomputed("trimmed", &["--trim-padding"]);
    assert!(again.contains("took 9856"), "{again}");
    let size = |name: &str| {
        let files = workshop.files(name);
        files.values().map(Vec::len).sum::<usize>()
    };
    assert!(
        2 * size("trimmed") < size("whole"),
        "{} of {}",
        size("trimmed"),
        size("whole")
    );
    let said = succeeds(&["data", "inspect", &workshop.path("trimmed")]);
    assert!(
        said.contains(", 64] (") && !said.contains("[77, 64]"),
        "{said}"
    );
    let tokens = workshop
        .precompute("other", &["--tokens", "128"])
        .output()
        .unwrap();
    fails(&tokens, &["reads 77 tokens of a caption", "not 128"]);

    let recipe = workshop.path("latents.ron");
    fs::write(&recipe, RECIPE).unwrap();
    let encoders = format!(
        "encoders=(vae: {:?}, text: {:?})",
        workshop.path("vae"),
        workshop.path("clip")
    );
    let train = |run: &str, data: &str, trimmed: &str| {
        let (run, shards) = (
            workshop.path(run),
            format!("data.shards={:?}", workshop.path(data)),
        );
        let sets = [&shards, &encoders, trimmed]
            .into_iter()
            .flat_map(|set| ["--set", set]);
        let all: Vec<&str> = ["train", &recipe, "--run", &run]
            .into_iter()
            .chain(sets)
            .collect();
        microdit(&all)
    };
    for (data, trimmed, parts) in [
        (
            "trimmed",
            "data.trimmed=false",
            ["lack their padding", "trimmed: true"],
        ),
        (
            "whole",
            "data.trimmed=true",
            ["have their padding", "--trim-padding"],
        ),
    ] {
        fails(&train(&format!("no-{data}"), data, trimmed), &parts);
    }
    // Of a pattern nothing is known but its samples.
    fails(
        &train(
            "pattern",
            "trimmed/{000000..000005}.tar",
            "data.trimmed=false",
        ),
        &["samples are damaged", "if its padding was trimmed off"],
    );
    let picture = |run: &str, data: &str, trimmed: &str| {
        let output = train(run, data, trimmed);
        assert!(output.status.success(), "{}", crate::common::text(&output));
        let run = workshop.path(run);
        let (weights, out) = (
            format!("{run}/weights.safetensors"),
            format!("{run}/drawn.png"),
        );
        // What the weights say about themselves decides how prompts are encoded.
        let drawing = [
            "--prompt",
            "a red circle",
            "--steps",
            "2",
            "--guidance",
            "3",
            "--out",
            &out,
        ];
        succeeds(&[&["sample", "--weights", &weights], &drawing[..]].concat());
        let bytes = fs::read(&weights).unwrap();
        let named = bytes
            .windows(9)
            .any(|window| window == b"\"trimmed\"" || window == b"\\\"trimmed");
        (image::open(out).unwrap().into_rgb8(), named)
    };
    let (trimmed, named) = picture("trimmed-run", "trimmed", "data.trimmed=true");
    assert!(named, "the weights do not say how their captions were made");
    let (whole, named) = picture("whole-run", "whole", "data.trimmed=false");
    assert!(!named);
    assert!(trimmed != whole);
}

#[test]
fn several_captions_are_kept_encoded_and_drawn_from() {
    let workshop = Workshop::new();
    let data = prepared(&workshop);
    let said = succeeds(&["data", "inspect", &data]);
    assert!(
        said.contains("members long.txt, png, short.txt, txt"),
        "{said}"
    );

    // Pixels: the same for any number of threads, another run with other weights.
    let shards = format!("data.shards={data:?}");
    let train = |run: &str, more: &[&str]| {
        let run = workshop.path(run);
        let base = [
            "train",
            "recipes/quickstart.ron",
            "--run",
            &run,
            "--set",
            WEB_DATASET,
        ];
        let sets = more.iter().flat_map(|set| ["--set", set]);
        let all: Vec<&str> = base
            .into_iter()
            .chain(small())
            .chain(["--set", &shards, "--set", "evaluation=None"])
            .chain(sets)
            .collect();
        let output = microdit(&all);
        (fs::read(format!("{run}/weights.safetensors")), output)
    };
    let mix = |long, short| {
        format!(
            "data.caption_mix=[(name: \"long\", weight: {long}), (name: \"short\", weight: {short})]"
        )
    };
    let weights = |run: &str, sets: &[&str]| train(run, sets).0.unwrap();
    let even = weights("even", &[&mix(1, 1), "data.threads=1"]);
    assert!(even == weights("threads", &[&mix(1, 1), "data.threads=3"]));
    assert!(even != weights("long", &[&mix(1000000, 1)]));
    let (_, output) = train(
        "misspelt",
        &["data.caption_mix=[(name: \"lnog\", weight: 1)]"],
    );
    fails(&output, &["no usable sample", "lnog"]);
    let (_, output) = train(
        "twice",
        &["data.caption_mix=[(name: \"a\", weight: 1), (name: \"a\", weight: 1)]"],
    );
    fails(&output, &["data.caption_mix", "a is listed twice"]);

    // Latents.
    let (vae, clip, out) = (
        workshop.path("vae"),
        workshop.path("clip"),
        workshop.path("latents"),
    );
    let precompute = |names: &str| {
        let encoders = ["--vae", &vae, "--text-encoder", &clip, "--sizes", "32"];
        let command = [
            "data",
            "precompute",
            &data,
            "--out",
            &out,
            "--captions",
            names,
        ];
        microdit(&[&command[..], &encoders].concat())
    };
    fails(
        &precompute("long,long"),
        &["captions: long is listed twice"],
    );
    let output = precompute("long,short");
    assert!(output.status.success(), "{}", crate::common::text(&output));
    fails(
        &precompute("short,long"),
        &["other settings", "captions: expected"],
    );
    let said = succeeds(&["data", "inspect", &out]);
    for part in [
        "caption-long.npy, caption-long.txt, caption-short.npy, caption-short.txt, latent-32.npy",
        "samples 8",
        "captions [77, 64] (15)",
        "damaged 0",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let recipe = workshop.path("latents.ron");
    fs::write(&recipe, RECIPE).unwrap();
    let train = |run: &str, more: &[&str]| {
        let shards = format!("data.shards={out:?}");
        let run = workshop.path(run);
        let base = [
            "train",
            &recipe,
            "--run",
            &run,
            "--set",
            &shards,
            "--set",
            "sampling.every=None",
        ];
        let sets: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
        microdit(&[&base[..], &sets].concat())
    };
    let evaluation =
        format!("evaluation=(every: 1, samples: 8, shards: {out:?}, caption: Some(\"short\"))");
    let output = train("of-latents", &[&mix(1, 1), &evaluation]);
    assert!(output.status.success(), "{}", crate::common::text(&output));
    fails(
        &train("without", &[]),
        &["no usable sample", "KEY.caption.npy"],
    );
}
