//! Jobs that share a machine.

use super::error::SweepError;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

/// Does `work` on every job, one at a time on each of `slots` threads, until `stop`; the first error stops the others.
pub(super) fn each<T: Sync>(
    jobs: &[T],
    slots: usize,
    halt: &AtomicBool,
    stop: &(impl Fn() -> bool + Sync),
    work: &(impl Fn(usize, &T) -> Result<(), SweepError> + Sync),
) -> Result<(), SweepError> {
    let next = AtomicUsize::new(0);
    let next = &next;
    let on_slot = move |slot: usize| -> Result<(), SweepError> {
        while !stop() {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            work(slot, job).inspect_err(|_| halt.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..slots)
            .map(|slot| scope.spawn(move || on_slot(slot)))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        let results: Vec<Result<(), SweepError>> = results
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::PathBuf, sync::Mutex};

    #[test]
    fn every_job_is_done_once_on_one_of_the_slots() {
        let done = Mutex::new(Vec::new());
        let jobs: Vec<usize> = (0..100).collect();
        let work = |slot: usize, job: &usize| {
            assert!(slot < 3);
            done.lock().unwrap().push(*job);
            Ok(())
        };
        each(&jobs, 3, &AtomicBool::new(false), &|| false, &work).unwrap();
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        assert_eq!(done, jobs);
    }

    #[test]
    fn an_error_or_a_stop_leaves_the_rest_undone() {
        let (halt, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let jobs: Vec<usize> = (0..100).collect();
        let work = |_: usize, job: &usize| {
            count.fetch_add(1, Ordering::Relaxed);
            match job {
                5 => Err(SweepError::Busy(PathBuf::new())),
                _ => Ok(()),
            }
        };
        let stop = || halt.load(Ordering::Relaxed);
        assert!(each(&jobs, 1, &halt, &stop, &work).is_err());
        assert_eq!((stop(), count.load(Ordering::Relaxed)), (true, 6));
        each(&jobs, 2, &halt, &stop, &work).unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 6);
    }
}
