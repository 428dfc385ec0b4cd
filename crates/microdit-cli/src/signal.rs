//! Ctrl-C and SIGTERM end a command in order.

use miette::{IntoDiagnostic, WrapErr};
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The first Ctrl-C or SIGTERM asks the work to stop and says what is `done` about it, the second ends the process.
pub(crate) fn stop_on_signal(done: &'static str) -> miette::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        let _ = writeln!(
            std::io::stderr(),
            "{done}; press Ctrl-C again to quit at once"
        );
    })
    .into_diagnostic()
    .wrap_err("Ctrl-C cannot be handled")?;
    Ok(stop)
}
