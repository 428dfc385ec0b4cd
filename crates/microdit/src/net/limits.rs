//! What the sizes of every network are limited by.

/// Largest side of a latent, and of what else is counted along it.
pub(super) const MAX_SIDE: usize = 1 << 16;

/// Largest width of a layer.
pub(super) const MAX_WIDTH: usize = 1 << 20;

/// Most parameters and entries of a position table together: forty times the largest network of the paper, and few enough
/// that no product of sizes overflows.
pub(super) const MAX_PARAMETERS: usize = 100_000_000_000;

/// A count as a size, or `usize::MAX` where that is too small.
pub(super) fn saturated(count: u128) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
