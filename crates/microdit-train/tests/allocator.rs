//! What a program frees is there for its next allocation, in blocks of any size. In a program of its own, whose first lines say so.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: microdit_train::allocator::PagePool = microdit_train::allocator::PagePool::new();

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    use microdit::worker_pool;
    use std::{fs, hint::black_box, mem, thread};

    const MIB: usize = 1 << 20;

    fn written(size: usize) -> Vec<u8> {
        black_box(vec![1; size])
    }

    /// Pages this thread had to wait for while it did something.
    fn faults<R>(work: impl FnOnce() -> R) -> usize {
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
        drop(work());
        so_far() - before
    }

    /// Most memory the process has held, in bytes.
    fn peak() -> usize {
        let status = fs::read_to_string("/proc/self/status").expect("this process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        1024 * kib
            .and_then(|kib| kib.parse::<usize>().ok())
            .expect("a size")
    }

    /// Of 256 MiB in blocks of 4, every second one is freed, and 128 MiB are filled in larger ones. How much the peak grew, and pages waited for.
    fn larger_ones() -> [usize; 2] {
        let blocks: Vec<_> = (0..64).map(|_| written(4 * MIB)).collect();
        let (freed, _kept): (Vec<_>, Vec<_>) =
            (0..).zip(blocks).partition(|(index, _)| index % 2 == 0);
        drop(freed);
        let before = peak();
        let faults = faults(|| (0..4).map(|_| written(32 * MIB)).collect::<Vec<_>>());
        [peak() - before, faults]
    }

    microdit_train::allocator::keep_freed();
    let main = thread::current().id();
    // Those of the system's allocator, and those of pages, larger than what either keeps by itself.
    let sizes = [MIB - 1, 32 * MIB, 128 * MIB];
    let (entered, again, larger) = worker_pool::enter(|| {
        let filled = || sizes.map(|size| faults(|| written(size)));
        let _first = filled();
        (thread::current().id(), filled(), larger_ones())
    });
    assert_eq!(entered, main, "the pool is entered on another thread");
    assert!(
        again.iter().all(|again| *again < 16),
        "{again:?} new pages for blocks of {sizes:?} bytes that were there before"
    );
    let [grown, faults] = larger;
    assert!(
        grown < 8 * MIB && faults < 256,
        "128 MiB were free, and still the process grew by {grown} bytes and waited for {faults} pages"
    );
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    println!("skipped: only glibc's allocator is told anything");
}
