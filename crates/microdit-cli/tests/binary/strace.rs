//! strace, which stops a process at the system call a test asks for.

use std::process::{Command, Stdio};

/// strace over all threads of the command its arguments end with; none where strace is missing, which is an error in CI.
pub(crate) fn strace() -> Option<Command> {
    let mut version = Command::new("strace");
    let version = version
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]);
        return Some(command);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "this test needs strace; apt install strace");
    eprintln!("skipped: this test needs strace (apt install strace)");
    None
}
