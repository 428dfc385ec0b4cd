//! Products on AVX-512 by `gemm`'s kernel, on factors that are packed here.
//!
//! `gemm` packs a transposed factor number by number. Here blocks of it are transposed in registers, and a left factor is packed row by
//! row, as the kernel reads it fastest; one that lies so is not packed.

use super::{Matrix, Product, TO_SHARE};
use crate::ops::flex::{
    buffer::Lines,
    simd::simd,
    transpose::avx512::{self, transpose},
};
use gemm_f32::microkernel::avx512f::f32::{NR as TILE, UKR as KERNELS};
use std::{cell::RefCell, ops::Range};

/// Numbers in a vector.
const LANES: usize = 16;

/// Columns that the kernel computes at a time.
const PANEL: usize = KERNELS.len() * LANES;

/// Columns that are packed before rows are multiplied by them: threads may share a product by so many at no cost.
pub(super) const COLUMNS: usize = 4 * PANEL;

/// Rows of a transposed left factor that are packed at a time: whole tiles, and whole blocks of what is transposed in registers.
const ROWS: usize = 96;

/// How far in the inner dimension factors are packed at most. It is divided evenly, as `gemm` does with this kernel: products of other
/// sizes, which `gemm` computes, group their sums alike, and a row is the same whatever rows are computed with it. With `COLUMNS` and `ROWS`, the
/// packed numbers are 0.7 MiB, which the second level of caches holds.
const DEPTH: usize = 512;

/// Whether a product is computed here. It does not depend on the number of threads.
pub(super) fn fit(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    let dense = |x: Matrix<'_>| x.row_stride == 1 || x.column_stride == 1;
    // Of less, one thread would compute all.
    let large = a.rows >= 4 * PANEL || b.columns >= 2 * PANEL;
    (dense(a) && dense(b))
        && large
        && a.rows.min(a.columns).min(b.columns) >= TO_SHARE
        && avx512::found()
}

/// Whether columns lie in memory.
fn by_columns(x: Matrix<'_>) -> bool {
    x.column_stride != 1
}

/// Computes a product that [`fit`]s, or rows or columns of one, on the calling thread. Each element is summed in the same order, whatever
/// its place.
pub(super) fn compute(product: Product<'_>) {
    thread_local! {
        static PACKED: RefCell<[Lines; 2]> = RefCell::default();
    }
    let Product { a, b, .. } = product;
    PACKED.with_borrow_mut(|[left, right]| {
        let depth = a.columns.div_ceil(a.columns.div_ceil(DEPTH));
        for inner in ranges(0..a.columns, depth) {
            for columns in ranges(0..b.columns, COLUMNS) {
                let panels = columns.len().div_ceil(PANEL);
                let right = right.resized(panels * inner.len() * PANEL);
                let packed = right.chunks_exact_mut(inner.len() * PANEL);
                for (columns, packed) in ranges(columns.clone(), PANEL).zip(packed) {
                    pack_right(b, inner.clone(), columns, packed);
                }
                let step = if by_columns(a) { ROWS } else { a.rows };
                for rows in ranges(0..a.rows, step) {
                    let left = match by_columns(a) {
                        true => pack_left(a, inner.clone(), rows.clone(), left),
                        false => Left {
                            rows: &a.data[rows.start * a.row_stride + inner.start..],
                            stride: a.row_stride,
                        },
                    };
                    multiply(&product, left, right, [&inner, &rows, &columns]);
                }
            }
        }
    });
}

/// A range in parts of `length`, but for the last.
fn ranges(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(length)
        .map(move |start| start..end.min(start + length))
}

/// Packs up to a panel of columns of the right factor: `[inner, PANEL]`.
fn pack_right(b: Matrix<'_>, inner: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
    let count = columns.len();
    if by_columns(b) {
        let begin = columns.start * b.column_stride + inner.start;
        let shape = [count, inner.len()];
        // SAFETY: the processor has AVX-512 (`fit`).
        unsafe { transpose(&b.data[begin..], b.column_stride, shape, out, PANEL) };
        return;
    }
    simd(
        #[inline(always)]
        || {
            for (row, out) in inner.zip(out.as_chunks_mut::<PANEL>().0) {
                let line = &b.data[row * b.row_stride + columns.start..][..count];
                match line.first_chunk() {
                    // A few vectors.
                    Some(line) => *out = *line,
                    None => out[..count].copy_from_slice(line),
                }
            }
        },
    );
}

/// Rows of the left factor, whose elements are neighbors.
#[derive(Clone, Copy, Debug)]
struct Left<'a> {
    rows: &'a [f32],
    stride: usize,
}

/// Packs rows of a left factor whose columns lie in memory.
fn pack_left<'a>(
    a: Matrix<'_>,
    inner: Range<usize>,
    rows: Range<usize>,
    out: &'a mut Lines,
) -> Left<'a> {
    let stride = inner.len();
    let out = out.resized(rows.len() * stride);
    let begin = inner.start * a.column_stride + rows.start;
    let shape = [stride, rows.len()];
    // SAFETY: the processor has AVX-512 (`fit`).
    unsafe { transpose(&a.data[begin..], a.column_stride, shape, out, stride) };
    Left { rows: out, stride }
}

/// Adds the products of packed factors to their place of the output, or begins with them.
fn multiply(
    product: &Product<'_>,
    left: Left<'_>,
    right: &[f32],
    [inner, rows, columns]: [&Range<usize>; 3],
) {
    let depth = inner.len();
    assert!(right.len() >= columns.len().div_ceil(PANEL) * PANEL * depth);
    assert!(left.rows.len() >= (rows.len() - 1) * left.stride + depth);
    let adds = product.accumulate || inner.start > 0;
    for row in (0..rows.len()).step_by(TILE) {
        let height = TILE.min(rows.len() - row);
        for (panel, column) in (0..columns.len()).step_by(PANEL).enumerate() {
            let width = PANEL.min(columns.len() - column);
            let kernel = KERNELS[width.div_ceil(LANES) - 1][height - 1];
            let [row_of_out, column_of_out] = [rows.start + row, columns.start + column];
            let begin = row_of_out * product.stride + column_of_out;
            // SAFETY: the processor has AVX-512 and what comes with it (`fit`). The kernel reads `depth` elements of `height` rows of the
            // left factor and `depth` rows of a panel, which the asserts above say are there, and reads and writes `height` rows of `width`
            // elements of the output: rows and columns that `super::multiply` has made sure lie inside of it, and no other thread has.
            unsafe {
                let packed = right.as_ptr().add(panel * PANEL * depth);
                kernel(
                    width,
                    height,
                    depth,
                    product.out.0.add(begin),
                    packed,
                    left.rows.as_ptr().add(row * left.stride),
                    product.stride as isize,
                    1,
                    PANEL as isize,
                    1,
                    left.stride as isize,
                    1.0,
                    product.scale,
                    u8::from(adds),
                    false,
                    false,
                    false,
                    packed,
                );
            }
        }
    }
}
