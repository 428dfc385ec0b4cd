//! The pool of workers that operations on a CPU share, and its workers kept awake between the operations of a step.
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

/// Makes the calling thread one of the pool's workers: for a program's main thread, before the pool is used. Does nothing if
/// there is a pool already.
///
/// [`enter`] then stays on that thread. The memory of glibc's main thread is one heap, that of others is in pieces of 64 MiB, which go back to the
/// system when they are empty: a step that allocates on the main thread finds its memory again.
pub fn become_worker() {
    // The pool that there is serves as well.
    _ = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
}

/// Does `work` on a worker of the pool; on the spot, if the caller is one. From there a parallel operation starts without waking
/// another thread first.
///
/// # Panics
/// If `work` does.
pub fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Threads that operations on a CPU use: those of the caller's pool.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// How long a worker waits for work before it sleeps after all: as long as the thread pools of other frameworks.
const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps the other workers of the calling worker's pool awake while it lives, unless there is nothing for them to do
/// for 200 ms. Does nothing outside of a pool.
///
/// A worker that waits for another's part of some work may begin to keep awake, and then looks at its own work again only
/// when this is dropped or the 200 ms are over: keep a pool awake from one place at a time.
///
/// ```
/// use microdit::worker_pool::{self, KeepAwake};
/// worker_pool::enter(|| {
///     let _awake = KeepAwake::new();
///     // Many short parallel operations.
/// });
/// ```
#[derive(Debug)]
pub struct KeepAwake(Arc<AtomicBool>);

impl KeepAwake {
    /// Keeps them awake from now on.
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

impl Drop for KeepAwake {
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
    fn what_enters_the_pool_runs_on_a_worker() {
        assert_eq!(rayon::current_thread_index(), None);
        let (outer, inner) = enter(|| {
            let own = rayon::current_thread_index();
            (own, enter(rayon::current_thread_index))
        });
        assert!(outer.is_some());
        assert_eq!(outer, inner);
    }

    #[test]
    fn work_goes_on_while_awake_and_after() {
        enter(|| {
            let sum = || (0..10_000u64).into_par_iter().sum::<u64>();
            let awake = KeepAwake::new();
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
