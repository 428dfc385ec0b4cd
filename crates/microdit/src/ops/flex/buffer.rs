//! Memory for results.

/// A buffer of `len` numbers for a kernel that writes all of them before any is read.
///
/// Zeroing memory that is overwritten right after cost 9 % of a training step's time. With debug assertions it is filled
/// with what is no number, so that an element that is read or handed on without being written fails a test.
// A type that tracks what is written (`MaybeUninit`) would have to pass through every loop and matrix product.
#[allow(clippy::uninit_vec)]
pub(super) fn unwritten(len: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; len];
    }
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`; every bit pattern is a number; the callers, all in this folder, hand the buffer to
    // a loop or product that assigns each element and reads none.
    unsafe { buffer.set_len(len) };
    buffer
}
