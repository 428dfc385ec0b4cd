//! The numbers kernels read and write: whatever tensors keep, computations are in f32.

use burn::tensor::{Element, bf16};
use pulp::bytemuck::{Pod, cast};

/// A number of a tensor.
pub(super) trait Number: Element + Pod {
    /// What no result is.
    const NAN: Self;

    /// Its value.
    fn wide(self) -> f32;

    /// The nearest such number; of two as near, the one whose last bit is 0.
    fn of(x: f32) -> Self;

    /// The bits of the nearest bf16.
    fn narrow(self) -> u16;

    /// Neighbors as pairs of the nearest bf16, the first in the lower bits.
    fn pairs(numbers: &[Self; 32]) -> [u32; 16];
}

impl Number for f32 {
    const NAN: Self = Self::NAN;

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn narrow(self) -> u16 {
        bf16::of(self).to_bits()
    }

    #[inline(always)]
    fn pairs(numbers: &[Self; 32]) -> [u32; 16] {
        bf16::pairs(&numbers.map(bf16::of))
    }
}

impl Number for bf16 {
    const NAN: Self = Self::NAN;

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without branches, so that loops over it become vectors.
    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // A NaN stays one, whichever of its bits are cut off.
        let bits = if x.is_nan() {
            bits | 0x0040_0000
        } else {
            rounded
        };
        Self::from_bits((bits >> 16) as u16)
    }

    #[inline(always)]
    fn narrow(self) -> u16 {
        self.to_bits()
    }

    #[inline(always)]
    fn pairs(numbers: &[Self; 32]) -> [u32; 16] {
        cast::<_, [u32; 16]>(*numbers).map(u32::from_le)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest() {
        // All exponents and signs, and, below the bits that stay, everything around the middle between two numbers.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                let (found, expected) = (bf16::of(x), bf16::from_f32(x));
                assert_eq!(found.to_bits(), expected.to_bits(), "{x:e}");
                let back = found.wide();
                assert!(back.to_bits() == expected.to_f32().to_bits());
            }
        }
    }
}
