//! Signals are heard while a disk hangs.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    workshop::{Workshop, cards},
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Waits for a file.
#[track_caller]
fn wait_for(path: &str) {
    let begun = Instant::now();
    while !Path::new(path).exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{path}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Replaces a file by a pipe nobody writes to: reading it hangs, as on a disk that is gone.
fn hang(path: &str) {
    let pipe = format!("{path}.pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    fs::rename(pipe, path).unwrap();
}

/// Asks the command to stop while it hangs; what it said within two seconds.
#[track_caller]
fn stopped(mut child: Child) -> String {
    thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it does not hang");
    let begun = Instant::now();
    let id = child.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    // One that does not listen must not outlive the test.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    fails(&output, &["stopped"]);
    text(&output)
}

#[test]
fn signals_are_heard_while_a_disk_hangs() {
    let workshop = Workshop::new();
    let start = |command: &mut Command| {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let child = start(&mut workshop.precompute("out", &[]));
    wait_for(&workshop.path("out/precompute.json"));
    hang(&workshop.path("pictures/5.tar"));
    wait_for(&workshop.path("out/000004.json"));
    let said = stopped(child);
    assert!(
        said.contains("stopped after 5 of 6 shards")
            && said.contains("run the same command again to resume"),
        "{said}"
    );
    let names = workshop.files("out").into_keys().collect::<Vec<_>>();
    assert!(
        names.iter().all(|name| name.extension().unwrap() != "part"),
        "{names:?}"
    );
    let sound = root().join("tests/goldens/wds_dirty.tar");
    fs::remove_file(workshop.path("pictures/5.tar")).unwrap();
    fs::copy(&sound, workshop.path("pictures/5.tar")).unwrap();
    assert!(
        workshop
            .precomputed("out", &[])
            .contains("11 samples encoded")
    );

    // Long enough that the last can be replaced.
    let [card, _] = cards(workshop.folder.path());
    let many = workshop.path("many");
    fs::create_dir(&many).unwrap();
    for i in 0..300 {
        fs::hard_link(
            workshop.path("pictures/0.tar"),
            format!("{many}/{i:03}.tar"),
        )
        .unwrap();
    }
    let out = workshop.path("prepared");
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    let child = start(command.args(["data", "prepare", &card, "--source", &many, "--out", &out]));
    wait_for(&format!("{out}/000000.tar.part"));
    hang(&format!("{many}/299.tar"));
    let said = stopped(child);
    assert!(said.contains("4784 samples in 1 shards"), "{said}");
    let said = succeeds(&["data", "inspect", &out]);
    assert!(
        said.contains("lacks work was broken off after 4784 samples"),
        "{said}"
    );
    // A pipe in place of a shard is refused by its name.
    fails(
        &microdit(&[
            "data",
            "prepare",
            &card,
            "--source",
            &many,
            "--out",
            &workshop.path("refused"),
        ]),
        &["299.tar"],
    );
}
