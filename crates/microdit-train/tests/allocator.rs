//! What a program frees is there for its next allocation. In a program of its own, whose first line says so.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    use std::{hint::black_box, mem};

    const BLOCK: usize = 128 << 20;
    /// Pages this thread had to wait for while it filled a block that is larger than any that glibc keeps by itself.
    fn faults() -> usize {
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
        drop(black_box(vec![1u8; BLOCK]));
        so_far() - before
    }

    microdit_train::allocator::keep_freed();
    let first = faults();
    let again = [faults(), faults()];
    assert!(
        again.iter().all(|again| *again < 16),
        "{again:?} new pages after {first}"
    );
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    println!("skipped: only glibc's allocator is told anything");
}
