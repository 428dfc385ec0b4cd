//! A finished run as a folder to publish: weights, what they are, and how they came about.

use crate::{
    error::TrainError,
    plan,
    recipe::Recipe,
    run::{Choice, RunDir, last_metrics},
};
use microdit::{atomic_file, weights::WeightsFile};
use serde_json::{Value, json};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Name of the weights in an exported folder.
pub const WEIGHTS: &str = "model.safetensors";

/// Name of the model card.
const CARD: &str = "README.md";

/// What an exported folder says that no run knows.
#[derive(Clone, Debug)]
pub struct Card {
    /// Licence, by the hub's identifier of it, such as `apache-2.0`.
    pub license: String,
    /// Which weights.
    pub choice: Choice,
}

/// Writes the weights of `run` to the new folder `out`, with `config.json`, the recipe, the newest grid of pictures and a model card
/// (`README.md`); returns the paths of the files.
///
/// # Errors
/// A run without weights, a folder that is there already, or files that cannot be written.
pub fn export(run: &Path, out: &Path, card: &Card) -> Result<Vec<PathBuf>, TrainError> {
    let (run, recipe) = RunDir::open(run)?;
    let weights = run.weights_of(card.choice)?;
    let config = config(&weights)?;
    if out.exists() {
        return Err(TrainError::Taken(out.to_owned()));
    }
    fs::create_dir_all(out).map_err(TrainError::io(out))?;
    let mut written = Vec::new();
    let mut put = |name: &str, write: &dyn Fn(&Path) -> std::io::Result<()>| {
        let path = out.join(name);
        atomic_file::write(&path, write).map_err(TrainError::io(&path))?;
        written.push(path);
        Ok::<_, TrainError>(())
    };
    put(WEIGHTS, &|path| fs::copy(&weights, path).map(drop))?;
    put("config.json", &|path| fs::write(path, &config))?;
    put("recipe.ron", &|path| fs::write(path, &recipe.source))?;
    let pictures = run.samples();
    let drawn = pictures.is_file();
    if drawn {
        put("samples.png", &|path| fs::copy(&pictures, path).map(drop))?;
    }
    let text = text(&run, &recipe, card, drawn)?;
    put(CARD, &|path| fs::write(path, &text))?;
    Ok(written)
}

/// The files of an exported folder, by name.
///
/// # Errors
/// A folder without weights or model card, and what is not a file.
pub fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let entries = fs::read_dir(folder).map_err(TrainError::io(folder))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TrainError::io(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(TrainError::io(&path))?;
        match entry.file_name().into_string() {
            Ok(name) if kind.is_file() => files.push((name, path)),
            _ => return Err(TrainError::NotExported(path)),
        }
    }
    files.sort();
    let lacks = |wanted: &&str| !files.iter().any(|(name, _)| name == wanted);
    match [WEIGHTS, CARD].iter().find(|wanted| lacks(wanted)) {
        Some(missing) => Err(TrainError::NoExport {
            folder: folder.to_owned(),
            missing,
        }),
        None => Ok(files),
    }
}

/// What the weights say about themselves, as JSON.
fn config(weights: &Path) -> Result<String, TrainError> {
    let description = WeightsFile::open(weights)?.description()?;
    let description = description.map(|own| {
        json!({
            "library": "microdit",
            "network": own.network,
            "diffusion": own.diffusion,
            "latents": own.latents,
            "captions": own.captions,
            "step": own.step,
            "recipe": own.recipe,
        })
    });
    let text = serde_json::to_string_pretty(&description.unwrap_or_default());
    Ok(text.expect("JSON is written") + "\n")
}

/// The model card.
fn text(run: &RunDir, recipe: &Recipe, card: &Card, drawn: bool) -> Result<String, TrainError> {
    let name = &recipe.run.name;
    let mut text = format!(
        "---\nlicense: {}\nlibrary_name: microdit\npipeline_tag: text-to-image\ntags:\n- microdit\n- diffusion\n---\n\n# {name}\n\n",
        card.license
    );
    if drawn {
        text += "![Pictures drawn by this network, a row for each prompt](samples.png)\n\n";
        for prompt in &recipe.run.sampling.prompts {
            writeln!(text, "- {}", prompt.replace('\n', " ")).expect("text is written");
        }
        text.push('\n');
    }
    text += "Draw with it:\n\n```sh\nmicrodit sample --weights . --prompt \"...\" --out picture.png\n```\n\n## Training\n\n| | |\n|---|---|\n";
    for (key, value) in facts(run, recipe)? {
        writeln!(text, "| {key} | {} |", value.replace('|', "\\|")).expect("text is written");
    }
    text += &evaluation(run);
    text += "\n`recipe.ron` trains it again: `microdit train recipe.ron`.\n";
    Ok(text)
}

/// What is known of the training.
fn facts(run: &RunDir, recipe: &Recipe) -> Result<Vec<(&'static str, String)>, TrainError> {
    let last = last_metrics(run.path())?.unwrap_or_default();
    let number = |key: &str| last.get(key).and_then(Value::as_f64);
    let stages = recipe.stages.iter();
    let stages: Vec<String> = stages
        .map(|stage| {
            format!(
                "{} ({} steps of {} images)",
                stage.name, stage.steps, stage.batch
            )
        })
        .collect();
    let stage = recipe.last_stage();
    let flops: f64 = recipe
        .stages
        .iter()
        .map(|stage| plan::flop_per_image(stage) * stage.batch as f64 * stage.steps as f64)
        .sum();
    let mut facts = vec![
        ("parameters", stage.model.parameters().to_string()),
        ("stages", stages.join(", ")),
        ("FLOPs", format!("{flops:.3e}")),
    ];
    let mut add = |key, value: Option<String>| facts.extend(value.map(|value| (key, value)));
    let lists: Vec<&str> = stage.data.lists().iter().map(|(list, _)| *list).collect();
    let data = match lists.is_empty() {
        true => stage.data.kind().to_owned(),
        false => lists.join(", "),
    };
    add("data", Some(data));
    add(
        "images seen",
        number("images").map(|images| format!("{images:.0}")),
    );
    add("hours", number("hours").map(|hours| format!("{hours:.2}")));
    add("dollars", number("usd").map(|usd| format!("{usd:.2}")));
    let process = last_process(run);
    let said = |key: &str| process.as_ref().and_then(|process| process.get(key));
    add(
        "hardware",
        said("gpu")
            .and_then(|gpu| gpu.get("name"))
            .and_then(text_of),
    );
    add("processor", said("processor").and_then(text_of));
    add("commit", said("commit").and_then(text_of));
    Ok(facts)
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// What `run.json` says of the last process that trained the run.
fn last_process(run: &RunDir) -> Option<Value> {
    let text = fs::read(run.path().join("run.json")).ok()?;
    let processes: Vec<Value> = serde_json::from_slice(&text).ok()?;
    processes.into_iter().next_back()
}

/// The numbers of `microdit eval`, where there are some.
fn evaluation(run: &RunDir) -> String {
    let read = || -> Option<Vec<Value>> {
        let text = fs::read(run.path().join("eval.json")).ok()?;
        let all: Value = serde_json::from_slice(&text).ok()?;
        all.get("results")?.as_array().cloned()
    };
    let mut table = String::new();
    for result in read().unwrap_or_default() {
        let (Some(metric), Some(value)) = (
            result.get("metric").and_then(Value::as_str),
            result.get("value").and_then(Value::as_f64),
        ) else {
            continue;
        };
        let labels = result.get("labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels: Vec<String> = labels
            .map(|(key, value)| format!("{key} {}", value.as_str().unwrap_or_default()))
            .collect();
        let row = format!("| {metric} | {value:.4} | {} |", labels.join(", "));
        writeln!(table, "{row}").expect("text is written");
    }
    match table.is_empty() {
        true => table,
        false => format!("\n## Evaluation\n\n| metric | value | |\n|---|---:|---|\n{table}"),
    }
}
