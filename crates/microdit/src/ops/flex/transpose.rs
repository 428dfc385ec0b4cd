//! Blocks of matrices, transposed in registers.

use super::simd::simd;

/// Rows and columns of a block: the numbers of 32 bits in a vector of 512.
pub(super) const BLOCK: usize = 16;

/// A block of a matrix.
pub(super) type Block = [[u32; BLOCK]; BLOCK];

/// Transposes a block. The portable way is to be inlined into what [`simd`](super::simd::simd) runs.
#[inline(always)]
pub(super) fn transpose_block(block: &mut Block) {
    #[cfg(target_arch = "x86_64")]
    if avx512::found() {
        // SAFETY: the processor has AVX-512.
        return unsafe { avx512::transpose_block(block) };
    }
    shuffle(block);
}

/// Makes a block the transpose of up to [`BLOCK`] rows of as many numbers. What is not there stays what it is.
#[inline(always)]
pub(super) fn transpose_rows<'a>(rows: impl Iterator<Item = &'a [u32]>, block: &mut Block) {
    for (line, row) in block.iter_mut().zip(rows) {
        match row.first_chunk() {
            // Of a length that the compiler knows.
            Some(row) => *line = *row,
            None => line[..row.len()].copy_from_slice(row),
        }
    }
    transpose_block(block);
}

/// Writes a line of a block, or as much of it as there is room for.
#[inline(always)]
pub(super) fn write_line(line: &[u32; BLOCK], out: &mut [u32]) {
    match out.first_chunk_mut() {
        // Of a length that the compiler knows.
        Some(out) => *out = *line,
        None => {
            let count = out.len();
            out.copy_from_slice(&line[..count]);
        }
    }
}

/// Writes the transpose of `[rows, columns]`.
pub(super) fn transpose(matrix: &[u32], columns: usize, out: &mut [u32]) {
    let rows = matrix.len() / columns;
    simd(
        #[inline(always)]
        || {
            let mut block = [[0; BLOCK]; BLOCK];
            for row in (0..rows).step_by(BLOCK) {
                for column in (0..columns).step_by(BLOCK) {
                    let lines = matrix[row * columns..].chunks_exact(columns);
                    transpose_rows(lines.map(|line| &line[column..]), &mut block);
                    let lines = out[column * rows..].chunks_exact_mut(rows);
                    for (out, line) in lines.zip(&block) {
                        write_line(line, &mut out[row..]);
                    }
                }
            }
        },
    );
}

/// A perfect shuffle of the rows' elements, four times over, is the transpose.
#[inline(always)]
fn shuffle(block: &mut Block) {
    for _ in 0..BLOCK.ilog2() {
        let mut shuffled = [[0; BLOCK]; BLOCK];
        for i in 0..BLOCK / 2 {
            let (a, b) = (block[i], block[i + BLOCK / 2]);
            for j in 0..BLOCK / 2 {
                shuffled[2 * i][2 * j] = a[j];
                shuffled[2 * i][2 * j + 1] = b[j];
                shuffled[2 * i + 1][2 * j] = a[j + BLOCK / 2];
                shuffled[2 * i + 1][2 * j + 1] = b[j + BLOCK / 2];
            }
        }
        *block = shuffled;
    }
}

/// By the instructions that shuffle lanes: four times as fast as what the compiler makes of the loops above.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{BLOCK, Block};
    use std::{
        arch::x86_64::{
            __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_shuffle_f32x4,
            _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
            _mm512_unpacklo_ps,
        },
        array::from_fn,
    };

    /// Whether the processor has it.
    #[inline(always)]
    pub(in super::super) fn found() -> bool {
        !cfg!(miri) && is_x86_feature_detected!("avx512f")
    }

    /// The transpose of the rows of a block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turned(rows: [__m512; BLOCK]) -> [__m512; BLOCK] {
        // Elements of two neighboring rows side by side, ...
        let pairs: [__m512; BLOCK] = from_fn(|i| match i % 2 {
            0 => _mm512_unpacklo_ps(rows[i], rows[i + 1]),
            _ => _mm512_unpackhi_ps(rows[i - 1], rows[i]),
        });
        // ... of four, ...
        let wide = pairs.map(|pair| _mm512_castps_pd(pair));
        let fours: [__m512; BLOCK] = from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            _mm512_castpd_ps(match i % 2 {
                0 => _mm512_unpacklo_pd(wide[first], wide[first + 2]),
                _ => _mm512_unpackhi_pd(wide[first], wide[first + 2]),
            })
        });
        // ... and the four quarters of what four vectors of such fours hold.
        let mut columns = rows;
        for i in 0..4 {
            let [a, b, c, d] = [fours[i], fours[i + 4], fours[i + 8], fours[i + 12]];
            let (even, odd) = (
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(a, b),
            );
            let (even_below, odd_below) = (
                _mm512_shuffle_f32x4::<0x88>(c, d),
                _mm512_shuffle_f32x4::<0xdd>(c, d),
            );
            columns[i] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
            columns[i + 8] = _mm512_shuffle_f32x4::<0xdd>(even, even_below);
            columns[i + 4] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
            columns[i + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_below);
        }
        columns
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose_block(block: &mut Block) {
        // SAFETY: each line of the block is a vector.
        let rows = from_fn(|i| unsafe { _mm512_loadu_ps(block[i].as_ptr().cast()) });
        for (line, column) in block.iter_mut().zip(turned(rows)) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(line.as_mut_ptr().cast(), column) };
        }
    }

    /// Writes the transpose of `[rows, columns]`; rows of it and of `out` begin `stride` and `out_stride` apart.
    ///
    /// # Panics
    /// If a matrix ends before its last element.
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn transpose(
        matrix: &[f32],
        stride: usize,
        [rows, columns]: [usize; 2],
        out: &mut [f32],
        out_stride: usize,
    ) {
        let ends = |rows: usize, stride: usize, columns: usize| (rows - 1) * stride + columns;
        if rows == 0 || columns == 0 {
            return;
        }
        assert!(ends(rows, stride, columns) <= matrix.len());
        assert!(ends(columns, out_stride, rows) <= out.len());
        let whole = [rows, columns].map(|count| count / BLOCK * BLOCK);
        for row in (0..whole[0]).step_by(BLOCK) {
            for column in (0..whole[1]).step_by(BLOCK) {
                // SAFETY: the block lies inside of the matrix, as asserted.
                let lines = from_fn(|i| unsafe {
                    _mm512_loadu_ps(matrix.as_ptr().add((row + i) * stride + column))
                });
                for (i, line) in turned(lines).into_iter().enumerate() {
                    // SAFETY: its transpose lies inside of the output, as asserted.
                    unsafe {
                        let to = out.as_mut_ptr().add((column + i) * out_stride + row);
                        _mm512_storeu_ps(to, line);
                    }
                }
            }
        }
        for row in 0..rows {
            let first = if row < whole[0] { whole[1] } else { 0 };
            for column in first..columns {
                out[column * out_stride + row] = matrix[row * stride + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::array::from_fn;

    #[test]
    fn every_element_of_a_block_finds_its_place() {
        let block = from_fn(|i| from_fn(|j| (i * BLOCK + j) as u32));
        let expected: Block = from_fn(|i| from_fn(|j| (j * BLOCK + i) as u32));
        for transpose in [shuffle, transpose_block] {
            let mut found = block;
            transpose(&mut found);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn every_element_finds_its_place_in_a_matrix_of_any_size() {
        for [rows, columns] in [[1, 1], [16, 16], [15, 17], [16, 40], [33, 16], [50, 70]] {
            let matrix: Vec<u32> = (0..rows * columns).map(|i| i as u32).collect();
            let mut out = vec![0; matrix.len()];
            transpose(&matrix, columns, &mut out);
            for (i, &found) in out.iter().enumerate() {
                let (column, row) = (i / rows, i % rows);
                assert_eq!(found, (row * columns + column) as u32, "{rows} x {columns}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_element_of_a_matrix_finds_its_place() {
        if !avx512::found() {
            println!("skipped: no AVX-512");
            return;
        }
        for [rows, columns] in [[1, 1], [16, 16], [15, 17], [16, 40], [33, 16], [50, 70]] {
            let (stride, out_stride) = (columns + 3, rows + 2);
            let matrix: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            let mut out = vec![-1.0; columns * out_stride];
            // SAFETY: the processor has AVX-512.
            unsafe {
                avx512::transpose(&matrix, stride, [rows, columns], &mut out, out_stride);
            }
            for (i, &found) in out.iter().enumerate() {
                let (column, row) = (i / out_stride, i % out_stride);
                let expected = match row < rows {
                    true => (row * stride + column) as f32,
                    // Nothing is written between the rows.
                    false => -1.0,
                };
                assert_eq!(found, expected, "{rows} x {columns}: {row}, {column}");
            }
        }
    }
}
