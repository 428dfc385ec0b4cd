//! All pairs of two sets of rows, block by block, so that memory does not grow with the number of pairs.

use crate::features::Rows;
use faer::{Accum, MatMut, MatRef, linalg::matmul::matmul};

/// Rows of a block on each side.
const SIDE: usize = 1024;

/// Dot products of some rows with some others.
pub(super) struct Block<'a> {
    /// The first row on the left.
    pub(super) left: usize,
    /// The first row on the right.
    pub(super) right: usize,
    /// Rows on the left.
    height: usize,
    values: &'a [f64],
}

impl Block<'_> {
    /// For each row on the right its products with all rows on the left.
    pub(super) fn columns(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.height)
    }
}

/// Visits all pairs of a row on the left and a row on the right.
pub(super) fn across<T: Copy + Into<f64>>(
    left: Rows<'_, T>,
    right: Rows<'_, T>,
    visit: impl FnMut(&Block<'_>),
) {
    walk(left, right, |_| 0, visit);
}

/// Visits all pairs of blocks of one set, each once: blocks on the diagonal hold every pair twice and each row with itself, the
/// others hold pairs whose mirror image is not visited.
pub(super) fn within<T: Copy + Into<f64>>(rows: Rows<'_, T>, visit: impl FnMut(&Block<'_>)) {
    walk(rows, rows, |left| left, visit);
}

fn walk<T: Copy + Into<f64>>(
    left: Rows<'_, T>,
    right: Rows<'_, T>,
    first_right: impl Fn(usize) -> usize,
    mut visit: impl FnMut(&Block<'_>),
) {
    let dim = left.dim();
    let (mut lefts, mut rights, mut products) = (Vec::new(), Vec::new(), Vec::new());
    for i in (0..left.len()).step_by(SIDE) {
        let height = SIDE.min(left.len() - i);
        left.range(i..i + height).read_into(&mut lefts);
        for j in (first_right(i)..right.len()).step_by(SIDE) {
            let width = SIDE.min(right.len() - j);
            right.range(j..j + width).read_into(&mut rights);
            products.resize(height * width, 0.0);
            matmul(
                MatMut::from_column_major_slice_mut(&mut products, height, width),
                Accum::Replace,
                MatRef::from_row_major_slice(&lefts, height, dim),
                MatRef::from_row_major_slice(&rights, width, dim).transpose(),
                1.0,
                faer::get_global_parallelism(),
            );
            visit(&Block {
                left: i,
                right: j,
                height,
                values: &products,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_visited_once() {
        let count = SIDE + 3;
        let values: Vec<f64> = (0..count).map(|i| i as f64).collect();
        let rows = Rows::new(&values, 1).unwrap();
        let few = rows.range(5..9);
        let mut seen = vec![0u8; count * 4];
        across(rows, few, |block| {
            for (j, column) in block.columns().enumerate() {
                for (i, &product) in column.iter().enumerate() {
                    let (i, j) = (block.left + i, block.right + j);
                    assert_eq!(product, (i * (5 + j)) as f64);
                    seen[i * 4 + j] += 1;
                }
            }
        });
        assert!(seen.iter().all(|&times| times == 1));
        let mut pairs = 0;
        within(rows, |block| {
            let weight = if block.left == block.right { 1 } else { 2 };
            pairs += weight * block.columns().map(<[f64]>::len).sum::<usize>();
        });
        assert_eq!(pairs, count * count);
    }
}
