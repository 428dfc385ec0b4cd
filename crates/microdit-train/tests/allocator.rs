//! What a program frees is there for its next allocation. In a program of its own, whose first line says so.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    use microdit::worker_pool;
    use std::{hint::black_box, mem, thread};

    /// Pages this thread had to wait for while it filled a block.
    fn faults(size: usize) -> usize {
        let so_far = || {
            // SAFETY: all zeros is a value of it, which the call fills.
            let usage = unsafe {
                let mut usage: libc::rusage = mem::zeroed();
                assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
                usage
            };
            usize::try_from(usage.ru_minflt).expect("a count")
        };
        let before = so_far();
        drop(black_box(vec![1u8; size]));
        so_far() - before
    }

    microdit_train::allocator::keep_freed();
    let main = thread::current().id();
    // Larger than what glibc keeps by itself, larger and smaller than the heap of a thread that is not the main one.
    let sizes = [128 << 20, 32 << 20];
    let (entered, again) = worker_pool::enter(|| {
        let _first = sizes.map(faults);
        (thread::current().id(), sizes.map(faults))
    });
    assert_eq!(entered, main, "the pool is entered on another thread");
    assert!(
        again.iter().all(|again| *again < 16),
        "{again:?} new pages for blocks of {sizes:?} bytes that were there before"
    );
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    println!("skipped: only glibc's allocator is told anything");
}
