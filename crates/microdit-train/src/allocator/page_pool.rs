//! An allocator whose large blocks leave no gaps: free pages move together where a block needs them.

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_READ, PROT_WRITE,
    c_void,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::{BTreeMap, BTreeSet},
    ptr::{self, null_mut},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Blocks of this size and larger consist of chunks.
const LARGE: usize = 1 << 20;
/// What moves as a whole; a multiple of a page on every processor.
const CHUNK: usize = 256 << 10;
/// What every page is aligned to at least.
const PAGE: usize = 4 << 10;
/// Most bytes of a pool whose chunks move. One that has moved may be a mapping of its own, of which a process may have 65,530: a pool of more than
/// half as many chunks gives them back to the system instead, and takes new ones.
const MOVABLE: usize = CHUNK << 15;

/// A global allocator for Linux that takes no more memory for large blocks than are in use at once, rounded up to chunks of 256 KiB.
///
/// Tensors of a training step are made and freed in an order that leaves gaps in any heap: of the 3,545 MiB of a masked step of Tiny/2
/// in bf16, 150 were free where a gradient of 32 needed memory. Here blocks of 1 MiB and more consist of whatever pages are free,
/// wherever they lie: the system moves them to neighbouring addresses (`mremap(2)`), which neither copies nor clears them. Smaller
/// blocks are the system allocator's. Nothing goes back to the system: the next step finds what this one leaves.
///
/// ```
/// use microdit_train::allocator::PagePool;
///
/// #[global_allocator]
/// static ALLOCATOR: PagePool = PagePool::new();
///
/// let gradient = vec![0f32; 8 << 20];
/// assert!(gradient.iter().all(|x| *x == 0.0));
/// ```
#[derive(Debug)]
pub struct PagePool(Mutex<Pages>);

/// Memory from the system, in chunks, and which of it is free.
#[derive(Debug)]
struct Pages {
    /// Size of every free run of chunks, by its address. No two of them touch.
    runs: BTreeMap<usize, usize>,
    /// The same as size and address.
    by_size: BTreeSet<(usize, usize)>,
    /// Bytes from the system, free and in use.
    held: usize,
    /// Bytes up to which chunks move.
    movable: usize,
}

/// A block of chunks.
#[derive(Debug)]
struct Block {
    address: usize,
    /// Whether all of it is zero.
    zero: bool,
}

impl Pages {
    const fn new(movable: usize) -> Self {
        Self {
            runs: BTreeMap::new(),
            by_size: BTreeSet::new(),
            held: 0,
            movable,
        }
    }

    /// A block of `size`, a multiple of a chunk, or `None` if the system has no memory: the start of the smallest run that is large enough.
    fn take(&mut self, size: usize) -> Option<Block> {
        let Some(&(run, address)) = self.by_size.range((size, 0)..).next() else {
            return self.gather(size);
        };
        self.remove(address, run);
        self.keep(address + size, run - size);
        Some(Block {
            address,
            zero: false,
        })
    }

    /// A block at a new address, of the smallest free runs, and of new pages as far as these do not suffice.
    fn gather(&mut self, size: usize) -> Option<Block> {
        let address = map(size)?;
        let may_move = self.held <= self.movable;
        let (mut filled, mut zero) = (0, true);
        while filled < size
            && let Some(&(run, from)) = self.by_size.first()
        {
            let used = run.min(size - filled);
            self.remove(from, run);
            self.keep(from + used, run - used);
            for offset in (0..used).step_by(CHUNK) {
                let chunk = from + offset;
                if may_move && moves(chunk, address + filled + offset) {
                    zero = false;
                } else {
                    unmap(chunk);
                }
            }
            filled += used;
        }
        self.held += size - filled;
        Some(Block { address, zero })
    }

    /// Takes back a block, or part of one, which becomes one run with its free neighbours.
    fn give(&mut self, mut address: usize, mut size: usize) {
        if let Some((&before, &run)) = self.runs.range(..address).next_back()
            && before + run == address
        {
            self.remove(before, run);
            (address, size) = (before, run + size);
        }
        if let Some(&run) = self.runs.get(&(address + size)) {
            self.remove(address + size, run);
            size += run;
        }
        self.keep(address, size);
    }

    fn keep(&mut self, address: usize, size: usize) {
        if size > 0 {
            self.runs.insert(address, size);
            self.by_size.insert((size, address));
        }
    }

    fn remove(&mut self, address: usize, size: usize) {
        self.runs.remove(&address);
        self.by_size.remove(&(size, address));
    }
}

/// Address of new pages, which take no memory before they are written, and are zero.
fn map(size: usize) -> Option<usize> {
    let (access, flags) = (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    // SAFETY: the system chooses an address that nothing has.
    let address = unsafe { libc::mmap(null_mut(), size, access, flags, -1, 0) };
    (address != MAP_FAILED).then_some(address as usize)
}

/// Whether a free chunk could be moved to the place of a new one, which goes. Where a process has too many mappings, the system refuses
/// before it changes anything.
fn moves(from: usize, to: usize) -> bool {
    let (from, to) = (from as *mut c_void, to as *mut c_void);
    // SAFETY: both chunks are ours and nothing refers to them. Each lies in one mapping, because mappings are cut between chunks only.
    let moved = unsafe { libc::mremap(from, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, to) };
    moved != MAP_FAILED
}

/// Gives a free chunk back to the system.
fn unmap(chunk: usize) {
    // SAFETY: nothing refers to it. If the system refuses, it stays where it is, and nobody uses it again.
    unsafe { libc::munmap(chunk as *mut c_void, CHUNK) };
}

/// Size of a block in chunks, or `None` if it is the system allocator's.
fn in_chunks(layout: Layout) -> Option<usize> {
    let large = layout.size() >= LARGE && layout.align() <= PAGE;
    large.then(|| layout.size().next_multiple_of(CHUNK))
}

impl PagePool {
    /// A pool that holds nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Pages::new(MOVABLE)))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for PagePool {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: a block is a mapped run of chunks that is part of no free run and of no other block. The maps of runs are made of blocks
// smaller than `LARGE`, so that the pool never allocates from itself.
unsafe impl GlobalAlloc for PagePool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = in_chunks(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        };
        let block = self.pages().take(size);
        block.map_or(null_mut(), |block| block.address as *mut u8)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(size) = in_chunks(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let block = self.pages().take(size);
        let Some(Block { address, zero }) = block else {
            return null_mut();
        };
        let block = address as *mut u8;
        if !zero {
            // SAFETY: it has this size at least.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it does not overflow when rounded up to the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (in_chunks(layout), in_chunks(new)) {
            // SAFETY: as the caller promises.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (before, after) if before == after => block,
            // SAFETY: as the caller promises; both blocks have what is copied, and the first is not used again.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match in_chunks(layout) {
            Some(size) => self.pages().give(block as usize, size),
            // SAFETY: as the caller promises.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}

#[cfg(test)]
mod tests;
