//! An evaluation of a run, of a directory, and what it refuses; killed, it goes on to the same numbers.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    tiny::{finish, names, send},
};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// Arguments that evaluate `run`, with features kept beside it.
fn arguments(run: &Path, more: &[&str]) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let cache = run.with_extension("cache");
    let start = [
        "eval".to_owned(),
        "--run".into(),
        path(run),
        "--cache".into(),
        path(&cache),
    ];
    let more = more.iter().map(|word| (*word).to_owned());
    start.into_iter().chain(more).collect()
}

fn evaluate(run: &Path, more: &[&str]) -> String {
    let arguments = arguments(run, more);
    succeeds(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn results(folder: &Path) -> Vec<Value> {
    let text = fs::read(folder.join("eval.json")).unwrap();
    let record: Value = serde_json::from_slice(&text).unwrap();
    record["results"].as_array().unwrap().clone()
}

/// Writes a tiny DINOv2 as transformers saves one.
pub(crate) fn dinov2(folder: &Path) {
    let golden = fs::read(root().join("tests/goldens/dinov2.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&golden).unwrap();
    let config: Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap();
    let mut config = config["dinov2"].clone();
    config["model_type"] = json!("dinov2");
    let tensors = SafeTensors::deserialize(&golden).unwrap();
    let weights: Vec<(String, TensorView<'_>)> = tensors
        .tensors()
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("weights.")?.to_owned(), tensor)))
        .collect();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let bytes = safetensors::serialize(weights, None).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn a_run_is_evaluated_and_nothing_is_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &[]);
    dinov2(&folder.path().join("dinov2"));
    let network = folder.path().join("dinov2");
    let network = network.to_str().unwrap();
    let what = [
        "--samples",
        "100",
        "--guidance",
        "1.5,3",
        "--steps",
        "2",
        "--reference-samples",
        "100",
        "--dinov2",
        network,
    ];
    let said = evaluate(&run, &what);
    assert!(
        said.contains("guidance 1.5: 100 pictures drawn, 0 were there"),
        "{said}"
    );
    assert!(
        said.contains("| kd-dinov2 ") && said.contains("| prompt-accuracy "),
        "{said}"
    );
    let found = results(&run);
    for guidance in ["1.5", "3"] {
        let of = |metric: &str| {
            let mut rows = found.iter().filter(|row| row["metric"] == metric);
            let row = rows.find(|row| row["labels"]["guidance"] == guidance);
            row.unwrap_or_else(|| panic!("no {metric} at {guidance}: {found:?}"))
                .clone()
        };
        for metric in [
            "fd-dinov2",
            "kd-dinov2",
            "precision-dinov2",
            "coverage-dinov2",
        ] {
            let row = of(metric);
            assert_eq!(row["samples"], 100);
            assert_eq!(row["reference"]["samples"], 100);
            assert_eq!(row["network"]["sha256"].as_str().unwrap().len(), 64);
            let end = |place: usize| row["interval"][place].as_f64().unwrap();
            assert!(end(0) < end(1), "{row}");
        }
        assert!(of("prompt-accuracy")["value"].as_f64().unwrap() <= 1.0);
    }
    assert_eq!(names(&run.join("eval")).len(), 200);
    // A second time nothing is drawn, and the numbers are the same; another metric is added.
    let whole = fs::read(run.join("eval.json")).unwrap();
    let said = evaluate(&run, &what);
    assert!(
        said.contains("guidance 3: 0 pictures drawn, 100 were there"),
        "{said}"
    );
    assert_eq!(fs::read(run.join("eval.json")).unwrap(), whole);
    let more = [&what[..], &["--metrics", "fd-infinite-dinov2"]].concat();
    evaluate(&run, &more);
    assert_eq!(results(&run).len(), found.len() + 2);
    // The pictures by themselves, in a directory.
    let pictures = run.join("eval");
    let out = folder.path().join("out");
    let words = [
        "eval",
        "--images",
        pictures.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--reference",
        pictures.to_str().unwrap(),
        "--dinov2",
        network,
        "--metrics",
        "fd-dinov2,prompt-accuracy",
    ];
    let said = succeeds(&[&words[..], &["--cache", out.to_str().unwrap()]].concat());
    assert!(said.contains("prompt-accuracy-background"), "{said}");
    let found = results(&out);
    let own = found
        .iter()
        .find(|row| row["metric"] == "fd-dinov2")
        .unwrap();
    assert!(own["value"].as_f64().unwrap() < 1e-6, "{own}");
}

#[test]
fn a_killed_evaluation_goes_on_to_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    finish(&whole, &[]);
    finish(&killed, &[]);
    let what = ["--samples", "200", "--guidance", "1,2", "--steps", "20"];
    evaluate(&whole, &what);
    for signal in ["-KILL", "-TERM"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_microdit"))
            .args(arguments(&killed, &what))
            .current_dir(root())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until something was drawn since.
        let count = || killed.join("eval").read_dir().map_or(0, Iterator::count);
        let before = count();
        while count() == before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        send(&child, signal);
        assert!(!child.wait().unwrap().success());
    }
    let said = evaluate(&killed, &what);
    assert!(!said.contains("guidance 1: 200 pictures drawn"), "{said}");
    let values = |run: &Path| {
        let rows = results(run).into_iter();
        rows.map(|row| (row["metric"].to_string(), row["value"].to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&killed), values(&whole));
}

/// A shard of `count` images in two classes, red above or red below; each key ends with its label.
pub(crate) fn labelled(path: &Path, count: u32) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    };
    for i in 0..count {
        let class = ["above", "below"][i as usize % 2];
        let picture = image::RgbImage::from_fn(32, 32, |x, y| {
            let noise = ((x * 31 + y * 17 + i * 7) % 50) as u8;
            let lit = (y < 16) == (class == "above");
            image::Rgb([if lit { 200 + noise } else { noise }, noise, 100])
        });
        let mut file = std::io::Cursor::new(Vec::new());
        picture
            .write_to(&mut file, image::ImageFormat::Png)
            .unwrap();
        add(&format!("{i}-{class}.png"), file.get_ref());
        add(
            &format!("{i}-{class}.txt"),
            format!("red {class}").as_bytes(),
        );
    }
    tar.finish().unwrap();
}

#[test]
fn a_classifier_judges_without_a_download() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [train, test, cache, out] = ["train.tar", "test.tar", "cache", "out"].map(path);
    labelled(Path::new(&train), 512);
    labelled(Path::new(&test), 60);
    let words = [
        "eval",
        "--images",
        &test,
        "--reference",
        &test,
        "--classifier",
        &train,
        "--metrics",
        "class-accuracy,kd-classifier",
        "--cache",
        &cache,
        "--out",
        &out,
    ];
    let said = succeeds(&words);
    assert!(said.contains("the classifier sees the class of "), "{said}");
    let found = results(Path::new(&out));
    let of = |metric: &str| found.iter().find(|row| row["metric"] == metric).unwrap();
    let accuracy = of("class-accuracy");
    assert_eq!(accuracy["samples"], 60);
    // The same pictures as those its own accuracy is measured on.
    assert_eq!(accuracy["value"], accuracy["constants"]["own-accuracy"]);
    assert!(accuracy["value"].as_f64().unwrap() > 0.9, "{accuracy}");
    // Without its bias, the distance of a set to itself is not above zero.
    assert!(of("kd-classifier")["value"].as_f64().unwrap() <= 0.0);
    // It is found again.
    let before = fs::read(Path::new(&out).join("eval.json")).unwrap();
    succeeds(&words);
    assert_eq!(fs::read(Path::new(&out).join("eval.json")).unwrap(), before);
    fails(
        &microdit(&["eval", "--images", &test, "--classifier", &train]),
        &[
            "accuracy is not known",
            "there is no reference",
            "--reference",
        ],
    );
    fails(
        &microdit(&["eval", "--images", &test, "--metrics", "class-accuracy"]),
        &["class-accuracy needs a network", "--classifier"],
    );
}

#[test]
fn what_cannot_be_evaluated_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &[]);
    dinov2(&folder.path().join("dinov2"));
    let network = folder.path().join("dinov2");
    let network = network.to_str().unwrap();
    let refuses = |more: &[&str], parts: &[&str]| {
        let arguments = arguments(&run, more);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fails(&microdit(&words), parts);
        assert!(!run.join("eval").exists(), "{more:?} drew something");
    };
    refuses(
        &["--metrics", "fdi"],
        &["no metric called fdi", "did you mean fid?"],
    );
    refuses(
        &["--metrics", "fid"],
        &["fid needs a network", "--inception"],
    );
    refuses(
        &["--metrics", "kd-dinov2", "--dinov2", "dinov2-base"],
        &["dinov2-base", "microdit fetch dinov2-base"],
    );
    for absent in ["inception", "nothere.pth"] {
        refuses(
            &["--inception", absent],
            &[
                "no such file",
                "pytorch-fid/releases",
                "pt_inception-2015-12-05-6726825d.pth",
            ],
        );
    }
    refuses(&["--reference", "no/such.tar"], &["no/such.tar"]);
    // Prompts no metric reads are not drawn first.
    let prompts = folder.path().join("prompts.txt");
    fs::write(&prompts, "a fox\n").unwrap();
    refuses(
        &["--prompts", prompts.to_str().unwrap()],
        &["nothing can be measured", "--inception"],
    );
    // Fewer pictures than features have no covariance.
    let few = ["--dinov2", network, "--samples", "60", "--steps", "1"];
    let few = [
        &few[..],
        &["--reference-samples", "20", "--metrics", "fd-dinov2"],
    ]
    .concat();
    let arguments = arguments(&run, &few);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    fails(
        &microdit(&words),
        &["the reference: 20 pictures, at least 49 are needed"],
    );
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(
        &microdit(&["eval", "--images", empty.to_str().unwrap()]),
        &["no pictures there"],
    );
    // Images of different sizes are measured, with a warning.
    let mixed = folder.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    for (i, side) in [16u32, 16, 24, 16].into_iter().enumerate() {
        let picture = image::RgbImage::from_pixel(side, side, image::Rgb([i as u8; 3]));
        picture.save(mixed.join(format!("{i}.png"))).unwrap();
    }
    fs::write(mixed.join("4.png"), "no picture").unwrap();
    let mixed = mixed.to_str().unwrap();
    let cache = folder.path().join("cache");
    let out = folder.path().join("out");
    let words = [
        "eval",
        "--images",
        mixed,
        "--reference",
        "shapes",
        "--reference-samples",
        "60",
        "--dinov2",
        network,
        "--metrics",
        "fd-dinov2",
        "--cache",
        cache.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    fails(
        &microdit(&words),
        &["1 of 5 samples are damaged", "--max-damage"],
    );
    let output = microdit(&[&words[..], &["--max-damage", "0.5"]].concat());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("pictures of several sizes (3 16x16, 1 24x24)")
            && said.contains("1 of 5 pictures were left out"),
        "{said}"
    );
}

#[test]
fn a_suite_of_geneval_is_drawn_for_its_own_evaluator() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &[]);
    let suite = folder.path().join("metadata.jsonl");
    let line = |prompt: &str| json!({"tag": "colors", "include": [], "prompt": prompt}).to_string();
    fs::write(&suite, [line("a fox"), line("two foxes")].join("\n")).unwrap();
    let suite = suite.to_str().unwrap();
    let draw = |more: &[&str]| {
        let what = ["--prompts", suite, "--steps", "1", "--guidance", "2"];
        evaluate(&run, &[&what[..], more].concat())
    };
    let said = draw(&["--samples", "4"]);
    assert!(said.contains("nothing is measured"), "{said}");
    assert!(!run.join("eval.json").exists());
    // Fewer, and another seed, do not mix with those of before.
    draw(&["--samples", "2"]);
    draw(&["--samples", "2", "--seed", "1"]);
    let laid_out: Vec<String> = names(&run)
        .into_iter()
        .filter(|name| name.starts_with("geneval-2-"))
        .collect();
    assert_eq!(laid_out.len(), 3, "{laid_out:?}");
    let mut counts: Vec<usize> = laid_out
        .iter()
        .map(|name| names(&run.join(name).join("00001/samples")).len())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 2]);
    // A metric that was asked for is one that must be had.
    let arguments = arguments(&run, &["--prompts", suite, "--metrics", "prompt-accuracy"]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    fails(&microdit(&words), &["nothing can be measured"]);
}

#[test]
fn rows_of_other_weights_and_settings_are_told_apart_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &[]);
    let what = ["--samples", "20", "--steps", "1", "--guidance", "2"];
    evaluate(&run, &what);
    let said = evaluate(&run, &[&what[..], &["--set", "rescale=0.7"]].concat());
    // One row each, up to those of the aspects.
    let rows: Vec<&str> = said
        .split("| prompt-accuracy |")
        .skip(1)
        .filter_map(|rest| rest.split("| prompt-accuracy-").next())
        .collect();
    let shown = |part: &str| rows.iter().filter(|row| row.contains(part)).count();
    assert_eq!(
        (rows.len(), shown("rescale 0.7"), shown("weights ")),
        (2, 1, 2),
        "{said}"
    );
}
