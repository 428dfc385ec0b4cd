//! The page about a step on a GPU has the tables that its script prints, of the network that `plan` describes.

use crate::common::root;
use std::process::Command;

#[test]
fn the_model_of_a_step_is_of_the_network_that_is_planned() {
    let checked = Command::new("python3")
        // No compiled module beside the sources.
        .args(["-B", "benches/gpu_model.py"])
        .args(["--check", "docs/src/notes/gpu-model.md"])
        .args(["--binary", env!("CARGO_BIN_EXE_microdit")])
        .current_dir(root())
        .output();
    let Ok(checked) = checked else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "this test needs python3");
        eprintln!("skipped: this test needs python3");
        return;
    };
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
