//! GenEval (arXiv 2310.11513): a JSON object a line, with the prompt and what must be seen; and the folder its evaluator reads pictures
//! from:
//!
//! ```text
//! FOLDER/00000/metadata.jsonl    the object of the first prompt
//! FOLDER/00000/samples/0000.png  its first picture
//! FOLDER/00001/...
//! ```

use super::{Prompt, PromptsError, lines};
use microdit::atomic_file;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// The file of a prompt's folder that holds its object, and the folder of its pictures.
const METADATA: &str = "metadata.jsonl";
const SAMPLES: &str = "samples";

/// Bytes of the largest object.
const LONGEST: u64 = 1 << 20;

/// The prompts of an `evaluation_metadata.jsonl`.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>, PromptsError> {
    lines::read(path, |line| prompt(line).map(Some))
}

/// The prompt of an object: what its `prompt` says, of the task in its `tag`. What else it holds is for the evaluator.
fn prompt(object: &str) -> Result<Prompt, String> {
    let value: Value = serde_json::from_str(object).map_err(|error| {
        format!("it is not JSON ({error}); expected an object with `tag` and `prompt`")
    })?;
    let Value::Object(entries) = value else {
        return Err("expected an object with `tag` and `prompt`, found another value".into());
    };
    let text = |key: &str| match entries.get(key) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some(Value::String(_)) => Err(format!("its `{key}` is empty")),
        Some(_) => Err(format!("its `{key}` is not a text")),
        None => Err(format!(
            "it has no `{key}`; expected an object with `tag` and `prompt`"
        )),
    };
    Ok(Prompt {
        text: text("prompt")?,
        category: text("tag")?,
        metadata: object.trim().to_owned(),
    })
}

/// Where a picture belongs: of which prompt and which of its pictures, both from 0.
pub fn picture(folder: &Path, prompt: usize, picture: usize) -> PathBuf {
    let samples = of_prompt(folder, prompt).join(SAMPLES);
    samples.join(format!("{picture:04}.png"))
}

fn of_prompt(folder: &Path, prompt: usize) -> PathBuf {
    folder.join(format!("{prompt:05}"))
}

/// Makes the folder ready for the pictures of these prompts; what is there already stays.
///
/// # Errors
/// A folder that cannot be written, or that holds other prompts.
pub fn prepare(folder: &Path, prompts: &[Prompt]) -> Result<(), PromptsError> {
    for (i, prompt) in prompts.iter().enumerate() {
        let of_prompt = of_prompt(folder, i);
        let path = of_prompt.join(METADATA);
        if path.exists() && metadata(&path)? != *prompt {
            return Err(PromptsError::file(
                &path,
                "it holds another prompt; expected a folder of the same prompts, or none",
            ));
        }
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let of_prompt = of_prompt(folder, i);
        let path = of_prompt.join(METADATA);
        let samples = of_prompt.join(SAMPLES);
        fs::create_dir_all(&samples).map_err(PromptsError::io(&samples))?;
        if !path.exists() {
            let line = format!("{}\n", prompt.metadata);
            atomic_file::write(&path, |part| fs::write(part, line))
                .map_err(PromptsError::io(&path))?;
        }
    }
    Ok(())
}

/// Copies the pictures of these prompts, as many of each, into the layout that GenEval's evaluator reads.
///
/// # Errors
/// Those of [`prepare`], and files that cannot be copied.
pub fn lay_out(
    folder: &Path,
    prompts: &[Prompt],
    pictures: &[PathBuf],
) -> Result<(), PromptsError> {
    prepare(folder, prompts)?;
    let each = (pictures.len() / prompts.len().max(1)).max(1);
    for (i, from) in pictures.iter().enumerate() {
        let to = picture(folder, i / each, i % each);
        let copied = atomic_file::write(&to, |part| fs::copy(from, part).map(drop));
        copied.map_err(PromptsError::io(&to))?;
    }
    Ok(())
}

/// Whether a folder has this layout: one of its folders is named by a number, and holds an object.
pub fn is_laid_out(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| {
        let name = entry.file_name();
        let digits = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        name.to_str().is_some_and(digits) && entry.path().join(METADATA).is_file()
    })
}

/// The prompts of a folder, each with its pictures, in the order of their numbers.
///
/// # Errors
/// A folder that cannot be read or holds no prompt, and prompts without an object or a picture.
pub fn pictures(folder: &Path) -> Result<Vec<(Prompt, Vec<PathBuf>)>, PromptsError> {
    let prompts = numbered(folder, "")?;
    if prompts.is_empty() {
        return Err(PromptsError::file(
            folder,
            "expected folders 00000, 00001, ...; found none",
        ));
    }
    let read = |of_prompt: PathBuf| {
        let prompt = metadata(&of_prompt.join(METADATA))?;
        let samples = of_prompt.join(SAMPLES);
        let pictures = numbered(&samples, ".png")?;
        match pictures.is_empty() {
            true => Err(PromptsError::file(
                &samples,
                "expected pictures 0000.png, ...; found none",
            )),
            false => Ok((prompt, pictures)),
        }
    };
    prompts.into_iter().map(read).collect()
}

/// The object in a file of a prompt's folder.
fn metadata(path: &Path) -> Result<Prompt, PromptsError> {
    let mut text = String::new();
    let file = File::open(path).map_err(PromptsError::io(path))?;
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(PromptsError::io(path))?;
    prompt(&text).map_err(|message| PromptsError::file(path, message))
}

/// What in a folder is named by a number and this ending, by the number.
fn numbered(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, PromptsError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(PromptsError::io(folder))? {
        let entry = entry.map_err(PromptsError::io(folder))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(ending));
        let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok())
            && let Some(other) = found.insert(number, entry.path())
        {
            let message = format!(
                "{} has the number of {}",
                entry.path().display(),
                other.display()
            );
            return Err(PromptsError::file(folder, message));
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Suite, tests::error};

    const LINES: [&str; 3] = [
        r#"{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}"#,
        r#"{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], "prompt": "a photo of two clocks"}"#,
        r#"{"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}], "prompt": "a photo of a cat left of a dog"}"#,
    ];

    fn suite(folder: &Path) -> Vec<Prompt> {
        let path = folder.join("evaluation_metadata.jsonl");
        fs::write(&path, LINES.join("\n") + "\n\n").unwrap();
        Suite::GenEval.read(&path).unwrap()
    }

    #[test]
    fn a_suite_becomes_the_folder_its_evaluator_reads() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = suite(folder.path());
        let tags: Vec<&str> = prompts.iter().map(|prompt| &*prompt.category).collect();
        assert_eq!(tags, ["single_object", "counting", "position"]);
        assert_eq!(prompts[1].text, "a photo of two clocks");
        let out = folder.path().join("out");
        assert!(!is_laid_out(folder.path()));
        prepare(&out, &prompts).unwrap();
        assert!(is_laid_out(&out) && !is_laid_out(&out.join("00000")));
        // Once more, as where drawing is resumed.
        prepare(&out, &prompts).unwrap();
        assert_eq!(picture(&out, 2, 1), out.join("00002/samples/0001.png"));
        let text = fs::read_to_string(out.join("00002/metadata.jsonl")).unwrap();
        assert_eq!(text.trim_end(), LINES[2]);
        let error = pictures(&out).unwrap_err().to_string();
        assert!(
            error.contains("00000/samples: expected pictures"),
            "{error}"
        );
        for (i, count) in [(0, 1), (1, 12), (2, 2)] {
            for j in 0..count {
                fs::write(picture(&out, i, j), "").unwrap();
            }
        }
        fs::write(out.join("00001/grid.png"), "").unwrap();
        fs::write(out.join("00001/samples/notes.txt"), "").unwrap();
        let found = pictures(&out).unwrap();
        assert!(found.iter().map(|(prompt, _)| prompt).eq(&prompts));
        let counts: Vec<usize> = found.iter().map(|(_, pictures)| pictures.len()).collect();
        assert_eq!(counts, [1, 12, 2]);
        assert_eq!(found[1].1[11], picture(&out, 1, 11));
        // Nothing is written where one of the prompts is another.
        let mut others = prompts.clone();
        others.insert(0, prompts[2].clone());
        let error = prepare(&out, &others).unwrap_err().to_string();
        assert!(
            error.contains("00000/metadata.jsonl: it holds another prompt"),
            "{error}"
        );
        assert!(!out.join("00003").exists());
        fs::remove_file(out.join("00001/metadata.jsonl")).unwrap();
        let error = pictures(&out).unwrap_err().to_string();
        assert!(error.contains("00001/metadata.jsonl"), "{error}");
        let error = pictures(&out.join("00000/samples"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected folders 00000"), "{error}");
    }

    #[test]
    fn pictures_are_laid_out_under_their_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = suite(folder.path());
        let drawn: Vec<PathBuf> = (0..6)
            .map(|i| {
                let path = folder.path().join(format!("{i}.png"));
                fs::write(&path, format!("picture {i}")).unwrap();
                path
            })
            .collect();
        let out = folder.path().join("out");
        lay_out(&out, &prompts, &drawn).unwrap();
        // Two of each, one prompt after the other.
        let found = pictures(&out).unwrap();
        let texts: Vec<Vec<String>> = found
            .iter()
            .map(|(_, pictures)| {
                let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
                pictures.iter().map(read).collect()
            })
            .collect();
        assert_eq!(
            texts,
            [
                ["picture 0", "picture 1"],
                ["picture 2", "picture 3"],
                ["picture 4", "picture 5"]
            ]
        );
    }

    #[test]
    fn lines_that_are_no_such_object_are_named() {
        for (line, part) in [
            ("a photo of a bench", "line 2: it is not JSON"),
            ("[1]", "line 2: expected an object"),
            (r#"{"tag": "colors"}"#, "line 2: it has no `prompt`"),
            (r#"{"prompt": "a fox"}"#, "line 2: it has no `tag`"),
            (
                r#"{"tag": 3, "prompt": "a fox"}"#,
                "line 2: its `tag` is not a text",
            ),
            (
                r#"{"tag": "colors", "prompt": " "}"#,
                "line 2: its `prompt` is empty",
            ),
            ("", "line 2: it is empty, and line 3 is not"),
        ] {
            let text = [LINES[0], line, LINES[1]].join("\n");
            let error = error(Suite::GenEval, text.as_bytes());
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
    }
}
