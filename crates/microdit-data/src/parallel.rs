//! Maps many items in parallel, on threads of its own: those of a pool may all be waiting for the results.

use std::{
    panic::{self, AssertUnwindSafe},
    thread,
};

/// The results of `work` on each item and its place, in their order; nothing where it panicked. At most `threads` threads work
/// (one, if that is 0), each on a part of the items.
pub fn map<T: Send, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    threads: usize,
    work: impl Fn(usize, T) -> R + Sync,
) -> Vec<Option<R>> {
    let mut items = items.into_iter();
    let share = items.len().div_ceil(threads.max(1)).max(1);
    let begins = (0..items.len()).step_by(share);
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = begins
            .map(|begin| {
                let part: Vec<T> = items.by_ref().take(share).collect();
                scope.spawn(move || {
                    (begin..)
                        .zip(part)
                        .map(|(place, item)| unless_it_panics(|| work(place, item)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_default())
            .collect()
    })
}

/// The result of `work`, or `None` if it panics: a decoder that panics costs only its own sample.
pub(crate) fn unless_it_panics<R>(work: impl FnOnce() -> R) -> Option<R> {
    // Anything left half done is dropped with it.
    panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..10).collect();
        for threads in [0, 1, 3, 20] {
            let results = super::map(&items, threads, |place, item| (place, 2 * item));
            let expected: Vec<_> = (0..10).map(|i| Some((i, 2 * i))).collect();
            assert_eq!(results, expected, "{threads} threads");
        }
    }
    #[test]
    fn a_panic_costs_one_item() {
        let results = super::map(0..5, 2, |_, item| {
            assert_ne!(item, 1, "as asked");
            item
        });
        assert_eq!(results, [Some(0), None, Some(2), Some(3), Some(4)]);
    }
}
