//! How long a rank waits for the others.

use super::Lost;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// How long a rank waits for the others at every operation.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Set once this process is asked to stop. Others may have been asked as well, and may have gone.
    pub stop: &'a AtomicBool,
    /// For how long others may do something else.
    pub timeout: Duration,
    /// The same once this process is asked to stop.
    pub grace: Duration,
}

impl Patience<'_> {
    /// Begins to wait.
    #[must_use]
    pub fn begin(&self) -> Wait<'_> {
        Wait {
            patience: self,
            since: Instant::now(),
            stopping: None,
        }
    }
}

/// A rank that waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    patience: &'a Patience<'a>,
    since: Instant,
    stopping: Option<Instant>,
}

impl Wait<'_> {
    /// How long it may take until this is called again.
    pub const TICK: Duration = Duration::from_millis(20);

    /// Checks that there is patience left.
    ///
    /// # Errors
    /// If there is not.
    pub fn check(&mut self) -> Result<(), Lost> {
        let Patience {
            stop,
            timeout,
            grace,
        } = self.patience;
        if self.since.elapsed() > *timeout {
            return Err(Lost::Silent(timeout.as_secs()));
        }
        if stop.load(Ordering::Relaxed) {
            let since = *self.stopping.get_or_insert_with(Instant::now);
            if since.elapsed() > *grace {
                return Err(Lost::Stopping);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn patience_ends_at_the_timeout_or_soon_after_a_signal() {
        let stop = AtomicBool::new(false);
        let patience = |timeout, grace| Patience {
            stop: &stop,
            timeout: Duration::from_millis(timeout),
            grace: Duration::from_millis(grace),
        };
        let waits = |patience: &Patience<'_>| {
            let mut wait = patience.begin();
            sleep(Duration::from_millis(30));
            let first = wait.check();
            sleep(Duration::from_millis(60));
            first.and_then(|()| wait.check())
        };
        assert_eq!(waits(&patience(60_000, 0)), Ok(()));
        assert_eq!(waits(&patience(50, 60_000)), Err(Lost::Silent(0)));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(waits(&patience(60_000, 60_000)), Ok(()));
        assert_eq!(waits(&patience(60_000, 20)), Err(Lost::Stopping));
    }
}
