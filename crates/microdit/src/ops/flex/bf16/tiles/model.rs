//! What AMX computes, bit for bit but for subnormal numbers, on every processor.

use super::{Block, TILE, Tiles};

/// Of another processor.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(in super::super::super) fn are_there() -> bool {
    false
}

/// Tiles of their shapes.
#[derive(Debug)]
pub(in super::super::super) struct Model {
    rows: [usize; 2],
    columns: [usize; 2],
}

impl Tiles for Model {
    fn take() -> Self {
        Self {
            rows: [1; 2],
            columns: [1; 2],
        }
    }

    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]) {
        (self.rows, self.columns) = (rows, columns);
    }

    fn add(&mut self, block: Block<'_>) {
        block.assert_fits(self.rows, self.columns);
        let number = [
            |pair| f32::from_bits(pair << 16),
            |pair: u32| f32::from_bits(pair & 0xffff_0000),
        ];
        for (i, (left, &rows)) in block.left.iter().zip(&self.rows).enumerate() {
            for (j, (right, &columns)) in block.right.iter().zip(&self.columns).enumerate() {
                for (row, column) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                    let place = (TILE * i + row) * block.sums_stride + TILE * j + column;
                    let sum = &mut block.sums[place];
                    if block.begins {
                        *sum = 0.0;
                    }
                    for step in 0..block.steps {
                        let left = &left[row * block.left_stride + step * block.left_step..];
                        let [first, second] = number.map(|number| {
                            (0..TILE).fold(0f32, |sum, k| {
                                let right = right[(step * TILE + k) * block.right_stride + column];
                                number(left[k]).mul_add(number(right), sum)
                            })
                        });
                        *sum += first + second;
                    }
                }
            }
        }
    }
}
