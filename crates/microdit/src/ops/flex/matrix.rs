//! Products of strided matrices in memory the caller owns.

#[cfg(target_arch = "x86_64")]
mod panels;

/// On other processors `gemm` computes everything.
#[cfg(not(target_arch = "x86_64"))]
mod panels {
    use super::{Matrix, Product};

    pub(super) const COLUMNS: usize = 1;

    pub(super) fn fit(_: Matrix<'_>, _: Matrix<'_>) -> bool {
        false
    }

    pub(super) fn compute(_: Product<'_>) {
        unreachable!("nothing fits");
    }
}

use rayon::prelude::*;

/// A view of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a, N = f32> {
    pub(super) data: &'a [N],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a, N> Matrix<'a, N> {
    /// Rows one after the other.
    pub(super) fn new(data: &'a [N], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows of `columns` elements that begin `stride` apart.
    pub(super) fn strided(data: &'a [N], rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `count` rows from `first` on.
    fn rows_from(self, first: usize, count: usize) -> Self {
        Self {
            data: &self.data[first * self.row_stride..],
            rows: count,
            ..self
        }
    }

    fn fits(&self) -> bool {
        spans(self.rows, self.columns, self.row_stride, self.column_stride) <= self.data.len()
    }
}

/// Elements a strided matrix spans, from its first to the end of its last.
fn spans(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    (rows - 1) * row_stride + (columns - 1) * column_stride + 1
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// All of rayon's, if the product is large enough to pay for it.
    All,
}

/// Multiplications below which more threads cost more than they save.
const PARALLEL_FROM: usize = 64 * 64 * 64;

/// Rows below which a share of a product does not pay for packing the right factor, which each thread does by itself.
const ROWS_PER_SHARE: usize = 128;

/// The most shares of rows: the last, which has what is left, still has more than 64. `gemm` may sum products of fewer rows
/// in another order.
const SHARES: usize = ROWS_PER_SHARE / 2;

/// Columns below which it may do so with any number of rows, and rows with any number of columns.
const TO_SHARE: usize = 16;

/// Columns that `gemm` packs side by side at most: shares of columns are of whole blocks, and the last has what is left.
const BLOCK: usize = 64;

/// `out = scale a b`, or `out += scale a b`; the rows of `out` begin `stride` apart.
///
/// Each element is summed in the same order, whatever the number of threads.
///
/// # Panics
/// If the sizes do not fit.
pub(super) fn multiply(
    out: &mut [f32],
    stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    assert!(
        a.fits() && b.fits(),
        "a factor ends before its last element"
    );
    assert!(stride >= n && spans(m, n, stride, 1) <= out.len());
    let product = Product {
        out: Output(out.as_mut_ptr()),
        stride,
        a,
        b,
        scale,
        accumulate,
        by_panels: panels::fit(a, b),
    };
    let parallel = threads == Threads::All && m * n * k >= PARALLEL_FROM;
    let most = match parallel {
        true => rayon::current_num_threads(),
        false => 1,
    };
    // `gemm`'s own threads would wait for one of them to pack the right factor, which takes longest where it is transposed, as
    // weights are. Shares of columns pack their own columns, shares of rows all of them, each for itself.
    let wide = match product.by_panels && most > 1 {
        // More shares than threads: who is ready first takes the next.
        true => n / panels::COLUMNS / most * most,
        false => 0,
    };
    let columns = wide.max(most.min(n / BLOCK));
    let rows = most.min(m / ROWS_PER_SHARE).min(SHARES);
    let transposed = b.column_stride != 1;
    let by_columns = wide > 0 || columns > rows || (columns == rows && transposed);
    if columns > 1 && m >= TO_SHARE && by_columns {
        let blocks = n / BLOCK;
        return (0..columns)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|share| {
                let [first, end] = [share, share + 1].map(|i| i * blocks / columns * BLOCK);
                let end = if share + 1 == columns { n } else { end };
                product.of_columns(first, end - first).run(1);
            });
    }
    if rows > 1 && n >= TO_SHARE {
        let share = m.div_ceil(rows);
        return (0..m)
            .into_par_iter()
            .step_by(share)
            .with_max_len(1)
            .for_each(|first| product.of_rows(first, share.min(m - first)).run(1));
    }
    product.run(most);
}

/// Where the output begins.
#[derive(Clone, Copy, Debug)]
struct Output(*mut f32);

// SAFETY: threads write different rows or columns of it, while `multiply` holds it mutably.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// A product, all of whose elements lie inside the output and its factors.
#[derive(Clone, Copy, Debug)]
struct Product<'a> {
    out: Output,
    stride: usize,
    a: Matrix<'a>,
    b: Matrix<'a>,
    scale: f32,
    accumulate: bool,
    /// Whether it is computed by [`panels`], not by `gemm`.
    by_panels: bool,
}

impl Product<'_> {
    /// `count` rows from `first` on, which it has.
    fn of_rows(self, first: usize, count: usize) -> Self {
        let out = self.out.0.wrapping_add(first * self.stride);
        Self {
            out: Output(out),
            a: self.a.rows_from(first, count),
            ..self
        }
    }

    /// `count` columns from `first` on, which it has.
    fn of_columns(self, first: usize, count: usize) -> Self {
        Self {
            out: Output(self.out.0.wrapping_add(first)),
            b: self.b.t().rows_from(first, count).t(),
            ..self
        }
    }

    /// Computes it, by `threads` of `gemm`'s own if it is `gemm` that does.
    fn run(self, threads: usize) {
        if self.by_panels {
            return panels::compute(self);
        }
        let Self {
            out, stride, a, b, ..
        } = self;
        let parallelism = match threads {
            1 => gemm::Parallelism::None,
            _ => gemm::Parallelism::Rayon(0),
        };
        // SAFETY: `multiply` has made sure that every element of the three matrices lies inside its slice and that the rows of
        // `out` are apart, and holds `out` mutably, so it overlaps neither factor.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                a.columns,
                out.0,
                1,
                stride as isize,
                self.accumulate,
                a.data.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::ThreadPoolBuilder;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (i * step % 1009) as f32 * 1e-3 - 0.5)
            .collect()
    }

    /// Which pictures are drawn together changes none of them.
    #[test]
    fn rows_are_the_same_whatever_rows_are_computed_with_them() {
        for (n, k) in [(130, 700), (512, 640), (70, 1100)] {
            let (a, b) = (numbers(300 * k, 617), numbers(n * k, 389));
            for b in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).t()] {
                let rows = |first: usize, count: usize| {
                    let mut out = vec![0.0; count * n];
                    let a = Matrix::new(&a[first * k..][..count * k], count, k);
                    multiply(&mut out, n, a, b, 1.0, false, Threads::All);
                    out
                };
                let all = rows(0, 300);
                for (first, count) in [(0, 2), (3, 15), (7, 16), (100, 17), (1, 299)] {
                    // `gemm` sums products of so few elements in another order.
                    if count * n <= 256 {
                        continue;
                    }
                    let expected = &all[first * n..][..count * n];
                    assert!(rows(first, count) == expected, "{n} x {k}: {count} rows");
                }
            }
        }
    }

    /// Shared by threads or not, large or small, with either factor transposed.
    #[test]
    fn products_are_exact_and_the_same_for_any_number_of_threads() {
        for (m, n, k) in [
            (1, 300, 1000),
            (15, 300, 1000),
            (16, 700, 90),
            (129, 70, 40),
            (70, 200, 300),
            (300, 129, 77),
            (257, 16, 600),
            (300, 15, 600),
            (700, 130, 530),
            (1000, 1, 300),
            // More than is packed at a time, in every direction.
            (210, 530, 900),
            (60, 128, 16),
        ] {
            let (a, b) = (numbers(m * k, 617), numbers(k * n, 389));
            let transposed = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns)
                    .map(|i| x[i % rows * columns + i / rows])
                    .collect()
            };
            let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
            let exact = |row: usize, column: usize| -> f64 {
                (0..k)
                    .map(|i| f64::from(a[row * k + i]) * f64::from(b[i * n + column]))
                    .sum()
            };
            for (a, b) in [
                (Matrix::new(&a, m, k), Matrix::new(&b, k, n)),
                (Matrix::new(&a_t, k, m).t(), Matrix::new(&b, k, n)),
                (Matrix::new(&a, m, k), Matrix::new(&b_t, n, k).t()),
                (Matrix::new(&a_t, k, m).t(), Matrix::new(&b_t, n, k).t()),
            ] {
                for accumulate in [false, true] {
                    let with = |threads: usize| {
                        let mut out = vec![2.0; m * n];
                        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                        pool.unwrap().install(|| {
                            multiply(&mut out, n, a, b, 0.5, accumulate, Threads::All);
                        });
                        out
                    };
                    let one = with(1);
                    for (i, &found) in one.iter().enumerate() {
                        let start = if accumulate { 2.0 } else { 0.0 };
                        let expected = start + 0.5 * exact(i / n, i % n);
                        // Sums of a thousand products below 0.25, each rounded to 6e-8 of the sum so far.
                        let error = (f64::from(found) - expected).abs();
                        assert!(
                            error < 1e-4,
                            "{m} x {n} x {k}: element {i} is off by {error:e}"
                        );
                    }
                    for threads in [2, 3, 5, 16] {
                        assert_eq!(with(threads), one, "{m} x {n} x {k}, {threads} threads");
                    }
                }
            }
        }
    }
}
