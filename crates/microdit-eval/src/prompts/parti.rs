//! PartiPrompts (arXiv 2206.10789): a table separated by tabs, with a header.
//!
//! It quotes nothing: a quotation mark belongs to the prompt. Readers of CSV take those around the beginning of one prompt (`"G I G
//! G L E" painted ...`) for quotes and drop them, so that copies made with such a reader differ from this file in that prompt.

use super::{Prompt, PromptsError, lines};
use serde_json::{Map, Value};
use std::path::Path;

/// The columns, of which the first two must be there.
const COLUMNS: [&str; 4] = ["Prompt", "Category", "Challenge", "Note"];
const NEEDED: usize = 2;

/// The prompts of a table.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>, PromptsError> {
    let mut header: Option<Vec<String>> = None;
    lines::read(path, |line| {
        let cells = line.split('\t');
        match &header {
            None => {
                header = Some(columns(cells.map(str::trim))?);
                Ok(None)
            }
            Some(header) => row(header, &cells.collect::<Vec<_>>()).map(Some),
        }
    })
}

/// The columns of a header.
fn columns<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let expected = COLUMNS.join(", ");
    let mut columns = Vec::new();
    for name in names {
        // A header may be any line of any file.
        let shown: String = name.chars().take(80).collect();
        if !COLUMNS.contains(&name) {
            return Err(format!(
                "unknown column `{shown}`; expected {expected}, separated by tabs"
            ));
        }
        if columns.iter().any(|column| column == name) {
            return Err(format!("column `{shown}` occurs twice"));
        }
        columns.push(name.to_owned());
    }
    match COLUMNS[..NEEDED]
        .iter()
        .find(|needed| !columns.iter().any(|column| column == *needed))
    {
        Some(lacking) => Err(format!(
            "column `{lacking}` is missing; expected {expected}, separated by tabs"
        )),
        None => Ok(columns),
    }
}

fn row(header: &[String], cells: &[&str]) -> Result<Prompt, String> {
    if cells.len() != header.len() {
        return Err(format!(
            "expected {} cells, as the header has; found {}",
            header.len(),
            cells.len()
        ));
    }
    let cell = |column: &str| {
        let named = header.iter().zip(cells).find(|(name, _)| *name == column);
        named.map_or("", |(_, cell)| cell.trim()).to_owned()
    };
    let named = header.iter().zip(cells);
    let metadata: Map<String, Value> = named
        .map(|(name, cell)| (name.clone(), (*cell).into()))
        .collect();
    let prompt = Prompt {
        text: cell(COLUMNS[0]),
        category: cell(COLUMNS[1]),
        metadata: Value::Object(metadata).to_string(),
    };
    match prompt.text.is_empty() {
        true => Err("its prompt is empty".into()),
        false => Ok(prompt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Suite, tests::error};

    const HEADER: &str = "Prompt\tCategory\tChallenge\tNote\n";

    #[test]
    fn prompts_are_what_stands_between_the_tabs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.tsv");
        let rows = [
            "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings",
            "\"G I G G L E\" painted in, colour\tIllustrations\tWriting & Symbols\t",
            " a sign that says \"no \tArts\tBasic\tsays \"x\"",
            "bond\tAbstract\tBasic\t",
        ];
        std::fs::write(&path, format!("{HEADER}{}\n", rows.join("\r\n"))).unwrap();
        let prompts = read(&path).unwrap();
        let found: Vec<_> = prompts.iter().map(|p| (&*p.text, &*p.category)).collect();
        assert_eq!(
            found,
            [
                ("bond", "Abstract"),
                ("\"G I G G L E\" painted in, colour", "Illustrations"),
                ("a sign that says \"no", "Arts"),
                ("bond", "Abstract"),
            ]
        );
        let metadata: Value = serde_json::from_str(&prompts[2].metadata).unwrap();
        assert_eq!(metadata["Prompt"], " a sign that says \"no ");
        assert_eq!(metadata["Note"], "says \"x\"");
        // Columns in another order, and without those that are not needed.
        std::fs::write(&path, "Category\tPrompt\nArts\ta fox\n").unwrap();
        let [prompt] = &read(&path).unwrap()[..] else {
            panic!()
        };
        assert_eq!((&*prompt.text, &*prompt.category), ("a fox", "Arts"));
    }

    #[test]
    fn what_is_no_such_table_is_said_with_its_line() {
        for (text, part) in [
            (
                "a fox\n".to_owned(),
                "line 1: unknown column `a fox`; expected Prompt, Category",
            ),
            (
                "Prompt\tCategory\tLevel\na\tb\tc\n".into(),
                "line 1: unknown column `Level`",
            ),
            (
                "Prompt\tPrompt\n".into(),
                "line 1: column `Prompt` occurs twice",
            ),
            (
                "Prompt,Category\n".into(),
                "line 1: unknown column `Prompt,Category`",
            ),
            (
                "Prompt\tNote\n".into(),
                "line 1: column `Category` is missing",
            ),
            (
                format!("{HEADER}a fox\tArts\n"),
                "line 2: expected 4 cells, as the header has; found 2",
            ),
            (
                format!("{HEADER}a\tb\tc\td\te\n"),
                "line 2: expected 4 cells, as the header has; found 5",
            ),
            (
                format!("{HEADER} \tArts\tBasic\t\n"),
                "line 2: its prompt is empty",
            ),
            (
                format!("{HEADER}a\tArts\tBasic\t\n\nb\tArts\tBasic\t\n"),
                "line 3: it is empty, and line 4 is not",
            ),
            (HEADER.into(), "there is no prompt in it"),
        ] {
            let error = error(Suite::PartiPrompts, text.as_bytes());
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
        let error = error(
            Suite::PartiPrompts,
            &[HEADER.as_bytes(), b"caf\xe9\tArts\tBasic\t\n"].concat(),
        );
        assert!(error.contains("line 2: not UTF-8"), "{error}");
    }
}
