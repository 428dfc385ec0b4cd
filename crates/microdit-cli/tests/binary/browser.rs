//! A browser without a window, where one is installed.

use std::{path::Path, process::Command};

/// Opens a page in Chromium, if it is there: the page complains of nothing, and once its script has run it holds `text`.
#[track_caller]
pub(crate) fn shows(page: &Path, text: &str) {
    let Some((dom, said)) = open(page) else {
        println!(
            "chromium is not installed: {} was not opened",
            page.display()
        );
        return;
    };
    assert!(!said.contains(":CONSOLE"), "{said}");
    assert!(dom.contains(text), "{dom}");
}

/// The page as the browser made it, and what the browser logged.
fn open(page: &Path) -> Option<(String, String)> {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&output.stdout), text(&output.stderr)))
}

/// What the other tests rely on: a script that fails is heard.
#[test]
fn a_script_that_fails_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(
        &page,
        "<!DOCTYPE html><p>text</p><script>nothing.there</script>",
    )
    .unwrap();
    if let Some((dom, said)) = open(&page) {
        assert!(dom.contains("text"), "{dom}");
        assert!(said.contains(":CONSOLE"), "{said}");
    }
}
