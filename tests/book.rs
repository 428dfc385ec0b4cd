//! Laws of the book under docs/: every page is in its table of contents, and every link leads somewhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src")
}

/// The pages below `folder`.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The targets of a page's links and pictures, outside of code.
fn targets(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let prose: String = text.split("```").step_by(2).collect();
    let prose: String = prose.split('`').step_by(2).collect();
    let links = prose.split("](").skip(1);
    links
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = source().join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = targets(&summary)
        .iter()
        .map(|target| source().join(target).canonicalize().unwrap())
        .collect();
    let there: BTreeSet<PathBuf> = pages(&source())
        .iter()
        .filter(|page| **page != summary)
        .map(|page| page.canonicalize().unwrap())
        .collect();
    assert_eq!(listed, there);
    assert!(there.len() >= 10, "{there:?}");
}

#[test]
fn every_link_leads_to_a_file_or_to_a_heading() {
    for page in pages(&source()) {
        let headings = |path: &Path| -> BTreeSet<String> {
            let text = fs::read_to_string(path).unwrap();
            let lines = text.lines().filter(|line| line.starts_with('#'));
            lines.map(anchor).collect()
        };
        for target in targets(&page) {
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target}", page.display());
            let known = heading.is_empty() || headings(&path).contains(heading);
            assert!(known, "{}: {target}", page.display());
        }
    }
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
