//! What is kept of a run is intact, and there is always something.

use crate::{
    common::{fails, microdit, root, text},
    recipes::overflowing,
    strace::strace,
    tiny::{
        STEPS, WEB_DATASET, arguments, assert_same, checkpoints, command, finish, names, recipe,
    },
};
use std::{fs, path::Path};

/// Flips a bit in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_stops_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &["--set", "stages.unmasked.steps=2"]);
    let shelf = run.join("checkpoints");
    assert_eq!(checkpoints(&run), ["step-0000000008", "step-0000000010"]);
    flip(&shelf.join("step-0000000010/state.json"));
    fs::remove_file(shelf.join("step-0000000008/optimizer.safetensors")).unwrap();
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    let output = command(&run, &["--resume"]).output().unwrap();
    fails(
        &output,
        &[
            "step-0000000010 is damaged (state.json: it does not have the checksum",
            "step-0000000008 is damaged",
            "optimizer.safetensors",
            "Restore one from a backup, or remove that directory",
        ],
    );
    assert_eq!(
        fs::read(run.join("metrics.jsonl")).unwrap(),
        before,
        "the log stays"
    );
    // The way out.
    fs::remove_dir_all(&shelf).unwrap();
    fs::remove_file(run.join("finished.json")).unwrap();
    let said = finish(&run, &["--resume"]);
    assert!(said.contains(&format!("step 1/{STEPS}")), "{said}");
}

#[test]
fn a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    let keep_one = ["--set", "checkpoints.keep=1"];
    finish(&whole, &keep_one);
    finish(&run, &["--set", "stages.unmasked.steps=2"]);
    for name in [
        "finished.json",
        "weights.safetensors",
        "ema.safetensors",
        "samples.png",
    ] {
        fs::remove_file(run.join(name)).unwrap();
    }
    let shelf = run.join("checkpoints");
    flip(&shelf.join("step-0000000010/optimizer.safetensors"));
    // Foreign files are left alone.
    fs::write(shelf.join("notes.txt"), "mine").unwrap();
    fs::create_dir(shelf.join("step-1-copy")).unwrap();
    // Nothing of the budget is left after the first step: what is saved then stays, though a later one seems intact.
    let stop = [
        "--resume",
        "--set",
        "checkpoints.keep=1",
        "--set",
        "budget.hours=0.0",
    ];
    let said = finish(&run, &stop);
    assert!(
        said.contains("step-0000000010 is damaged") && said.contains("before it is used"),
        "{said}"
    );
    let more = [
        "--resume",
        "--set",
        "checkpoints.keep=1",
        "--set",
        "checkpoints.every=1",
        "--set",
        "stages.unmasked.steps=1",
    ];
    finish(&run, &more);
    let kept = [
        "notes.txt",
        "step-0000000009",
        "step-0000000010",
        "step-1-copy",
    ];
    assert_eq!(checkpoints(&run), kept);
    finish(&run, &[&keep_one[..], &["--resume"]].concat());
    for name in ["notes.txt", "step-1-copy"] {
        let path = shelf.join(name);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    for name in names(&run) {
        if name.contains("-step-") {
            fs::remove_file(run.join(name)).unwrap();
        }
    }
    assert_same(&run, &whole, "after the damage");
}

#[test]
fn a_finished_run_vouches_for_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    finish(&whole, &[]);
    finish(&run, &[]);
    assert!(finish(&run, &["--resume"]).contains("finished its 14 steps already"));
    // One of two files, a bit, or the marker are gone: they are written again, not taken for the result.
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let damage = [
        ("ema.safetensors", remove as fn(&Path)),
        ("weights.safetensors", flip),
        ("finished.json", remove),
        ("finished.json", flip),
    ];
    for (name, damage) in damage {
        damage(&run.join(name));
        let said = finish(&run, &["--resume"]);
        assert!(said.contains("weights after 14 steps"), "{name}: {said}");
        assert_same(&run, &whole, name);
    }
    fs::remove_file(run.join("samples.png")).unwrap();
    finish(&run, &["--resume"]);
    assert_same(&run, &whole, "samples.png");
    // Without a checkpoint it is finished all the same, and cannot be extended.
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    assert!(finish(&run, &["--resume"]).contains("finished its 14 steps already"));
    let more = ["--resume", "--set", "stages.unmasked.steps=9"];
    fails(
        &command(&run, &more).output().unwrap(),
        &["no checkpoint to resume"],
    );
    let drawn = draw(&run, folder.path());
    fs::remove_file(run.join("finished.json")).unwrap();
    assert_eq!(
        draw(&run, folder.path()),
        drawn,
        "weights that were copied alone are drawn with"
    );
}

/// What the run draws.
fn draw(run: &Path, folder: &Path) -> Vec<u8> {
    let out = folder.join("drawn.png");
    let _ = fs::remove_file(&out);
    let (run, path) = (run.to_str().unwrap(), out.to_str().unwrap());
    let output = microdit(&["sample", "--run", run, "--steps", "2", "--out", path]);
    assert!(output.status.success(), "{}", text(&output));
    image::open(out).unwrap().into_rgb8().into_raw()
}

#[test]
fn weights_of_fewer_steps_are_not_the_result_of_an_extended_run() {
    let folder = tempfile::tempdir().unwrap();
    let (run, longer) = (folder.path().join("run"), folder.path().join("longer"));
    let more = [
        "--set",
        "stages.unmasked.steps=9",
        "--set",
        "optimizer.lr=2e-2",
    ];
    finish(&longer, &more);
    finish(&run, &["--set", "optimizer.lr=2e-2"]);
    let (short, result) = (draw(&run, folder.path()), draw(&longer, folder.path()));
    assert_ne!(short, result);
    let weights = fs::read(run.join("weights.safetensors")).unwrap();
    // Stopped half-way, it draws from its newest state; the earlier weights are named after their step.
    let stop = [&more[..], &["--resume", "--set", "budget.hours=0.0"]].concat();
    let said = finish(&run, &stop);
    assert!(said.contains("stopped after 14 of 17 steps"), "{said}");
    assert!(
        said.contains("changed: stages.unmasked.steps: 6 -> 9"),
        "{said}"
    );
    assert!(!run.join("weights.safetensors").exists() && !run.join("samples.png").exists());
    assert_eq!(
        fs::read(run.join("weights-step-14.safetensors")).unwrap(),
        weights
    );
    assert_eq!(draw(&run, folder.path()), short);
    finish(&run, &[&more[..], &["--resume"]].concat());
    assert_eq!(draw(&run, folder.path()), result);
    for name in ["weights.safetensors", "ema.safetensors", "samples.png"] {
        let read = |run: &Path| fs::read(run.join(name)).unwrap();
        assert_eq!(read(&run), read(&longer), "{name}");
    }
    assert!(
        run.join("ema-step-14.safetensors").is_file() && run.join("samples-step-14.png").is_file()
    );
}

#[test]
fn a_run_that_took_no_step_is_neither_saved_nor_finished() {
    let folder = tempfile::tempdir().unwrap();
    let sets = overflowing(&folder.path().join("huge.tar"));
    // None of the steps that are left out ends the run by itself.
    let sets = sets.iter().map(String::as_str);
    let sets: Vec<&str> = sets.chain(["--set", "max_non_finite_steps=1000"]).collect();
    for name in ["adamw", "lamb"] {
        let run = folder.path().join(name);
        let method = ["--set", "optimizer.method=Lamb()"];
        let more = match name {
            "lamb" => [&sets[..], &method].concat(),
            _ => sets.clone(),
        };
        let output = command(&run, &more).output().unwrap();
        fails(&output, &[]);
        let said = text(&output);
        assert!(said.contains("not finite"), "{name}: {said}");
        assert!(!run.join("weights.safetensors").exists(), "{name}");
        assert!(!run.join("finished.json").exists(), "{name}");
        let shelf = run.join("checkpoints");
        for checkpoint in checkpoints(&run) {
            for file in names(&shelf.join(&checkpoint)) {
                if file.ends_with(".safetensors") {
                    let bytes = fs::read(shelf.join(&checkpoint).join(&file)).unwrap();
                    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                    for (tensor, view) in tensors.iter() {
                        let values = view.data().as_chunks::<4>().0;
                        let finite = values
                            .iter()
                            .all(|value| f32::from_le_bytes(*value).is_finite());
                        assert!(finite, "{name}: {tensor} in {checkpoint}/{file}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_removed_is_a_warning_and_a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    finish(&whole, &[]);
    let fault = |inject: &str, more: &[&str]| {
        let mut command = strace()?;
        let log = folder.path().join("trace");
        command
            .arg("-o")
            .arg(log)
            .args(["-e", &format!("inject={inject}")]);
        command
            .arg(env!("CARGO_BIN_EXE_microdit"))
            .args(arguments(&run, more))
            // What cannot be drawn or shown is a warning, and of the drawings one is compared.
            .arg("--no-report");
        Some(command.current_dir(root()).output().unwrap())
    };
    let Some(output) = fault("unlinkat:error=EBUSY", &[]) else {
        return;
    };
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("no longer needed and cannot be removed"),
        "{said}"
    );
    assert!(
        checkpoints(&run)
            .iter()
            .any(|name| name.starts_with(".gone-"))
    );
    finish(&run, &["--resume"]);
    assert_same(&run, &whole, "after what was in the way is gone");
    // The disk is full, or fails, at one call after the other.
    let mut failed = 0;
    for (call, error) in [
        ("write", "ENOSPC"),
        ("fsync", "EIO"),
        ("rename", "EACCES"),
        ("mkdir", "ENOSPC"),
    ] {
        for count in [3, 8, 20, 45, 90, 140] {
            fs::remove_dir_all(&run).unwrap_or_default();
            let output =
                fault(&format!("{call}:error={error}:when={count}"), &[]).expect("there is strace");
            if !output.status.success() {
                failed += 1;
                fails(&output, &["os error"]);
            }
            finish(&run, &["--resume"]);
            assert_same(
                &run,
                &whole,
                &format!("{call} number {count} answers {error}"),
            );
        }
    }
    assert!(failed >= 6, "{failed} faults were met");
}

#[test]
fn a_command_that_fails_before_it_begins_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/of/mine");
    let path = recipe(&folder.path().join("recipe"));
    let path = path.to_str().unwrap();
    let web = [
        "--set",
        WEB_DATASET,
        "--set",
        "data.shards=no/such.tar",
        "--set",
        "evaluation=None",
    ];
    let held_out = [
        "--set",
        WEB_DATASET,
        "--set",
        "data.shards=tests/goldens/wds_clean.tar",
        "--set",
        "evaluation.shards=no/such.tar",
    ];
    let empty = folder.path().join("empty.tar");
    fs::write(&empty, [0; 1024]).unwrap();
    let empty = format!("data.shards={}", empty.display());
    let no_sample = [
        "--set",
        WEB_DATASET,
        "--set",
        &empty,
        "--set",
        "evaluation=None",
    ];
    let cases: [(&[&str], &str); 5] = [
        (&web, "no/such.tar"),
        (&held_out, "no/such.tar"),
        (&["--set", "encoders.vae=no/such/vae"], "no/such/vae"),
        (&["--set", "model.dim=17"], "dim"),
        (&no_sample, "no usable sample"),
    ];
    for (more, part) in cases {
        for resume in [&[][..], &["--resume"]] {
            let start = ["train", path, "--run", run.to_str().unwrap()];
            let output = microdit(&[&start[..], more, resume].concat());
            fails(&output, &[part]);
            assert!(!folder.path().join("runs").exists(), "{part}");
        }
    }
    // A directory that was there stays, and stays empty.
    fs::create_dir_all(&run).unwrap();
    let start = ["train", path, "--run", run.to_str().unwrap()];
    fails(&microdit(&[&start[..], &web].concat()), &["no/such.tar"]);
    assert_eq!(names(&run), [""; 0]);
    fs::write(run.join("notes.txt"), "mine").unwrap();
    let output = microdit(&[&start[..], &web, &["--resume"]].concat());
    fails(&output, &["no/such.tar"]);
    assert!(run.join("notes.txt").is_file());
}
