//! Ctrl-C, SIGTERM and SIGHUP end a command cleanly.

use crate::advice::OrAdvise;
use microdit_eval::sweep::STOP_AT_EOF;
use miette::{Diagnostic, WrapErr};
use std::{
    error::Error,
    fmt,
    io::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Signals closer together than this count as one: `timeout` and a terminal that is closed send theirs twice.
const ONE: Duration = Duration::from_millis(200);

/// How long a step of a large network may delay the end of a command that was asked to stop.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A command that was ended by a signal before its work was done; it says how to continue.
///
/// Its exit status is what a shell makes of a process that Ctrl-C killed, so that a script need not know which commands end in
/// their own way.
#[derive(Debug)]
pub(crate) struct Stopped(pub(crate) String);

impl Stopped {
    /// The exit status of such a command.
    pub(crate) const STATUS: u8 = 130;
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Stopped {}

impl Diagnostic for Stopped {}

/// The first Ctrl-C, SIGTERM or SIGHUP asks the work to stop and prints what is being `done` about it; the second ends the
/// process.
pub(crate) fn stop_on_signal(done: &'static str) -> miette::Result<Arc<AtomicBool>> {
    on_signal(done, || ())
}

/// As [`stop_on_signal`], for work that has nothing to save: if it does not stop soon, the process exits anyway.
pub(crate) fn stop_soon_on_signal(done: &'static str) -> miette::Result<Arc<AtomicBool>> {
    on_signal(done, || {
        thread::spawn(|| {
            thread::sleep(PATIENCE);
            std::process::exit(Stopped::STATUS.into());
        });
    })
}

/// What asks the work to stop, once a command listens: one that measures several networks in turn listens once for all.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn on_signal(done: &'static str, then: fn()) -> miette::Result<Arc<AtomicBool>> {
    if let Some(stop) = STOP.get() {
        return Ok(stop.clone());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let mut first = None;
    ctrlc::set_handler(move || {
        let first = *first.get_or_insert_with(Instant::now);
        if flag.swap(true, Ordering::Relaxed) {
            if first.elapsed() < ONE {
                return;
            }
            std::process::exit(Stopped::STATUS.into());
        }
        let _ = writeln!(
            std::io::stderr(),
            "{done}; press Ctrl-C again to quit at once"
        );
        then();
    })
    .or_advise()
    .wrap_err("Ctrl-C cannot be handled")?;
    if std::env::var_os(STOP_AT_EOF).is_some() {
        let flag = stop.clone();
        thread::spawn(move || {
            // Ends with the process that holds the other end, however that one ends.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            flag.store(true, Ordering::Relaxed);
            then();
        });
    }
    Ok(STOP.get_or_init(|| stop).clone())
}
