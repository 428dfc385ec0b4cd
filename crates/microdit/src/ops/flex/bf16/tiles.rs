//! Products by the tiles of AMX: 16 rows times 16 columns, 16 pairs at a time.
//!
//! `tdpbf16ps` sums the products of first numbers and those of second ones apart, one after the other, each rounded to f32; then it
//! adds the two sums, and what it gets to the element. Subnormal numbers are taken and left as zero (Intel's manual, volume 2,
//! "TDPBF16PS"). So an element's bits differ from those that vectors compute; its error is bounded alike.

use super::product::{PAIRS, PANEL, Product};

/// Rows of a tile.
const TILE: usize = 16;

/// Rows that are computed together: two tiles of them and two of columns share what they load.
pub(super) const ROWS: usize = 2 * TILE;

/// Columns that are computed together.
const COLUMNS: usize = 2 * TILE;

/// The numbers of a row of a tile fill this many bytes: pairs, and sums likewise.
const ROW_BYTES: usize = 64;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use amx::{are_there, compute};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn are_there() -> bool {
    false
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn compute(_: Product<'_>) {
    unreachable!("there are no tiles");
}

/// Tiles of a product, two rows of them and two columns at a time: where their sums, rows and columns begin.
fn blocks(product: &Product<'_>) -> impl Iterator<Item = [usize; 3]> + use<> {
    let (count, stride) = (product.count, product.left.stride);
    let (rows, pairs) = (product.left.rows, product.panel.len() / PANEL);
    assert!(rows.is_multiple_of(ROWS) && pairs.is_multiple_of(PAIRS) && pairs > 0);
    assert!(product.panel.len() == pairs * PANEL && count <= PANEL);
    assert!(product.sums.len() >= rows * PANEL);
    assert!(rows == 0 || product.left.data.len() >= (rows - 1) * stride + pairs);
    (0..count).step_by(COLUMNS).flat_map(move |column| {
        (0..rows)
            .step_by(ROWS)
            .map(move |row| [row * PANEL + column, row * stride, column])
    })
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::{PAIRS, PANEL, Product, ROW_BYTES, TILE, blocks};
    use std::{
        arch::{asm, x86_64::__cpuid_count},
        mem::size_of,
        sync::OnceLock,
    };

    /// Whether the processor has tiles for bf16, and the system lets this process have them.
    pub(in super::super) fn are_there() -> bool {
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
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Eight tiles, all of 16 rows of 64 bytes.
    static SHAPES: Shapes = Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// Computes a product, where there are tiles.
    pub(in super::super) fn compute(product: Product<'_>) {
        assert!(are_there());
        let line = PANEL * size_of::<f32>();
        let stride = product.left.stride * size_of::<u32>();
        let steps = product.panel.len() / PANEL / PAIRS;
        let blocks = blocks(&product);
        // SAFETY: the processor has tiles. No code but this function's uses them, and it gives them back.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, preserves_flags)) };
        for [sums, left, right] in blocks {
            let sums = &mut product.sums[sums..];
            // SAFETY: `blocks` has made sure that the slices hold all that is read and written: of the sums and the left factor two
            // tiles of rows, from here on; of the panel two tiles of columns, in all of its pairs.
            unsafe {
                let sums = sums.as_mut_ptr();
                let left = product.left.data.as_ptr().add(left);
                asm!(
                    "test {begins:e}, {begins:e}",
                    "jnz 2f",
                    "tileloadd tmm0, [{sums} + {line}]",
                    "tileloadd tmm1, [{sums} + {line} + {ROW}]",
                    "tileloadd tmm2, [{sums_below} + {line}]",
                    "tileloadd tmm3, [{sums_below} + {line} + {ROW}]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    "tileloadd tmm4, [{left} + {stride}]",
                    "tileloadd tmm6, [{right} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {line} + {ROW}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{left_below} + {stride}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {left}, {ROW}",
                    "add {left_below}, {ROW}",
                    "add {right}, {STEP}",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + {ROW}], tmm1",
                    "tilestored [{sums_below} + {line}], tmm2",
                    "tilestored [{sums_below} + {line} + {ROW}], tmm3",
                    ROW = const ROW_BYTES,
                    STEP = const PAIRS * PANEL * size_of::<u32>(),
                    begins = in(reg) u32::from(product.begins),
                    sums = in(reg) sums,
                    sums_below = in(reg) sums.byte_add(TILE * line),
                    line = in(reg) line,
                    left = inout(reg) left => _,
                    left_below = inout(reg) left.byte_add(TILE * stride) => _,
                    stride = in(reg) stride,
                    right = inout(reg) product.panel.as_ptr().add(right) => _,
                    steps = inout(reg) steps => _,
                    options(nostack),
                );
            }
        }
        // SAFETY: as above. A thread that holds no tiles has less to be kept when it waits.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// What [`compute`] does, bit for bit but for subnormal numbers, on every processor.
#[cfg(test)]
pub(super) fn model(product: Product<'_>) {
    let stride = product.left.stride;
    for [sums, left, right] in blocks(&product) {
        for row in 0..ROWS {
            let sums = &mut product.sums[sums + row * PANEL..][..COLUMNS];
            let left = &product.left.data[left + row * stride..];
            for (column, sum) in sums.iter_mut().enumerate() {
                if product.begins {
                    *sum = 0.0;
                }
                let panel = product.panel[right + column..].iter().step_by(PANEL);
                let pairs: Vec<(u32, u32)> = left.iter().copied().zip(panel.copied()).collect();
                for pairs in pairs.chunks(PAIRS) {
                    let of = |number: fn(u32) -> f32| {
                        pairs.iter().fold(0f32, |sum, &(left, right)| {
                            number(left).mul_add(number(right), sum)
                        })
                    };
                    let first = of(|pair| f32::from_bits(pair << 16));
                    let second = of(|pair| f32::from_bits(pair & 0xffff_0000));
                    *sum += first + second;
                }
            }
        }
    }
}
