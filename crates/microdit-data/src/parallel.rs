//! Work on many items at once, on threads of its own: those of a pool may all be waiting for its results.

use std::thread;

/// What `work` makes of each item and its place, in their order; nothing where it panicked.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<Option<R>> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = items
            .chunks(share)
            .enumerate()
            .map(|(i, part)| {
                let places = i * share..;
                let map = move || {
                    places
                        .zip(part)
                        .map(|(place, item)| work(place, item))
                        .collect::<Vec<R>>()
                };
                (part.len(), scope.spawn(map))
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|(count, worker)| match worker.join() {
                Ok(results) => results.into_iter().map(Some).collect::<Vec<_>>(),
                Err(_) => (0..count).map(|_| None).collect(),
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..10).collect();
        for threads in [0, 1, 3, 20] {
            let results = super::map(&items, threads, |place, &item| (place, 2 * item));
            let expected: Vec<_> = (0..10).map(|i| Some((i, 2 * i))).collect();
            assert_eq!(results, expected, "{threads} threads");
        }
    }
}
