//! The instructions. Rust has no names for them yet, but an assembler.

use super::{Block, TILE, Tiles};
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
    rows: [usize; 2],
    columns: [usize; 2],
    /// Another thread's are others.
    here: PhantomData<*const ()>,
}

impl Tiles for Amx {
    fn take() -> Self {
        assert!(are_there());
        let mut tiles = Self {
            rows: [0; 2],
            columns: [0; 2],
            here: PhantomData,
        };
        tiles.shape([TILE; 2], [TILE; 2]);
        tiles
    }

    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]) {
        if (self.rows, self.columns) == (rows, columns) {
            return;
        }
        assert!(
            [rows, columns]
                .as_flattened()
                .iter()
                .all(|n| (1..=TILE).contains(n))
        );
        (self.rows, self.columns) = (rows, columns);
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let [[m, n], [p, q]] = [rows, columns];
        let all = [
            [m, p],
            [m, q],
            [n, p],
            [n, q],
            [m, TILE],
            [n, TILE],
            [TILE, p],
            [TILE, q],
        ];
        for (i, [rows, columns]) in all.into_iter().enumerate() {
            shapes.rows[i] = rows as u8;
            shapes.row_bytes[i] = (columns * size_of::<u32>()) as u16;
        }
        // SAFETY: the processor has tiles (`take`), and these shapes. No code but that of `Amx` uses them.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, preserves_flags)) };
    }

    fn add(&mut self, block: Block<'_>) {
        block.assert_fits(self.rows, self.columns);
        let [sums_stride, left_stride, left_step, right_stride] = [
            block.sums_stride,
            block.left_stride,
            block.left_step,
            block.right_stride,
        ]
        .map(|count| count * size_of::<u32>());
        let sums = block.sums.as_mut_ptr();
        let [left, left_below] = block.left.map(<[u32]>::as_ptr);
        let [right, right_beside] = block.right.map(<[u32]>::as_ptr);
        // SAFETY: the tiles have shapes, and all that is read and written lies inside of the slices, as asserted.
        unsafe {
            asm!(
                "test {begins:e}, {begins:e}",
                "jnz 2f",
                "tileloadd tmm0, [{sums} + {sums_stride}]",
                "tileloadd tmm1, [{sums} + {sums_stride} + {ROW}]",
                "tileloadd tmm2, [{sums_below} + {sums_stride}]",
                "tileloadd tmm3, [{sums_below} + {sums_stride} + {ROW}]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{left} + {left_stride}]",
                "tileloadd tmm6, [{right} + {right_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right_beside} + {right_stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left_below} + {left_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, {left_step}",
                "add {left_below}, {left_step}",
                "add {right}, {right_step}",
                "add {right_beside}, {right_step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{sums} + {sums_stride}], tmm0",
                "tilestored [{sums} + {sums_stride} + {ROW}], tmm1",
                "tilestored [{sums_below} + {sums_stride}], tmm2",
                "tilestored [{sums_below} + {sums_stride} + {ROW}], tmm3",
                ROW = const TILE * size_of::<f32>(),
                begins = in(reg) u32::from(block.begins),
                sums = in(reg) sums,
                sums_below = in(reg) sums.wrapping_byte_add(TILE * sums_stride),
                sums_stride = in(reg) sums_stride,
                left = inout(reg) left => _,
                left_below = inout(reg) left_below => _,
                left_stride = in(reg) left_stride,
                left_step = in(reg) left_step,
                right = inout(reg) right => _,
                right_beside = inout(reg) right_beside => _,
                right_stride = in(reg) right_stride,
                right_step = in(reg) TILE * right_stride,
                steps = inout(reg) block.steps => _,
                options(nostack),
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
