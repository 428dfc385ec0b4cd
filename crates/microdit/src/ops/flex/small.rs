//! Products of matrices that fit into the caches, on one thread.
//!
//! Attention's products are many and small: packing their factors, as a product of large matrices must, would cost a good
//! part of what it saves.

mod tiles;

use super::bf16::{self, Amx, Dot, Unit, WithDot};
use pulp::{Arch, Simd, WithSimd, bytemuck::Pod};
use std::array::from_fn;

/// The left factor of a product.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left<'a, E> {
    /// Row after row.
    Rows(&'a [E]),
    /// The transpose of a matrix that lies row after row.
    Columns(&'a [E]),
}

/// What factors are made of: f32, or pairs of bf16 that are neighbors in the inner dimension, as many as
/// [`bf16::pairs_of`] says.
pub(super) trait Element: Pod + Default + Send + Sync {
    /// Computes the product.
    fn compute(product: Product<'_, Self>);
}

impl Element for f32 {
    fn compute(product: Product<'_, Self>) {
        Arch::new().dispatch(product);
    }
}

impl Element for u32 {
    fn compute(product: Product<'_, Self>) {
        match Unit::fastest() {
            Unit::Vectors => bf16::dispatch(product),
            _ => tiles::compute::<Amx>(product),
        }
    }
}

/// How elements are multiplied and added.
trait Terms<S: Simd>: Copy {
    type Element: Element;
    type Vector: Pod;

    fn splat(self, simd: S, element: Self::Element) -> Self::Vector;

    /// As many vectors as the elements fill.
    fn vectors(self, elements: &[Self::Element]) -> &[Self::Vector];

    /// The first elements, with zeros behind them.
    fn partial(self, simd: S, elements: &[Self::Element]) -> Self::Vector;

    fn add(self, simd: S, sum: S::f32s, left: Self::Vector, right: Self::Vector) -> S::f32s;
}

/// Multiply-adds of f32.
#[derive(Clone, Copy, Debug)]
struct Single;

impl<S: Simd> Terms<S> for Single {
    type Element = f32;
    type Vector = S::f32s;

    #[inline(always)]
    fn splat(self, simd: S, element: f32) -> S::f32s {
        simd.splat_f32s(element)
    }

    #[inline(always)]
    fn vectors(self, elements: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(elements).0
    }

    #[inline(always)]
    fn partial(self, simd: S, elements: &[f32]) -> S::f32s {
        simd.partial_load_f32s(elements)
    }

    #[inline(always)]
    fn add(self, simd: S, sum: S::f32s, left: S::f32s, right: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(left, right, sum)
    }
}

/// Two multiply-adds at a time.
#[derive(Clone, Copy, Debug)]
struct Pairs<D>(D);

impl<S: Simd, D: Dot<S>> Terms<S> for Pairs<D> {
    type Element = u32;
    type Vector = S::u32s;

    #[inline(always)]
    fn splat(self, simd: S, element: u32) -> S::u32s {
        simd.splat_u32s(element)
    }

    #[inline(always)]
    fn vectors(self, elements: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(elements).0
    }

    #[inline(always)]
    fn partial(self, simd: S, elements: &[u32]) -> S::u32s {
        simd.partial_load_u32s(elements)
    }

    #[inline(always)]
    fn add(self, simd: S, sum: S::f32s, left: S::u32s, right: S::u32s) -> S::f32s {
        self.0.dot(simd, sum, left, right)
    }
}

/// `out = scale left right`, or `out += scale left right`; `right` and `out` lie row after row, of `columns` elements.
///
/// # Panics
/// If the sizes do not fit.
pub(super) fn multiply_small<E: Element>(
    out: &mut [f32],
    left: Left<'_, E>,
    right: &[E],
    columns: usize,
    scale: f32,
    accumulate: bool,
) {
    let (Left::Rows(values) | Left::Columns(values)) = left;
    let (rows, inner) = (out.len() / columns, right.len() / columns);
    assert_eq!(out.len(), rows * columns, "elements of the output");
    assert_eq!(right.len(), inner * columns, "elements of the right factor");
    assert_eq!(values.len(), rows * inner, "elements of the left factor");
    E::compute(Product {
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

/// What [`multiply_small`] was given.
#[derive(Debug)]
pub(super) struct Product<'a, E> {
    out: &'a mut [f32],
    left: Left<'a, E>,
    right: &'a [E],
    rows: usize,
    inner: usize,
    columns: usize,
    scale: f32,
    accumulate: bool,
}

impl WithSimd for Product<'_, f32> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.compute(simd, Single);
    }
}

impl WithDot for Product<'_, u32> {
    #[inline(always)]
    fn with_dot<S: Simd, D: Dot<S>>(self, simd: S, dot: D) {
        self.compute(simd, Pairs(dot));
    }
}

impl<E: Element> Product<'_, E> {
    /// Panel after panel, of as many columns and tiles of as many rows as the registers hold sums of.
    #[inline(always)]
    fn compute<S: Simd, T: Terms<S, Element = E>>(mut self, simd: S, terms: T) {
        let many = S::REGISTER_COUNT >= 32;
        let mut column = 0;
        while column < self.columns {
            column += match (self.columns - column) / S::F32_LANES {
                0 => self.panel::<S, T, 8, 1, false>(simd, terms, column),
                1 => self.panel::<S, T, 8, 1, true>(simd, terms, column),
                4.. if many => self.panel::<S, T, 6, 4, true>(simd, terms, column),
                // The addresses of twelve rows would not fit, those of twelve neighbors are one.
                _ if many && matches!(self.left, Left::Columns(_)) => {
                    self.panel::<S, T, 12, 2, true>(simd, terms, column)
                }
                _ if many => self.panel::<S, T, 8, 2, true>(simd, terms, column),
                _ => self.panel::<S, T, 6, 2, true>(simd, terms, column),
            };
        }
    }

    /// All rows, `R` at a time, of the `N` vectors from `column` on, the last of which is there in part if not `WHOLE`;
    /// returns the width of these vectors.
    #[inline(always)]
    fn panel<
        S: Simd,
        T: Terms<S, Element = E>,
        const R: usize,
        const N: usize,
        const WHOLE: bool,
    >(
        &mut self,
        simd: S,
        terms: T,
        column: usize,
    ) -> usize {
        let mut row = 0;
        while row + R <= self.rows {
            self.tile::<S, T, R, N, WHOLE>(simd, terms, row, column);
            row += R;
        }
        while row + 4 <= self.rows {
            self.tile::<S, T, 4, N, WHOLE>(simd, terms, row, column);
            row += 4;
        }
        while row < self.rows {
            self.tile::<S, T, 1, N, WHOLE>(simd, terms, row, column);
            row += 1;
        }
        N * S::F32_LANES
    }

    #[inline(always)]
    fn tile<
        S: Simd,
        T: Terms<S, Element = E>,
        const R: usize,
        const N: usize,
        const WHOLE: bool,
    >(
        &mut self,
        simd: S,
        terms: T,
        row: usize,
        column: usize,
    ) {
        let (rows, inner) = (self.rows, self.inner);
        let sums = match self.left {
            Left::Rows(left) => {
                let left: [&[E]; R] = from_fn(|r| &left[(row + r) * inner..][..inner]);
                self.sums::<S, T, R, N, WHOLE>(simd, terms, column, |k| from_fn(|r| left[r][k]))
            }
            Left::Columns(left) => self.sums::<S, T, R, N, WHOLE>(simd, terms, column, |k| {
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
    fn sums<
        S: Simd,
        T: Terms<S, Element = E>,
        const R: usize,
        const N: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        terms: T,
        column: usize,
        left: impl Fn(usize) -> [E; R],
    ) -> [[S::f32s; N]; R] {
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        for k in 0..self.inner {
            let right = &self.right[k * self.columns..][..self.columns][column..];
            let right: [T::Vector; N] = match WHOLE {
                true => {
                    let right = terms.vectors(&right[..N * S::F32_LANES]);
                    from_fn(|i| right[i])
                }
                false => from_fn(|_| terms.partial(simd, right)),
            };
            for (sums, left) in sums.iter_mut().zip(left(k)) {
                let left = terms.splat(simd, left);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = terms.add(simd, *sum, left, right);
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose products and sums are exact in f32, and which are exact in bf16.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 17) as f32 - 8.0).collect()
    }

    /// Rows, two by two, as pairs.
    fn paired(x: &[f32], columns: usize) -> Vec<u32> {
        let bits = |x: f32| x.to_bits() >> 16;
        let rows = x.chunks(2 * columns);
        let pairs = rows.flat_map(|rows| {
            let second = |i: usize| rows.get(columns + i).map_or(0, |&x| bits(x));
            (0..columns).map(move |i| bits(rows[i]) | second(i) << 16)
        });
        pairs.collect()
    }

    /// The columns of `[rows, columns]` as rows.
    fn transposed<E: Copy>(x: &[E], rows: usize, columns: usize) -> Vec<E> {
        (0..columns * rows)
            .map(|i| x[i % rows * columns + i / rows])
            .collect()
    }

    /// The product of pairs, by every unit that computes such here.
    fn of_pairs(product: Product<'_, u32>) -> Vec<(&'static str, Vec<f32>)> {
        let mut found = Vec::new();
        let mut compute = |name, compute: &dyn Fn(Product<'_, u32>)| {
            let mut out = product.out.to_vec();
            let out_of_unit = &mut out[..];
            compute(Product {
                out: out_of_unit,
                ..product
            });
            found.push((name, out));
        };
        compute("vectors", &|product| bf16::dispatch(product));
        compute("model of tiles", &|product| {
            tiles::compute::<bf16::Model>(product)
        });
        if Unit::fastest() == Unit::Tiles {
            compute("tiles", &|product| tiles::compute::<Amx>(product));
        }
        found
    }

    #[test]
    fn products_of_every_size_are_exact() {
        let columns = || (1..=20).chain([31, 32, 33, 48, 64, 77, 96, 130]);
        let few = (1..=14).flat_map(|rows| columns().map(move |columns| (rows, columns)));
        let many = [16, 17, 31, 32, 33, 48, 64, 77];
        let many = many.map(|rows| [1, 16, 17, 32, 77].map(|columns| (rows, columns)));
        for (rows, columns) in few.chain(many.into_iter().flatten()) {
            for inner in [0, 1, 2, 7, 70] {
                if cfg!(miri) && rows * columns * inner > 100 {
                    continue;
                }
                let (a, b) = (numbers(rows * inner, 5), numbers(inner * columns, 3));
                let element = |i: usize, j: usize| -> f32 {
                    (0..inner)
                        .map(|k| a[i * inner + k] * b[k * columns + j])
                        .sum()
                };
                let before = numbers(rows * columns, 7);
                let check = |out: &[f32], accumulate: bool, unit: &str| {
                    for (i, (&out, &before)) in out.iter().zip(&before).enumerate() {
                        let start = if accumulate { before } else { 0.0 };
                        let expected = start + 0.5 * element(i / columns, i % columns);
                        assert_eq!(out, expected, "{unit}: {rows} x {columns} x {inner}: {i}");
                    }
                };
                let a_columns = transposed(&a, rows, inner);
                let (mut a_pairs, mut b_pairs) = (paired(&a_columns, rows), paired(&b, columns));
                let pairs = inner.div_ceil(2).next_multiple_of(bf16::TILE);
                a_pairs.resize(pairs * rows, 0);
                b_pairs.resize(pairs * columns, 0);
                let a_rows = transposed(&a_pairs, pairs, rows);
                for accumulate in [false, true] {
                    for left in [Left::Rows(&a[..]), Left::Columns(&a_columns)] {
                        let mut out = before.clone();
                        multiply_small(&mut out, left, &b, columns, 0.5, accumulate);
                        check(&out, accumulate, "f32");
                    }
                    for left in [Left::Rows(&a_rows[..]), Left::Columns(&a_pairs)] {
                        let mut out = before.clone();
                        let product = Product {
                            out: &mut out,
                            left,
                            right: &b_pairs,
                            rows,
                            inner: pairs,
                            columns,
                            scale: 0.5,
                            accumulate,
                        };
                        for (unit, out) in of_pairs(product) {
                            check(&out, accumulate, unit);
                        }
                    }
                }
            }
        }
    }
}
