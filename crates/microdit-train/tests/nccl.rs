//! The library of NCCL, which gives its version and ids on a machine without a GPU. Built with `--features nccl`.

use microdit_train::collective::{Launch, Meeting, Patience, UniqueId, nccl};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::AtomicBool,
    time::Duration,
};

/// The library of PyPI's wheel, as .ci/run unpacks it.
const LIBRARY: &str = "/tmp/nccl/nvidia/nccl/lib/libnccl.so.2";

/// A directory with the library under the name it is looked for; none where it is missing, which is an error in CI.
fn library(folder: &Path) -> Option<PathBuf> {
    if !Path::new(LIBRARY).is_file() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        let missing = "this test needs NCCL: pip download --no-deps nvidia-nccl-cu12 -d /tmp/nccl && \
                       python3 -m zipfile -e /tmp/nccl/*.whl /tmp/nccl";
        assert!(!ci, "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    let path = folder.join("lib");
    fs::create_dir_all(&path).unwrap();
    std::os::unix::fs::symlink(LIBRARY, path.join("libnccl.so")).unwrap();
    Some(path)
}

/// Starts this program as a rank that prints what it knows; it meets the other at an address, which has a colon, or in a directory.
fn rank(library: &Path, rank: usize, meeting: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    match meeting.contains(':') {
        true => command.env(nccl::MEETING, meeting),
        false => command.env_remove(nccl::MEETING),
    };
    command
        .args(["--exact", "as_a_rank", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", library)
        .env("RANK_OF_TEST", rank.to_string())
        .env("MEETING_OF_TEST", meeting)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What two ranks that meet there print.
#[track_caller]
fn said(library: &Path, meeting: &str) -> String {
    let ranks = [1, 0].map(|number| rank(library, number, meeting));
    let said = ranks.map(|rank| {
        let output = rank.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}{error}");
        let line = text.lines().find(|line| line.starts_with("NCCL "));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    });
    assert_eq!(said[0], said[1]);
    said[0].clone()
}

#[test]
#[ignore = "a rank of the next test"]
fn as_a_rank() {
    let stop = AtomicBool::new(false);
    let patience = Patience {
        stop: &stop,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(60),
    };
    let launch = Launch {
        rank: std::env::var("RANK_OF_TEST").unwrap().parse().unwrap(),
        world_size: 2,
        local_rank: None,
    };
    let meeting = std::env::var("MEETING_OF_TEST").unwrap();
    let meeting = match meeting.contains(':') {
        true => Meeting::Address,
        false => Meeting::Directory(meeting.into()),
    };
    let id: UniqueId = nccl::identity(launch, &meeting, &patience).unwrap();
    println!("NCCL {} {id:?}", nccl::version().unwrap());
}

#[test]
fn two_processes_share_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = library(folder.path()) else {
        return;
    };
    let directory = folder.path().join("meeting");
    let by_directory = || said(&library, directory.to_str().unwrap());
    let first = by_directory();
    let version: u32 = first.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(version > 20_000, "{first}");
    // Of another start, although the first has left its traces.
    assert!(directory.join("id").is_file());
    assert_ne!(by_directory(), first);
    let by_address = |port: u16| said(&library, &format!("127.0.0.1:{port}"));
    assert_eq!(by_address(3411), by_address(3411));
    assert_ne!(by_address(3411), by_address(3412));
}

#[test]
fn a_library_that_is_missing_is_said() {
    // Where one is installed, there is nothing to say.
    if nccl::is_present() {
        return;
    }
    let error = nccl::version().unwrap_err().to_string();
    assert!(error.contains("libnccl.so"), "{error}");
}
