//! The notebooks: their commands run, on sizes that fit a test, their Rust is that of examples, and no committed output is an error.

use crate::{
    common::{root, small, text},
    prepare,
    readme::{built_example, words},
    stable_diffusion,
};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// A cell of code.
struct Cell {
    source: String,
    outputs: Vec<Value>,
}

fn cells(name: &str) -> Vec<Cell> {
    let path = root().join("notebooks").join(name).with_extension("ipynb");
    let text = fs::read(&path).unwrap();
    let notebook: Value = serde_json::from_slice(&text).unwrap();
    let cells = notebook["cells"].as_array().unwrap().iter();
    let code = cells.filter(|cell| cell["cell_type"] == "code");
    code.map(|cell| Cell {
        source: joined(&cell["source"]),
        outputs: cell["outputs"].as_array().unwrap().clone(),
    })
    .collect()
}

/// A text in lines, or in one piece.
fn joined(text: &Value) -> String {
    match text.as_array() {
        Some(lines) => lines.iter().filter_map(Value::as_str).collect(),
        None => text.as_str().unwrap_or_default().to_owned(),
    }
}

fn names() -> Vec<String> {
    let files = fs::read_dir(root().join("notebooks")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names = files.filter_map(|file| file.strip_suffix(".ipynb").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn no_committed_output_is_an_error() {
    let names = names();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let cells = cells(&name);
        let has_output = cells.iter().any(|cell| !cell.outputs.is_empty());
        assert!(has_output, "{name} is committed without its outputs");
        for Cell { source, outputs } in cells {
            for output in outputs {
                assert_ne!(output["output_type"], "error", "{name}: {source}");
                // Of a cell of bash, the last command alone decides whether it failed.
                let said = joined(&output["text"]);
                for sign in ["Error:", "error:", "panicked at", "Traceback"] {
                    assert!(!said.contains(sign), "{name}: {source}: {said}");
                }
            }
        }
    }
}

/// What cells of Python make before the commands of a notebook.
fn made(name: &str, folder: &Path) {
    if name == "your-own-pictures" {
        let pictures: Vec<String> = (0..100).map(|i| format!("{i:04}.png")).collect();
        let names: Vec<&str> = pictures.iter().map(String::as_str).collect();
        prepare::folder(&folder.join("pictures"), &names);
        let pipeline = folder.join("pipeline");
        stable_diffusion::pipeline(&pipeline, stable_diffusion::Version::One);
        for (own, name) in [("vae", "vae"), ("text_encoder", "clip")] {
            fs::rename(pipeline.join(own), folder.join(name)).unwrap();
        }
    }
    if name == "pytorch" {
        let golden = root().join("tests/goldens/ckpt_bare.pt");
        fs::copy(golden, folder.join("checkpoint.pt")).unwrap();
    }
}

/// Arguments that make a command small; later ones win.
fn fewer(line: &str) -> Vec<&'static str> {
    let fast: &[&str] = match line.split(' ').next() {
        Some("train") if line.contains("--run latent") => &[
            "--set",
            "stages.masked.steps=2",
            "--set",
            "stages.unmasked.steps=1",
        ],
        Some("sweep") => &[
            "--set",
            "stages.masked.steps=6",
            "--set",
            "stages.unmasked.steps=1",
            "--set",
            "evaluation.samples=4",
        ],
        Some("sample") => &["--steps", "2"],
        Some("eval") => &["--samples", "8", "--steps", "2"],
        _ => &[],
    };
    let is_trained = line.starts_with("train") || line.starts_with("sweep");
    let sizes = small().filter(|_| is_trained);
    sizes.chain(fast.iter().copied()).collect()
}

#[test]
fn the_commands_of_the_notebooks_run() {
    let mut ran = 0;
    for name in names() {
        let folder = tempfile::tempdir().unwrap();
        made(&name, folder.path());
        for Cell { source, .. } in cells(&name) {
            if let Some(written) = source.strip_prefix("%%writefile ") {
                let (file, content) = written.split_once('\n').unwrap();
                fs::write(folder.path().join(file), content).unwrap();
                continue;
            }
            let Some(script) = source.strip_prefix("%%bash\n") else {
                assert!(
                    !source.contains("!microdit"),
                    "commands stand in cells of bash"
                );
                continue;
            };
            for line in script.replace("\\\n", " ").lines() {
                run(&name, line, folder.path());
                ran += 1;
            }
        }
    }
    assert!(ran >= 20, "the notebooks lost their commands");
}

/// Runs a line of a cell of bash.
#[track_caller]
fn run(name: &str, line: &str, folder: &Path) {
    // The golden checkpoint is of another network than the notebook's.
    let golden = name == "pytorch" && line.contains("continued");
    if golden {
        return;
    }
    let mut words = words(&line.replace("\\\"", "\u{1}"));
    words
        .iter_mut()
        .for_each(|word| *word = word.replace('\u{1}', "\""));
    let program = words.remove(0);
    let mut command = match program.strip_prefix("$ROOT/target/debug/examples/") {
        Some(example) => Command::new(built_example(example)),
        None => {
            assert_eq!(program, "microdit", "{name}: {line}");
            Command::new(env!("CARGO_BIN_EXE_microdit"))
        }
    };
    if program.ends_with("predict") {
        inputs(&folder.join("inputs.safetensors"));
    }
    // Flags that are given twice are replaced.
    let arguments = line.strip_prefix("microdit ").unwrap_or_default();
    for pair in fewer(arguments).chunks(2) {
        if pair[0] != "--set"
            && let Some(place) = words.iter().position(|word| word == pair[0])
        {
            words.drain(place..place + 2);
        }
        words.extend(pair.iter().map(|word| (*word).to_owned()));
    }
    let output = command.args(&words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{name}: {line}: {}", text(&output));
}

/// What the cell of Python before gives `predict`.
fn inputs(path: &Path) {
    use burn::tensor::{DType, TensorData};
    use microdit::weights::StateDict;
    let zeros = |name: &str, shape: &[usize]| {
        let count = shape.iter().product();
        (name.to_owned(), TensorData::new(vec![0f32; count], shape))
    };
    let inputs = [
        zeros("x", &[2, 3, 32, 32]),
        zeros("time", &[2]),
        zeros("captions", &[2, 15, 64]),
    ];
    let inputs = StateDict::from_tensors(inputs);
    inputs.write_safetensors(path, DType::F32, None).unwrap();
}

/// Cells of Rust are compiled where the examples are.
#[test]
fn the_rust_of_the_notebooks_is_that_of_the_examples() {
    let examples = root().join("crates/microdit-train/examples");
    let read = |name: &str| fs::read_to_string(examples.join(name)).unwrap();
    let examples = [read("custom_objective.rs"), read("custom_denoiser.rs")];
    let mut copied = 0;
    for Cell { source, .. } in cells("library") {
        let items = ["use ", "/// "];
        if items.iter().any(|start| source.starts_with(start)) {
            let found = examples.iter().any(|text| text.contains(&source));
            assert!(found, "no example has this any more: {source}");
            copied += 1;
        }
        // Within a block, the task: indented otherwise.
        if let Some(start) = source.find("let build = ") {
            let build = &source[start..source.find("let log").unwrap()];
            let lines = |text: &str| -> String { text.lines().map(str::trim).collect() };
            let found = examples
                .iter()
                .any(|text| lines(text).contains(&lines(build)));
            assert!(found, "no example builds this any more: {build}");
            copied += 1;
        }
    }
    assert_eq!(copied, 6);
}
