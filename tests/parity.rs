//! Runs every case of a golden directory against the library: `tests/goldens`, or the one `MICRODIT_GOLDENS` names;
//! `MICRODIT_GOLDENS_ONLY=dit_forward,edm_loss` restricts it to kinds. `-- --nocapture` prints every tensor's error.

use microdit_tests::{
    cases::{Check, KINDS, SLACK},
    report::Report,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Files that belong to a case told by another file, or are not about the network.
fn is_case(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => !["_expected", "_captions", "_names"]
            .iter()
            .any(|end| stem.ends_with(end)),
        Some("pt") => true,
        _ => false,
    }
}

fn kind_of(path: &Path) -> Option<(&'static str, Check)> {
    let name = path.file_name()?.to_string_lossy();
    KINDS
        .iter()
        .filter(|(kind, _)| name.starts_with(kind))
        .max_by_key(|(kind, _)| kind.len())
        .copied()
}

#[test]
fn goldens() {
    let directory = std::env::var_os("MICRODIT_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens"),
        PathBuf::from,
    );
    let only = std::env::var("MICRODIT_GOLDENS_ONLY").ok();
    let only: Option<Vec<&str>> = only
        .as_deref()
        .map(|list| list.split(',').map(str::trim).collect());
    if let Some(only) = &only {
        for kind in only {
            assert!(
                KINDS.iter().any(|(known, _)| known == kind),
                "MICRODIT_GOLDENS_ONLY names the unknown kind {kind}"
            );
        }
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a golden directory is readable").path())
        .filter(|path| is_case(path))
        .collect();
    files.sort();
    let mut failures = Vec::new();
    let mut compared = 0;
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((kind, check)) = kind_of(path) else {
            let prefix = |kind: &&str| name.starts_with(*kind);
            if only.as_ref().is_none_or(|only| only.iter().any(prefix)) {
                failures.push(format!(
                    "{name}: unknown kind, or a kind not implemented yet"
                ));
            }
            continue;
        };
        if only.as_ref().is_some_and(|only| !only.contains(&kind)) {
            continue;
        }
        let mut report = Report::new(SLACK);
        // A case that cannot run at all must not hide the others.
        let ran = catch_unwind(AssertUnwindSafe(|| check(path, &mut report)));
        println!("{name}: {} comparisons\n{report}", report.compared());
        if ran.is_err() || report.compared() == 0 {
            failures.push(format!("{name}: did not run to its end"));
        }
        compared += report.compared();
        failures.extend(
            report
                .failures()
                .into_iter()
                .map(|line| format!("{name}: {line}")),
        );
    }
    assert!(compared > 0, "no golden case in {}", directory.display());
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
    println!("{compared} comparisons agree");
}
