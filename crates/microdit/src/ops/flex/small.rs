//! Products of matrices that fit into the caches, on one thread.
//!
//! Attention's products are many and small: packing their factors, as a product of large matrices must, would cost a good
//! part of what it saves.

use pulp::{Arch, Simd, WithSimd};
use std::array::from_fn;

/// The left factor of a product.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left<'a> {
    /// Row after row.
    Rows(&'a [f32]),
    /// The transpose of a matrix that lies row after row.
    Columns(&'a [f32]),
}

/// `out = scale left right`, or `out += scale left right`; `right` and `out` lie row after row, of `columns` elements.
///
/// # Panics
/// If the sizes do not fit.
pub(super) fn multiply_small(
    out: &mut [f32],
    left: Left<'_>,
    right: &[f32],
    columns: usize,
    scale: f32,
    accumulate: bool,
) {
    let (Left::Rows(values) | Left::Columns(values)) = left;
    let (rows, inner) = (out.len() / columns, right.len() / columns);
    assert_eq!(out.len(), rows * columns, "elements of the output");
    assert_eq!(right.len(), inner * columns, "elements of the right factor");
    assert_eq!(values.len(), rows * inner, "elements of the left factor");
    Arch::new().dispatch(Product {
        out,
        left,
        right,
        rows,
        inner,
        columns,
        scale,
        accumulate,
    });
}

struct Product<'a> {
    out: &'a mut [f32],
    left: Left<'a>,
    right: &'a [f32],
    rows: usize,
    inner: usize,
    columns: usize,
    scale: f32,
    accumulate: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    /// Panel after panel, of as many columns and tiles of as many rows as the registers hold sums of.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let many = S::REGISTER_COUNT >= 32;
        let mut column = 0;
        while column < self.columns {
            column += match (self.columns - column) / S::F32_LANES {
                0 => self.panel::<S, 8, 1, false>(simd, column),
                1 => self.panel::<S, 8, 1, true>(simd, column),
                4.. if many => self.panel::<S, 6, 4, true>(simd, column),
                // The addresses of twelve rows would not fit, those of twelve neighbors are one.
                _ if many && matches!(self.left, Left::Columns(_)) => {
                    self.panel::<S, 12, 2, true>(simd, column)
                }
                _ if many => self.panel::<S, 8, 2, true>(simd, column),
                _ => self.panel::<S, 6, 2, true>(simd, column),
            };
        }
    }
}

impl Product<'_> {
    /// All rows, `R` at a time, of the `N` vectors from `column` on, the last of which is there in part if not `WHOLE`;
    /// returns the width of these vectors.
    #[inline(always)]
    fn panel<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        column: usize,
    ) -> usize {
        let mut row = 0;
        while row + R <= self.rows {
            self.tile::<S, R, N, WHOLE>(simd, row, column);
            row += R;
        }
        while row + 4 <= self.rows {
            self.tile::<S, 4, N, WHOLE>(simd, row, column);
            row += 4;
        }
        while row < self.rows {
            self.tile::<S, 1, N, WHOLE>(simd, row, column);
            row += 1;
        }
        N * S::F32_LANES
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let (rows, inner) = (self.rows, self.inner);
        let sums = match self.left {
            Left::Rows(left) => {
                let left: [&[f32]; R] = from_fn(|r| &left[(row + r) * inner..][..inner]);
                self.sums::<S, R, N, WHOLE>(simd, column, |k| from_fn(|r| left[r][k]))
            }
            Left::Columns(left) => self.sums::<S, R, N, WHOLE>(simd, column, |k| {
                let left = &left[k * rows + row..][..R];
                from_fn(|r| left[r])
            }),
        };
        let scale = simd.splat_f32s(self.scale);
        for (r, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out[(row + r) * self.columns..][..self.columns][column..];
            let scaled = |sum: S::f32s, out: S::f32s| match self.accumulate {
                true => simd.mul_add_e_f32s(sum, scale, out),
                false => simd.mul_f32s(sum, scale),
            };
            if WHOLE {
                let (out, _) = S::as_mut_simd_f32s(&mut out[..N * S::F32_LANES]);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = scaled(sum, *out);
                }
            } else {
                let sum = scaled(sums[0], simd.partial_load_f32s(out));
                simd.partial_store_f32s(out, sum);
            }
        }
    }

    /// The products of `R` rows, whose elements in column `k` are `left(k)`, with `N` vectors of columns.
    #[inline(always)]
    fn sums<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &self,
        simd: S,
        column: usize,
        left: impl Fn(usize) -> [f32; R],
    ) -> [[S::f32s; N]; R] {
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        for k in 0..self.inner {
            let right = &self.right[k * self.columns..][..self.columns][column..];
            let right: [S::f32s; N] = match WHOLE {
                true => {
                    let (right, _) = S::as_simd_f32s(&right[..N * S::F32_LANES]);
                    from_fn(|i| right[i])
                }
                false => from_fn(|_| simd.partial_load_f32s(right)),
            };
            for (sums, left) in sums.iter_mut().zip(left(k)) {
                let left = simd.splat_f32s(left);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_e_f32s(left, right, *sum);
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose products and sums are exact in f32.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn products_of_every_size_are_exact() {
        for rows in 1..=14 {
            for columns in (1..=20).chain([31, 32, 33, 48, 64, 77, 96, 130]) {
                for inner in [0, 1, 2, 7] {
                    let (a, b) = (numbers(rows * inner, 5), numbers(inner * columns, 3));
                    let element = |i: usize, j: usize| -> f32 {
                        (0..inner)
                            .map(|k| a[i * inner + k] * b[k * columns + j])
                            .sum()
                    };
                    let transposed: Vec<f32> = (0..inner * rows)
                        .map(|i| a[i % rows * inner + i / rows])
                        .collect();
                    for left in [Left::Rows(&a), Left::Columns(&transposed)] {
                        for accumulate in [false, true] {
                            let before = numbers(rows * columns, 7);
                            let mut out = before.clone();
                            multiply_small(&mut out, left, &b, columns, 0.5, accumulate);
                            for (i, (&out, &before)) in out.iter().zip(&before).enumerate() {
                                let start = if accumulate { before } else { 0.0 };
                                let expected = start + 0.5 * element(i / columns, i % columns);
                                assert_eq!(out, expected, "{rows} x {columns} x {inner}: {i}");
                            }
                        }
                    }
                }
            }
        }
    }
}
