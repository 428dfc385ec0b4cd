//! Directories as diffusers writes them.

use super::{DIFFUSERS, NetworkFiles, PipelineError, PipelineFiles, Taken, scheduler};
use crate::{
    config_file::{TRANSFORMERS, parse, text},
    text::padding_of,
};
use microdit::weights::WeightSet;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// `model_index.json`: the pipeline's class; its other keys name the classes of its networks.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class: Option<String>,
}

/// The pipelines whose networks are known.
const CLASSES: [&str; 4] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
];

/// DeciDiffusion's network; the ordinary one beside it is another, which its pipeline does not use.
const FLEXIBLE: &str = "flexible_unet";

const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// Longest list of what is there.
const MOST_LISTED: usize = 20;

pub(super) fn open(path: &Path, taken: &Taken) -> Result<PipelineFiles, PipelineError> {
    let index = path.join("model_index.json");
    if index.is_file() {
        let Index { class } = parse(&index, &text(&index)?)?;
        if let Some(class) = class.filter(|class| !CLASSES.contains(&class.as_str())) {
            return Err(PipelineError::Class {
                path: index,
                class,
                expected: CLASSES[0],
            });
        }
    }
    if taken.set == WeightSet::Average {
        return Err(PipelineError::NoAverage(path.to_owned()));
    }
    let unet = match path.join(FLEXIBLE).is_dir() {
        true => FLEXIBLE,
        false => "unet",
    };
    let unet = part(path, unet, &DIFFUSERS)?;
    let vae = part(path, "vae", &DIFFUSERS)?;
    let text_encoder = part(path, "text_encoder", &TRANSFORMERS)?;
    let file = path.join(SCHEDULER);
    if !file.is_file() {
        return Err(missing(path, SCHEDULER));
    }
    let mut scheduler_config: Value = parse(&file, &standard_json(&text(&file)?))?;
    let scheduler = scheduler(&file, &mut scheduler_config, taken)?;
    Ok(PipelineFiles {
        padding: padding_of(&path.join("text_encoder"))?,
        unet,
        vae,
        text: text_encoder,
        notes: scheduler.notes.clone(),
        scheduler,
        scheduler_config,
        set: taken.set,
        steps: None,
    })
}

/// One of the networks.
fn part(path: &Path, name: &'static str, weights: &[&str]) -> Result<NetworkFiles, PipelineError> {
    let folder = path.join(name);
    match folder.is_dir() {
        true => Ok(NetworkFiles::in_directory(&folder, weights)?),
        false => Err(missing(path, name)),
    }
}

/// What a directory lacks, and what it has.
fn missing(path: &Path, what: &'static str) -> PipelineError {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut there: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    there.truncate(MOST_LISTED);
    PipelineError::Missing {
        path: path.to_owned(),
        what,
        there,
    }
}

/// Python writes an infinite number, which JSON does not have; no key that is read may be one, so that it becomes null.
fn standard_json(text: &str) -> String {
    let mut standard = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let infinite = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !in_string && rest.starts_with(word));
        if let Some(word) = infinite {
            standard.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
        standard.push(c);
        rest = &rest[c.len_utf8()..];
    }
    standard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_become_null() {
        let text = r#"{"a": -Infinity, "b \" Infinity": "NaN \\", "c": [NaN, 1]}"#;
        let read: Value = serde_json::from_str(&standard_json(text)).unwrap();
        let expected = serde_json::json!({"a": null, "b \" Infinity": "NaN \\", "c": [null, 1]});
        assert_eq!(read, expected);
    }
}
