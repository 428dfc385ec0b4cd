//! Processes of this program that do the work of a sweep: what fails or crashes there ends one run, never the sweep.

use super::error::SweepError;
use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Environment variable that makes a process of this program end as on Ctrl-C when its standard input ends: it then stops
/// with its state saved when the process that started it asks for it, and also when that one was killed.
pub const STOP_AT_EOF: &str = "MICRODIT_STOP_AT_EOF";

/// How often a process is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long after the end of a process the signal that ended both may arrive here.
const DELAY: Duration = Duration::from_millis(200);

/// Most characters of a reason that is recorded.
const MAX_REASON: usize = 1000;

/// Lines at the end of a log that are taken for the reason, where it names none.
const LAST_LINES: usize = 3;

/// How processes are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// This program.
    pub program: PathBuf,
    /// Threads of each process.
    pub threads: usize,
    /// Arguments of `train` that choose the device of each process: as many as may run at a time.
    pub devices: Vec<Vec<String>>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With status 0.
    Well,
    /// Because it was asked to.
    Stopped,
    /// Otherwise, and why.
    Badly(String),
}

impl Launcher {
    /// The command of a subcommand, with a share of the processor.
    pub(super) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(subcommand)
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .env(STOP_AT_EOF, "1");
        command
    }
}

/// Runs a command to its end, or until `stop`: it is then asked to end, and waited for. What it says is added to `log`;
/// `look` is called while it runs.
///
/// # Errors
/// If it cannot be started or its log not be written.
pub(super) fn run(
    mut command: Command,
    log: &Path,
    stop: impl Fn() -> bool,
    mut look: impl FnMut(),
) -> Result<Ended, SweepError> {
    let output = OpenOptions::new().create(true).append(true).open(log);
    let output = output.map_err(SweepError::io(log))?;
    let before = output.metadata().map_err(SweepError::io(log))?.len();
    let errors = output.try_clone().map_err(SweepError::io(log))?;
    let program = PathBuf::from(command.get_program());
    let started = command
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        .spawn();
    let mut child = started.map_err(SweepError::io(&program))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(SweepError::io(&program))? {
            break status;
        }
        if stop() {
            // The end of its standard input.
            drop(child.stdin.take());
        }
        look();
        thread::sleep(INTERVAL);
    };
    let ended = Instant::now();
    while !status.success() && !stop() && ended.elapsed() < DELAY {
        thread::sleep(INTERVAL);
    }
    Ok(match (status.success(), stop()) {
        (true, _) => Ended::Well,
        (false, true) => Ended::Stopped,
        (false, false) => Ended::Badly(reason(log, before, status)),
    })
}

/// Why a process ended with `status`, from what it added to its log after `before` bytes.
fn reason(log: &Path, before: u64, status: ExitStatus) -> String {
    let all = fs::read(log).unwrap_or_default();
    let own = all.get(before as usize..).unwrap_or_default();
    let text = String::from_utf8_lossy(own);
    // As `miette` draws it: a cross, and bars where lines are broken.
    let words = |text: &str| -> String {
        let words = text
            .split_whitespace()
            .filter(|word| !matches!(*word, "×" | "│"));
        words.collect::<Vec<_>>().join(" ")
    };
    let said = match text.rsplit_once("Error:") {
        Some((_, error)) => words(error),
        None => {
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .collect();
            words(&lines[lines.len().saturating_sub(LAST_LINES)..].join(" "))
        }
    };
    let reason = match status.code() {
        Some(_) if !said.is_empty() => said,
        _ => format!("it ended with {status}"),
    };
    reason.chars().take(MAX_REASON).collect()
}

/// The last whole line of a file that is being written; none if there is none yet.
pub(super) fn last_line(path: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    const LINE: u64 = 4096;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LINE)))
        .ok()?;
    let mut text = Vec::new();
    file.take(LINE).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let whole = &text[..text.rfind('\n')?];
    whole.lines().last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_reason_is_what_was_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let ended = |script: &str| run(shell(script), &log, || false, || ()).unwrap();
        assert_eq!(ended("echo Error: an old one"), Ended::Well);
        for (script, reason) in [
            (
                "echo 'Error:   × the loss is\n  │ not finite' >&2; exit 1",
                "the loss is not finite",
            ),
            ("echo one; echo two; exit 3", "one two"),
            ("exit 3", "it ended with exit status: 3"),
            ("kill -9 $$", "it ended with signal: 9 (SIGKILL)"),
        ] {
            assert_eq!(ended(script), Ended::Badly(reason.into()), "{script}");
        }
    }

    #[test]
    fn the_end_of_its_input_asks_it_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let looks = Cell::new(0);
        let stop = || looks.get() > 3;
        // `cat` ends with its input.
        let ended = run(shell("cat; exit 130"), &log, stop, || {
            looks.set(looks.get() + 1)
        });
        assert_eq!(ended.unwrap(), Ended::Stopped);
        assert!(looks.get() > 3);
    }

    #[test]
    fn only_whole_lines_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(last_line(&path), None);
        for (text, last) in [
            ("", None),
            ("a", None),
            ("a\nb", Some("a")),
            ("a\nb\n", Some("b")),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(last_line(&path).as_deref(), last, "{text:?}");
        }
        fs::write(&path, format!("{}\nlast\n", "x".repeat(10_000))).unwrap();
        assert_eq!(last_line(&path).as_deref(), Some("last"));
    }
}
