//! What becomes of memory that is freed.

#[cfg(target_os = "linux")]
mod page_pool;

#[cfg(target_os = "linux")]
pub use page_pool::PagePool;

use microdit::worker_pool;

/// Has glibc's allocator keep what is freed for the next allocation. For the main thread of a program that trains or draws, at its start: it
/// also makes it one of the pool's workers ([`worker_pool::become_worker`]), because the heaps of other threads shrink in any case.
///
/// A step frees and allocates the same gigabytes again and again. Without this, blocks above some megabytes go back to the
/// system each time, which has to clear every page of the next: 650,000 pages in a step of Tiny/2 with 16 images. With it, it is
/// none. Memory stays at its peak in between; the peak is the same, and lower where large blocks come from a `PagePool`.
/// With another allocator than glibc's, only the thread becomes a worker.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            // No block is a mapping of its own, ...
            (libc::M_MMAP_MAX, 0),
            // ... and the heap does not shrink.
            (libc::M_TRIM_THRESHOLD, -1),
        ];
        for (name, value) in settings {
            // SAFETY: it takes any two numbers, and a lock.
            let taken = unsafe { libc::mallopt(name, value) };
            debug_assert_eq!(taken, 1, "glibc knows {name}");
        }
    }
    worker_pool::become_worker();
}
