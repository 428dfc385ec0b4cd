//! What AMX computes, bit for bit but for subnormal numbers, on every processor.

use super::{Factors, Shape, TILE, Tiles};

/// Of another processor.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(in super::super::super) fn are_there() -> bool {
    false
}

/// Four tiles of sums.
#[derive(Debug)]
pub(in super::super::super) struct Model {
    shape: Shape,
    sums: [[[[f32; TILE]; TILE]; 2]; 2],
}

impl Model {
    /// Does something for every sum, which is in one of two rows and columns of tiles, and there in a row and a column.
    fn each(&mut self, mut of: impl FnMut([usize; 2], [usize; 2], &mut f32)) {
        let Shape { rows, columns } = self.shape;
        for (i, sums) in self.sums.iter_mut().enumerate() {
            for (j, sums) in sums.iter_mut().enumerate() {
                for (row, sums) in sums.iter_mut().take(rows[i]).enumerate() {
                    for (column, sum) in sums.iter_mut().take(columns[j]).enumerate() {
                        of([i, j], [row, column], sum);
                    }
                }
            }
        }
    }
}

/// Where a sum stands.
fn place([i, j]: [usize; 2], [row, column]: [usize; 2], stride: usize) -> usize {
    (TILE * i + row) * stride + TILE * j + column
}

impl Tiles for Model {
    fn take() -> Self {
        Self {
            shape: Shape {
                rows: [TILE; 2],
                columns: [TILE; 2],
            },
            sums: [[[[f32::NAN; TILE]; TILE]; 2]; 2],
        }
    }

    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]) {
        self.shape = Shape { rows, columns };
        self.sums = [[[[f32::NAN; TILE]; TILE]; 2]; 2];
    }

    fn begin(&mut self) {
        self.each(|_, _, sum| *sum = 0.0);
    }

    fn load(&mut self, sums: &[f32], stride: usize) {
        self.shape.assert_fits(sums, stride);
        self.each(|tile, at, sum| *sum = sums[place(tile, at, stride)]);
    }

    fn add(&mut self, factors: Factors<'_>) {
        self.shape.assert_has(&factors);
        let first = |pair: u32| f32::from_bits(pair << 16);
        let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        self.each(|[i, j], [row, column], sum| {
            for step in 0..factors.steps {
                let left = row * factors.left_stride + step * factors.left_step;
                let left = &factors.left[i][left..][..TILE];
                let mut sums = [0f32; 2];
                for (k, &left) in left.iter().enumerate() {
                    let right = (step * TILE + k) * factors.right_stride + column;
                    let right = factors.right[j][right];
                    sums[0] = first(left).mul_add(first(right), sums[0]);
                    sums[1] = second(left).mul_add(second(right), sums[1]);
                }
                *sum += sums[0] + sums[1];
            }
        });
    }

    fn store(&self, sums: &mut [f32], stride: usize) {
        self.shape.assert_fits(sums, stride);
        let Shape { rows, columns } = self.shape;
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for (row, found) in self.sums[i][j].iter().take(rows[i]).enumerate() {
                let first = place([i, j], [row, 0], stride);
                sums[first..][..columns[j]].copy_from_slice(&found[..columns[j]]);
            }
        }
    }
}
