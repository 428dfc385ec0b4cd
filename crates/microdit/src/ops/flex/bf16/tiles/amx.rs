//! The instructions. Rust has no names for them yet, but an assembler.

use super::{Factors, Shape, TILE, Tiles};
use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
    mem::size_of,
    sync::OnceLock,
};

/// Whether the processor has tiles for bf16, and the system lets this process have them.
pub(in super::super::super) fn are_there() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        /// Of leaf 7: AMX-BF16 and AMX-TILE.
        const BITS: u32 = 1 << 22 | 1 << 24;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XTILEDATA: libc::c_long = 18;
        if cfg!(miri) || __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & BITS != BITS {
            return false;
        }
        // SAFETY: it asks for the state of tiles to be kept for the threads of this process, and changes nothing else.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
    })
}

/// What `ldtilecfg` reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// This thread's tiles: four of sums, two of rows, two of columns.
#[derive(Debug)]
pub(in super::super::super) struct Amx {
    shape: Shape,
    /// Another thread's are others.
    here: PhantomData<*const ()>,
}

impl Amx {
    fn configure(&self) {
        let Shape { rows, columns } = self.shape;
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let sums = [[0, 0], [0, 1], [1, 0], [1, 1]].map(|[i, j]| [rows[i], columns[j]]);
        let factors = [
            [rows[0], TILE],
            [rows[1], TILE],
            [TILE, columns[0]],
            [TILE, columns[1]],
        ];
        for (i, &[rows, columns]) in sums.iter().chain(&factors).enumerate() {
            shapes.rows[i] = rows as u8;
            shapes.row_bytes[i] = (columns * size_of::<u32>()) as u16;
        }
        // SAFETY: the processor has tiles (`take`), and these shapes (`shape`). No code but that of `Amx` uses them.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, preserves_flags)) };
    }
}

impl Tiles for Amx {
    fn take() -> Self {
        assert!(are_there());
        let tiles = Self {
            shape: Shape {
                rows: [TILE; 2],
                columns: [TILE; 2],
            },
            here: PhantomData,
        };
        tiles.configure();
        tiles
    }

    #[inline]
    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]) {
        let shape = Shape { rows, columns };
        if self.shape != shape {
            let mut sizes = rows.iter().chain(&columns);
            assert!(sizes.all(|size| (1..=TILE).contains(size)));
            self.shape = shape;
            self.configure();
        }
    }

    #[inline]
    fn begin(&mut self) {
        // SAFETY: the tiles have shapes.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nomem, nostack, preserves_flags),
            );
        }
    }

    #[inline]
    fn load(&mut self, sums: &[f32], stride: usize) {
        self.shape.assert_fits(sums, stride);
        let stride = stride * size_of::<f32>();
        // SAFETY: the tiles have shapes, and all that is read lies inside of the sums, as asserted.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + {ROW}]",
                "tileloadd tmm2, [{below} + {stride}]",
                "tileloadd tmm3, [{below} + {stride} + {ROW}]",
                ROW = const TILE * size_of::<f32>(),
                sums = in(reg) sums.as_ptr(),
                below = in(reg) sums.as_ptr().wrapping_byte_add(TILE * stride),
                stride = in(reg) stride,
                options(readonly, nostack, preserves_flags),
            );
        }
    }

    #[inline]
    fn add(&mut self, factors: Factors<'_>) {
        self.shape.assert_has(&factors);
        let Factors {
            left_stride,
            left_step,
            right_stride,
            ..
        } = factors;
        let [left_stride, left_step, right_stride] =
            [left_stride, left_step, right_stride].map(|count| count * size_of::<u32>());
        // SAFETY: the tiles have shapes, and all that is read lies inside of the factors, as asserted.
        unsafe {
            asm!(
                "2:",
                "tileloadd tmm4, [{left} + {left_stride}]",
                "tileloadd tmm6, [{right} + {right_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{beside} + {right_stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {left_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, {left_step}",
                "add {below}, {left_step}",
                "add {right}, {right_step}",
                "add {beside}, {right_step}",
                "dec {steps}",
                "jnz 2b",
                left = inout(reg) factors.left[0].as_ptr() => _,
                below = inout(reg) factors.left[1].as_ptr() => _,
                left_stride = in(reg) left_stride,
                left_step = in(reg) left_step,
                right = inout(reg) factors.right[0].as_ptr() => _,
                beside = inout(reg) factors.right[1].as_ptr() => _,
                right_stride = in(reg) right_stride,
                right_step = in(reg) TILE * right_stride,
                steps = inout(reg) factors.steps => _,
                options(readonly, nostack),
            );
        }
    }

    #[inline]
    fn store(&self, sums: &mut [f32], stride: usize) {
        self.shape.assert_fits(sums, stride);
        let stride = stride * size_of::<f32>();
        // SAFETY: the tiles have shapes, and all that is written lies inside of the sums, as asserted.
        unsafe {
            asm!(
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + {ROW}], tmm1",
                "tilestored [{below} + {stride}], tmm2",
                "tilestored [{below} + {stride} + {ROW}], tmm3",
                ROW = const TILE * size_of::<f32>(),
                sums = in(reg) sums.as_mut_ptr(),
                below = in(reg) sums.as_mut_ptr().wrapping_byte_add(TILE * stride),
                stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Amx {
    /// A thread without tiles has less to be kept while it waits.
    fn drop(&mut self) {
        // SAFETY: the processor has tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
