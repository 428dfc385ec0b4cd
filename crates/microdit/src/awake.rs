//! Workers that stay awake between the operations of a step.
//!
//! An operation on a CPU is over in a millisecond, and the workers of rayon's pool go to sleep in less. Where they run on
//! virtual processors, waking one asks the hypervisor for it again, which on a busy host takes longer than the operation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a worker waits for work before it sleeps after all: as long as the thread pools of other frameworks.
const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps the other workers of the calling worker's pool awake while it lives, unless there is nothing for them to do
/// for 200 ms. Does nothing outside of a pool.
///
/// A worker that waits for another's part of some work may begin to keep awake, and then looks at its own work again only
/// when this is dropped or the 200 ms are over: keep a pool awake from one place at a time.
///
/// ```
/// rayon::scope(|_| {
///     let _awake = microdit::Awake::new();
///     // Many short parallel operations.
/// });
/// ```
#[derive(Debug)]
pub struct Awake(Arc<AtomicBool>);

impl Awake {
    /// From now on.
    #[must_use]
    #[allow(clippy::new_without_default)] // It acts on the pool.
    pub fn new() -> Self {
        let wanted = Arc::new(AtomicBool::new(true));
        if let Some(own) = rayon::current_thread_index() {
            let wanted = wanted.clone();
            rayon::spawn_broadcast(move |worker| {
                // This worker has its own work, behind which it must not wait.
                if worker.index() != own {
                    serve(&wanted);
                }
            });
        }
        Self(wanted)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Does what there is to do in the pool.
fn serve(wanted: &AtomicBool) {
    let mut idle_since = Instant::now();
    while wanted.load(Ordering::Relaxed) && idle_since.elapsed() < PATIENCE {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle_since = Instant::now();
        } else {
            // Others may have the processor; it does not go idle.
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn work_goes_on_while_awake_and_after() {
        rayon::scope(|_| {
            let sum = || (0..10_000u64).into_par_iter().sum::<u64>();
            let awake = Awake::new();
            for _ in 0..100 {
                assert_eq!(sum(), 49_995_000);
            }
            std::thread::sleep(PATIENCE * 2);
            assert_eq!(sum(), 49_995_000);
            drop(awake);
            assert_eq!(sum(), 49_995_000);
        });
    }
}
