use super::*;
use microdit::rng::{Purpose, Stream};
use std::{slice, thread};

/// A block of a pool, every page of which says whose it is.
struct Block<'a> {
    pool: &'a PagePool,
    start: *mut u8,
    layout: Layout,
    mark: u8,
}

impl<'a> Block<'a> {
    fn new(pool: &'a PagePool, size: usize, mark: u8) -> Self {
        let layout = Layout::from_size_align(size, 64).expect("a layout");
        let zero = mark.is_multiple_of(2);
        // SAFETY: the size is not 0.
        let start = unsafe {
            match zero {
                true => pool.alloc_zeroed(layout),
                false => pool.alloc(layout),
            }
        };
        assert!(!start.is_null());
        let mut block = Self {
            pool,
            start,
            layout,
            mark,
        };
        if zero {
            assert!(block.marks(size).all(|mark| *mark == 0), "zeros");
        }
        block.write();
        block
    }

    /// The first number of every page, and the last of all, up to a size.
    fn marks(&mut self, size: usize) -> impl Iterator<Item = &mut u8> {
        // SAFETY: all of it is this block's, and has been written or is zero wherever this is read.
        let numbers = unsafe { slice::from_raw_parts_mut(self.start, size) };
        numbers.chunks_mut(PAGE).flat_map(|page| {
            let (first, rest) = page.split_at_mut(1);
            first.iter_mut().chain(rest.last_mut())
        })
    }

    fn write(&mut self) {
        let (mark, size) = (self.mark, self.layout.size());
        self.marks(size).for_each(|at| *at = mark);
    }

    fn check(&mut self, size: usize) {
        let mark = self.mark;
        assert!(self.marks(size).all(|at| *at == mark), "another's numbers");
    }

    fn resize(&mut self, size: usize) {
        let kept = size.min(self.layout.size()) / PAGE * PAGE;
        // SAFETY: it is a block of this pool, and the size is not 0.
        self.start = unsafe { self.pool.realloc(self.start, self.layout, size) };
        self.layout = Layout::from_size_align(size, 64).expect("a layout");
        self.check(kept);
        self.write();
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: it is a block of this pool.
        unsafe { self.pool.dealloc(self.start, self.layout) };
    }
}

/// Makes, resizes and frees blocks in any order. Returns the most bytes in chunks that were in use at once.
fn work(pool: &PagePool, seed: u64) -> usize {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut most = 0;
    for step in 0..600 {
        let mut draws = Stream::new(seed, Purpose::Task, step, 0);
        // From a few bytes to many chunks.
        let magnitude = draws.below(21);
        let size = 1 + draws.below(24 << magnitude);
        let which = draws.below(blocks.len() + 1);
        let action = draws.below(5);
        let in_use = blocks.iter().filter_map(|block| in_chunks(block.layout));
        let in_use = in_use.sum::<usize>();
        // While numbers are copied, both blocks are in use.
        let more = in_chunks(Layout::from_size_align(size, 64).expect("a layout")).unwrap_or(0);
        match blocks.get_mut(which) {
            Some(block) if action == 0 => {
                if in_chunks(block.layout).unwrap_or(0) != more {
                    most = most.max(in_use + more);
                }
                block.resize(size);
            }
            Some(_) if action < 3 => drop(blocks.swap_remove(which)),
            _ => {
                most = most.max(in_use + more);
                blocks.push(Block::new(pool, size, step as u8));
            }
        }
    }
    most
}

#[test]
fn no_more_is_held_than_was_in_use_at_once_and_no_block_has_anothers_numbers() {
    for seed in 0..4 {
        let pool = PagePool::new();
        let most = work(&pool, seed);
        assert!(most > 50 * LARGE);
        assert_eq!(pool.pages().held, most);
        // All of it is free again.
        let pages = pool.pages();
        assert_eq!(pages.runs.values().sum::<usize>(), most);
        let by_size = pages.runs.iter().map(|(address, size)| (*size, *address));
        assert_eq!(by_size.collect::<BTreeSet<_>>(), pages.by_size);
    }
}

#[test]
fn where_nothing_may_move_pages_go_back_instead() {
    let pool = PagePool(Mutex::new(Pages::new(0)));
    assert_eq!(work(&pool, 7), pool.pages().held);
}

#[test]
fn threads_do_not_share_blocks() {
    let pool = &PagePool::new();
    let most = thread::scope(|scope| {
        let threads = [1, 2, 3].map(|seed| scope.spawn(move || work(pool, seed)));
        threads.map(|thread| thread.join().expect("its checks hold"))
    });
    assert!(pool.pages().held <= most.iter().sum());
}

#[test]
fn what_is_free_moves_to_where_it_is_needed() {
    let pool = PagePool::new();
    // Free are every second one of these, which leave no place for a larger one.
    let mut blocks: Vec<_> = (0..32).map(|mark| Block::new(&pool, LARGE, mark)).collect();
    let mut second = false;
    blocks.retain(|_| {
        second = !second;
        second
    });
    let large = Block::new(&pool, 16 * LARGE, 1);
    assert_eq!(pool.pages().held, 32 * LARGE);
    assert!(pool.pages().runs.is_empty());
    drop(large);
    drop(blocks);
    // The block is one run still, at the least.
    assert!(pool.pages().by_size.last() >= Some(&(16 * LARGE, 0)));
}
