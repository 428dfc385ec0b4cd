//! The jobs under recipes/launch, as far as a machine without their schedulers can run them.

use crate::common::{root, small, text};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// A script in place of `srun` that starts one process, after its own options.
const SRUN: &str = r#"#!/bin/bash
while [[ $1 == --* ]]; do echo "srun $1"; shift; done
shift
exec "$MICRODIT" "$@"
"#;

#[test]
fn slurm_jobs_train_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let srun = folder.path().join("srun");
    fs::write(&srun, SRUN).unwrap();
    fs::set_permissions(&srun, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", folder.path().display());
    let mut jobs = 0;
    for entry in fs::read_dir(root().join("recipes/launch")).unwrap() {
        let job = entry.unwrap().path();
        if job.extension().is_none_or(|sbatch| sbatch != "sbatch") {
            continue;
        }
        jobs += 1;
        let run = folder.path().join(job.file_stem().unwrap());
        for said in ["weights after", "already"] {
            let output = Command::new("bash")
                .arg(&job)
                // A replica in place of each GPU.
                .args(small())
                .args(["--set", "batch=8", "--device", "cpu"])
                .env("PATH", &path)
                .env("MICRODIT", env!("CARGO_BIN_EXE_microdit"))
                .env("RECIPE", "recipes/quickstart.ron")
                .env("RUN", &run)
                .current_dir(root())
                .output()
                .unwrap();
            let all = text(&output);
            assert!(output.status.success(), "{job:?}: {all}");
            assert!(all.contains(said), "{job:?}: {all}");
        }
        assert!(run.join("weights.safetensors").is_file());
    }
    assert_eq!(jobs, 2);
}
