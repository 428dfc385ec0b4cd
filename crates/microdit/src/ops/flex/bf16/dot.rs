//! Two products of bf16 at a time, added to sums in f32: the instruction where the processor has it, and its model
//! everywhere else.
//!
//! A pair of bf16 is 32 bits, the first number in the lower ones. `vdpbf16ps` adds the product of the second numbers, then
//! that of the first, and rounds after each of them: two fused multiply-adds of f32, whose factors are exact. The two differ in
//! subnormal numbers alone, which the instruction takes and leaves as zero.

use pulp::{Arch, Simd, WithSimd};

/// Multiplies pairs.
pub(in super::super) trait Dot<S: Simd>: Copy {
    /// `sum + left.1 right.1 + left.0 right.0`.
    fn dot(self, simd: S, sum: S::f32s, left: S::u32s, right: S::u32s) -> S::f32s;
}

/// Whether the processor has an instruction for it.
pub(super) fn has_instruction() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Avx512::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Work for which pairs are multiplied.
pub(in super::super) trait WithDot {
    /// Does it; to be inlined, with everything it calls.
    fn with_dot<S: Simd, D: Dot<S>>(self, simd: S, dot: D);
}

/// Does the work by the instruction where the processor has it.
pub(in super::super) fn dispatch(work: impl WithDot) {
    #[cfg(target_arch = "x86_64")]
    if let Some((v4, dot)) = Avx512::detect() {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2"
        )]
        fn with_instructions<W: WithDot>(v4: pulp::x86::V4, dot: Avx512, work: W) {
            work.with_dot(v4, dot);
        }
        // SAFETY: the processor has what `v4` and `dot` stand for.
        return unsafe { with_instructions(v4, dot, work) };
    }
    dispatch_portably(work);
}

/// Does the work by the model, on whatever vectors the processor has.
pub(in super::super) fn dispatch_portably(work: impl WithDot) {
    struct Portably<W>(W);
    impl<W: WithDot> WithSimd for Portably<W> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.with_dot(simd, Portable);
        }
    }
    Arch::new().dispatch(Portably(work));
}

/// By multiply-adds of f32.
#[derive(Clone, Copy, Debug)]
struct Portable;

impl<S: Simd> Dot<S> for Portable {
    #[inline(always)]
    fn dot(self, simd: S, sum: S::f32s, left: S::u32s, right: S::u32s) -> S::f32s {
        let second = |x| simd.transmute_f32s_u32s(simd.and_u32s(x, simd.splat_u32s(0xffff_0000)));
        let first =
            |x| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(x, simd.splat_u32s(16)));
        let sum = simd.mul_add_e_f32s(second(left), second(right), sum);
        simd.mul_add_e_f32s(first(left), first(right), sum)
    }
}

#[cfg(target_arch = "x86_64")]
use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Dot;
    use pulp::{f32x16, u32x16, x86::V4};
    use std::{
        arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps},
        mem::transmute,
    };

    /// By `vdpbf16ps` (AVX512-BF16).
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Avx512(());

    impl Avx512 {
        /// If the processor has it. Miri does not.
        pub(super) fn detect() -> Option<(V4, Self)> {
            let found = !cfg!(miri) && is_x86_feature_detected!("avx512bf16");
            found.then(V4::try_new).flatten().map(|v4| (v4, Self(())))
        }
    }

    impl Dot<V4> for Avx512 {
        #[inline(always)]
        fn dot(self, _: V4, sum: f32x16, left: u32x16, right: u32x16) -> f32x16 {
            // SAFETY: `self` is there where the processor has the instruction alone; the types are of 512 bits each, any of
            // which are numbers.
            unsafe {
                let (left, right) = (
                    transmute::<u32x16, __m512bh>(left),
                    transmute::<u32x16, __m512bh>(right),
                );
                let sum = transmute::<f32x16, __m512>(sum);
                transmute::<__m512, f32x16>(_mm512_dpbf16_ps(sum, left, right))
            }
        }
    }
}
