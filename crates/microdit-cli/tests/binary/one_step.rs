//! Stages that begin with trained weights: adapters of them, and a student that draws in one step.

use crate::{
    common::{fails, microdit, small, succeeds, text},
    recipes::latents,
};
use burn_flex::Flex;
use microdit::weights::{StateDict, WeightsFile};
use microdit_encoders::write_random;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A small trained network: of the bundled quickstart.
fn teacher(folder: &Path) -> PathBuf {
    let run = folder.join("teacher");
    let output = crate::common::train(&run, &["--set", "checkpoints.every=1"]);
    assert!(output.status.success(), "{}", text(&output));
    run
}

/// Sizes of that network, and what shrinks a recipe over it.
fn shrunken(teacher: &Path, steps: u64) -> Vec<String> {
    let weights = format!("stages.0.weights={:?}", teacher.display().to_string());
    let sizes = small().filter(|set| set.starts_with("model."));
    let sizes = sizes.map(str::to_owned);
    let own = [
        weights,
        format!("stages.0.steps={steps}"),
        "batch=4".into(),
        "log_every=1".into(),
        "checkpoints.every=3".into(),
        "sampling.count=1".into(),
        "sampling.prompts=[\"a large red circle on a white background\"]".into(),
    ];
    sizes.chain(own).collect()
}

fn command(recipe: &str, run: &Path, sets: &[String], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command
        .args(["train", recipe, "--run"])
        .arg(run)
        .args(sets.iter().flat_map(|set| ["--set", set.as_str()]))
        .args(more)
        .current_dir(crate::common::root());
    command
}

#[track_caller]
fn finish(recipe: &str, run: &Path, sets: &[String], more: &[&str]) -> String {
    let output = command(recipe, run, sets, more).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Kills a run once it has reported `step`.
fn kill_at(recipe: &str, run: &Path, sets: &[String], step: u64) {
    let mut command = command(recipe, run, sets, &["--resume"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.map_while(Result::ok).any(|line| {
        let number = line.strip_prefix("step ").and_then(|rest| {
            let number = rest.split('/').next()?;
            number.parse::<u64>().ok()
        });
        number >= Some(step)
    });
    assert!(reached);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

/// Every tensor of a run, by file: of its results, of its newest checkpoint, and of what is frozen.
fn tensors(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut folders = vec![run.to_owned(), run.join("checkpoints")];
    let steps = fs::read_dir(run.join("checkpoints")).unwrap();
    let steps = steps.map(|entry| entry.unwrap().path());
    folders.extend(steps.filter(|path| path.is_dir()).max());
    let mut found = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "safetensors") {
                let name = path.strip_prefix(run).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn names(path: &Path) -> Vec<String> {
    let state = StateDict::read(path).unwrap();
    state.iter().map(|(name, _)| name.clone()).collect()
}

fn newest(run: &Path) -> PathBuf {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_dir()).max().unwrap()
}

fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

const SHAPES: &str = "recipes/swiftbrush/shapes.ron";

/// The bundled recipe in small: what it trains, what it saves once, what its student says about itself, and how that draws.
#[test]
fn a_student_learns_and_draws_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let sets = shrunken(&teacher, 7);
    let whole = folder.path().join("whole");
    finish(SHAPES, &whole, &sets, &[]);
    let log = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 7);
    for line in log.lines() {
        assert!(
            line.contains("\"vsd\"") && line.contains("\"critic\""),
            "{line}"
        );
    }
    // The teacher is saved once, and is the network that was named.
    let parts = |path: &Path| {
        let mut parts: Vec<String> = names(path)
            .iter()
            .map(|name| name.split('.').next().unwrap().to_owned())
            .collect();
        parts.dedup();
        parts
    };
    let frozen = whole.join("checkpoints/frozen-0.safetensors");
    assert_eq!(parts(&frozen), ["teacher"]);
    assert_eq!(
        parts(&newest(&whole).join("model.safetensors")),
        ["critic", "denoiser"]
    );
    let given = StateDict::read(&teacher.join("ema.safetensors")).unwrap();
    let kept = StateDict::read(&frozen).unwrap();
    let kept = kept.iter().map(|(name, data)| {
        let path = name.strip_prefix("teacher.").unwrap();
        (microdit::weights::reference_name(path), data)
    });
    let mut count = 0;
    for (name, data) in kept {
        assert_eq!(given.get(&name), Some(data), "{name}");
        count += 1;
    }
    assert_eq!(count, given.len());
    // The student moved away from it, and says what it is.
    let weights = whole.join("ema.safetensors");
    let student = StateDict::read(&weights).unwrap();
    assert!(
        student
            .iter()
            .any(|(name, data)| given.get(name) != Some(data))
    );
    let described = WeightsFile::open(&weights).unwrap().description().unwrap();
    assert_eq!(described.unwrap().one_step, Some(80.0));
    // From the run and from the file, and in no other way.
    let [run, file] = [&whole, &weights].map(|path| path.to_string_lossy().into_owned());
    let prompt = ["--prompt", "a large red circle on a white background"];
    let draw = |source: [&str; 2], more: &[&str], out: &str| {
        let out = folder.path().join(out);
        let out_text = out.to_string_lossy().into_owned();
        let words = [
            &["sample"],
            &source[..],
            &prompt,
            &["--out", &out_text],
            more,
        ]
        .concat();
        (microdit(&words), out)
    };
    let drawn = |(output, out): (Output, PathBuf)| {
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("s a picture"), "{said}");
        pixels(&out)
    };
    let by_run = drawn(draw(["--run", &run], &[], "run.png"));
    assert_eq!(by_run, drawn(draw(["--weights", &file], &[], "file.png")));
    assert_eq!(
        by_run,
        drawn(draw(["--run", &run], &["--steps", "1"], "one.png"))
    );
    for (more, part) in [
        (["--steps", "4"], "steps: 4; a student draws in 1"),
        (["--guidance", "3"], "guidance: 3"),
        (["--negative", "a bird"], "negative: a student"),
        (["--guide", &file], "guide: a student"),
    ] {
        fails(&draw(["--weights", &file], &more, "no.png").0, &[part]);
    }
    // Merged with itself it is a student still.
    let merged = folder.path().join("merged.safetensors");
    let merged_text = merged.to_string_lossy().into_owned();
    succeeds(&["merge", &file, &file, "--out", &merged_text]);
    let described = WeightsFile::open(&merged).unwrap().description().unwrap();
    assert_eq!(described.unwrap().one_step, Some(80.0));
    // A student and its teacher are networks of different kinds.
    let given = teacher
        .join("ema.safetensors")
        .to_string_lossy()
        .into_owned();
    let refused = microdit(&["merge", &file, &given, "--out", &merged_text]);
    fails(&refused, &["another network or diffusion"]);
}

/// Student, critic and moments are bit for bit those of a run that was not killed, in whatever parts they are trained.
#[test]
fn distillation_killed_in_the_middle_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let [clip, _] = write_random::<Flex>(folder.path(), 4, 0).unwrap();
    for (name, more) in [
        ("full", &[][..]),
        (
            "adapters",
            &[
                "stages.0.lora=(layers: [\"qkv\", \"proj\"], rank: 3, dropout: 0.2)",
                "stages.0.distill.teacher_storage=Bf16",
                "stages.0.distill.critic_optimizer.method=Sgd",
                "stages.0.activation_checkpointing=On",
                "micro_batch=3",
            ],
        ),
        (
            "terms",
            &[
                "stages.0.distill.regression=(weight: 0.5, until: 5)",
                "micro_batch=3",
            ],
        ),
    ] {
        let mut sets = shrunken(&teacher, 8);
        sets.extend(more.iter().map(|&set| set.to_owned()));
        if name == "terms" {
            let term = format!("(model: {clip:?}, tau: 1.0, weight: 0.5)");
            sets.push(format!("stages.0.distill.clip={term}"));
        }
        let [whole, killed] = ["whole", "killed"].map(|run| folder.path().join(name).join(run));
        finish(SHAPES, &whole, &sets, &[]);
        // Between checkpoints.
        for step in [2, 4, 6] {
            kill_at(SHAPES, &killed, &sets, step);
        }
        finish(SHAPES, &killed, &sets, &["--resume"]);
        let (whole, killed) = (tensors(&whole), tensors(&killed));
        let files: Vec<&String> = whole.keys().collect();
        assert_eq!(files, killed.keys().collect::<Vec<_>>());
        assert!(
            files
                .iter()
                .any(|file| file.ends_with("frozen-0.safetensors"))
        );
        for (file, bytes) in &whole {
            assert!(killed[file] == *bytes, "{name}: {file} differs");
        }
    }
}

/// The file a stage began with is not silently another one; one that is gone is not missed.
#[test]
fn a_teacher_that_has_changed_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let copy = folder.path().join("copy.safetensors");
    fs::copy(teacher.join("ema.safetensors"), &copy).unwrap();
    let mut sets = shrunken(&teacher, 5);
    sets.push(format!("stages.0.distill.teacher={copy:?}"));
    let run = folder.path().join("run");
    kill_at(SHAPES, &run, &sets, 4);
    fs::copy(newest(&run).join("model.safetensors"), &copy).unwrap();
    let resumed = || {
        command(SHAPES, &run, &sets, &["--resume"])
            .output()
            .unwrap()
    };
    fails(
        &resumed(),
        &[
            "stages.distil.distill.teacher: ",
            "copy.safetensors is not the file the stage began with",
            "continue with what the run holds of it",
        ],
    );
    fs::remove_file(&copy).unwrap();
    let output = resumed();
    assert!(output.status.success(), "{}", text(&output));
}

/// A network of a loss is missed before anything is begun, by the command that fetches it.
#[test]
fn a_clip_that_is_not_there_is_fetched_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let mut sets = shrunken(&teacher, 5);
    sets.push("stages.0.distill.clip=(model: \"clip-b32\", tau: 0.37, weight: 0.1)".into());
    let run = folder.path().join("run");
    let mut command = command(SHAPES, &run, &sets, &[]);
    let output = command.env("HF_HOME", folder.path()).output().unwrap();
    fails(
        &output,
        &[
            "stages.distil.distill.clip.model: clip-b32 is not on this machine",
            "microdit fetch clip-b32",
        ],
    );
    assert!(!run.exists());
}

#[test]
fn what_does_not_go_together_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.safetensors");
    let refused = |recipe: &str, sets: &[&str], parts: &[&str]| {
        let run = folder.path().join("run");
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let output = command(recipe, &run, &sets, &[]).output().unwrap();
        fails(&output, parts);
        assert!(!run.exists(), "{parts:?} left a run");
    };
    let quickstart = "recipes/quickstart.ron";
    let missing = format!("stages.distil.weights={none:?}");
    refused(
        SHAPES,
        &[&missing],
        &["stages.distil.weights: ", "none.safetensors"],
    );
    refused(
        SHAPES,
        &["stages.distil.weights=None"],
        &["distill.teacher: the first stage needs a trained teacher"],
    );
    refused(
        SHAPES,
        &["stages.distil.masking=Deferred(ratio: 0.5)"],
        &["masking: a student draws whole images"],
    );
    refused(
        SHAPES,
        &["stages.distil.distill.critic.layers=[\"to_q\"]"],
        &["distill.critic.layers: no linear layer", "`to_q`", "qkv"],
    );
    refused(
        SHAPES,
        &["sampling.steps=4"],
        &["sampling.steps: 4; a student draws in 1"],
    );
    refused(
        SHAPES,
        &[
            "stages.distil.distill.clip=(model: \"clip-b32\", decoder: \"taesd\", tau: 0.37, weight: 0.1)",
        ],
        &["distill.clip.decoder: the network draws pixels"],
    );
    refused(
        SHAPES,
        &["stages.distil.distill.clip=(model: \"clip-b32\", tau: 2.0, weight: 0.1)"],
        &["distill.clip.tau: must be at least -1 and at most 1, not 2"],
    );
    refused(
        "recipes/swiftbrush/sd21-lora-clip.ron",
        &["stages.distil.distill.clip.decoder=None"],
        &["distill.clip.decoder: latents are no images", "taesd"],
    );
    refused(
        SHAPES,
        &["stages.distil.distill=(prompts: \"prompts.txt\", regression: (weight: 0.1))"],
        &["distill.regression.weight: prompts have no images to come near"],
    );
    refused(
        quickstart,
        &["stages.masked.lora=(layers: [\"to_q\"])"],
        &["lora.layers: no linear layer"],
    );
    refused(
        quickstart,
        &["stages.masked.lora_alone=false"],
        &["lora_alone: there are no adapters"],
    );
    let wrong = folder.path().join("latents.tar");
    latents(&wrong, 1.0);
    let foreign = format!("stages.masked.weights={wrong:?}");
    refused(quickstart, &[&foreign], &["stages.masked.weights: "]);
}

/// Adapters by themselves draw what the run draws; what they are added to is saved once; averages and moments are resumed.
#[test]
fn adapters_are_trained_and_drawn_with() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let mut sets: Vec<String> = small()
        .filter(|set| *set != "--set")
        .map(str::to_owned)
        .collect();
    let weights = teacher.join("ema.safetensors");
    sets.extend([
        format!("stages.masked.weights={weights:?}"),
        "checkpoints.every=2".into(),
        "lora=(layers: [\"qkv\", \"kv_linear\", \"w1\"], rank: 2, alpha: 5.0, init: Gaussian, dropout: 0.1)".into(),
        "sampling.prompts=[\"a large red circle on a white background\"]".into(),
    ]);
    let quickstart = "recipes/quickstart.ron";
    let whole = folder.path().join("whole");
    finish(quickstart, &whole, &sets, &[]);
    let checkpoint = newest(&whole).join("model.safetensors");
    assert!(
        names(&checkpoint)
            .iter()
            .all(|name| name.starts_with("lora."))
    );
    let adapters = whole.join("lora-ema.safetensors");
    for file in [&adapters, &whole.join("lora.safetensors")] {
        let names = names(file);
        assert!(!names.is_empty());
        for name in names {
            assert!(name.starts_with("transformer."), "{name}");
            assert!(name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight"));
        }
    }
    let draw = |source: &[&str], out: &str| {
        let out = folder.path().join(out);
        let out_text = out.to_string_lossy().into_owned();
        let prompt = [
            "--prompt",
            "a small blue square",
            "--steps",
            "2",
            "--guidance",
            "2",
        ];
        succeeds(&[&["sample"], source, &prompt, &["--out", &out_text]].concat());
        pixels(&out)
    };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (weights, adapters, run) = (path(&weights), path(&adapters), path(&whole));
    let plain = draw(&["--weights", &weights], "plain.png");
    let adapted = draw(&["--weights", &weights, "--lora", &adapters], "adapted.png");
    assert_eq!(adapted, draw(&["--run", &run], "run.png"));
    assert_ne!(adapted, plain);
    // Killed in either stage, and drawn from while it is not finished.
    let killed = folder.path().join("killed");
    kill_at(quickstart, &killed, &sets, 2);
    kill_at(quickstart, &killed, &sets, 4);
    draw(&["--run", &path(&killed)], "unfinished.png");
    finish(quickstart, &killed, &sets, &["--resume"]);
    let (whole, killed) = (tensors(&whole), tensors(&killed));
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        killed.keys().collect::<Vec<_>>()
    );
    for (file, bytes) in &whole {
        assert!(killed[file] == *bytes, "{file} differs");
    }
}

/// A stage that distils takes the network of the stage before it for its teacher.
#[test]
fn a_network_is_trained_and_distilled_in_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut sets: Vec<String> = small()
        .filter(|set| *set != "--set")
        .map(str::to_owned)
        .collect();
    sets.extend([
        "stages.unmasked.distill=(guidance: 2.0, critic: (layers: [\"qkv\"], rank: 2))".into(),
        "sampling.steps=1".into(),
        "sampling.guidance=1.0".into(),
    ]);
    finish("recipes/quickstart.ron", &run, &sets, &[]);
    let frozen = StateDict::read(&run.join("checkpoints/frozen-1.safetensors")).unwrap();
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let steps = entries.map(|entry| entry.unwrap().path());
    let first = steps.filter(|path| path.is_dir()).min().unwrap();
    // The end of the first stage.
    let before = StateDict::read(&first.join("model.safetensors")).unwrap();
    for (name, data) in before.iter() {
        let name = name.replacen("denoiser.", "teacher.", 1);
        assert_eq!(frozen.get(&name), Some(data), "{name}");
    }
    assert_eq!(frozen.len(), before.len());
}

/// Of a file of prompts, no shards are needed; a pass has another order than the one before, and resumes in its middle.
#[test]
fn a_file_of_prompts_is_all_a_student_needs() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path());
    let prompts = folder.path().join("prompts.txt");
    let lines = ["a large red circle", "a small blue square", "a green cross"];
    fs::write(&prompts, lines.join("\n")).unwrap();
    let mut sets = shrunken(&teacher, 6);
    sets.push(format!("stages.0.distill.prompts={prompts:?}"));
    sets.push("data=WebDataset(image_size: 32, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 15))".into());
    let [whole, killed] = ["whole", "killed"].map(|run| folder.path().join(run));
    finish(SHAPES, &whole, &sets, &[]);
    kill_at(SHAPES, &killed, &sets, 4);
    finish(SHAPES, &killed, &sets, &["--resume"]);
    assert_eq!(tensors(&whole), tensors(&killed));
    // Other prompts are another training.
    let run = folder.path().join("begun");
    kill_at(SHAPES, &run, &sets, 4);
    fs::write(&prompts, "a circle").unwrap();
    let output = command(SHAPES, &run, &sets, &["--resume"])
        .output()
        .unwrap();
    fails(&output, &["the data of stage distil are not those"]);
    let mut without = sets.clone();
    without.retain(|set| !set.contains("distill.prompts"));
    let output = command(SHAPES, &folder.path().join("none"), &without, &[]).output();
    fails(
        &output.unwrap(),
        &["data.shards: this dataset needs its shards"],
    );
}
