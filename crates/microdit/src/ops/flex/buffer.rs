//! Memory for results.

use super::number::Number;
use std::{
    env,
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

/// A buffer of `len` numbers for a kernel that writes all of them before any is read.
///
/// Zeroing memory that is overwritten right after cost 9 % of a training step's time. With `MICRODIT_POISON` in the
/// environment it is filled with NaN, so that an element that is read or handed on without being written fails a test.
pub(super) fn unwritten<N: Number>(len: usize) -> Vec<N> {
    static POISON: LazyLock<bool> = LazyLock::new(|| env::var_os("MICRODIT_POISON").is_some());
    buffer(len, *POISON)
}

// A type that tracks what is written (`MaybeUninit`) would have to pass through every loop and matrix product.
#[allow(clippy::uninit_vec)]
fn buffer<N: Number>(len: usize, poison: bool) -> Vec<N> {
    if poison {
        return vec![N::NAN; len];
    }
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`; every bit pattern is a number; the callers, all in this folder, hand the buffer to
    // a loop or product that assigns each element and reads none.
    unsafe { buffer.set_len(len) };
    buffer
}

/// A buffer that begins on a cache line and is used again and again. Vectors of 512 bits that straddle two lines, as
/// all do in memory that merely suits an f32, made products of small matrices take 1.25 times as long.
#[derive(Debug)]
pub(super) struct Lines<N = f32> {
    storage: Vec<N>,
    len: usize,
}

/// Numbers of 32 bits in a cache line.
const LINE: usize = 16;

impl<N> Lines<N> {
    pub(super) const fn new() -> Self {
        Self {
            storage: Vec::new(),
            len: 0,
        }
    }
}

impl<N: Copy + Default> Lines<N> {
    /// Room for `len` numbers, whatever they are.
    pub(super) fn resized(&mut self, len: usize) -> &mut [N] {
        self.len = len;
        if self.storage.len() < len + LINE {
            self.storage.resize(len + LINE, N::default());
        }
        let start = self.start();
        &mut self.storage[start..][..len]
    }
}

impl<N> Default for Lines<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<N> Lines<N> {
    fn start(&self) -> usize {
        // Allowed to fail, in which case the numbers begin where the storage does.
        let start = self.storage.as_ptr().align_offset(LINE * size_of::<N>());
        if start < LINE { start } else { 0 }
    }
}

impl<N> Deref for Lines<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        let start = self.start();
        &self.storage[start..][..self.len]
    }
}

impl<N> DerefMut for Lines<N> {
    fn deref_mut(&mut self) -> &mut [N] {
        let start = self.start();
        &mut self.storage[start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_no_number() {
        assert!(buffer::<f32>(1000, true).iter().all(|value| value.is_nan()));
        // The gate's tests run with it.
        if env::var_os("MICRODIT_POISON").is_some() {
            assert!(unwritten::<f32>(1000).iter().all(|value| value.is_nan()));
        }
    }
}
