//! What the attention kernels are made of: tiles of rows in shared memory, products of two tiles in registers, and sums of
//! rows weighted by such products. A thread has every 16th row and every 8th column of a product, so that the threads of
//! a warp read few rows at once, and those from different banks of the memory.

use super::plan::{COLUMN_THREADS, ROW_THREADS, THREADS, Tiles};
use cubecl::prelude::*;

/// Numbers that are moved and multiplied together.
pub(super) type Four = Const<4>;

/// Below every score. WGSL cannot write infinity, and its exponential need not be zero near the end of f32.
pub(super) const LEAST: f32 = -1e30;

/// One of the tensors packed side by side in the rows of `data` `[batch, rows, stride]`, and how it is normalized.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Rows<F: Float> {
    /// All of them, in fours.
    pub(super) data: Array<Vector<F, Four>>,
    /// Mean and `1 / sqrt(variance + eps)` of every row `[batch, rows, 2]`, where it is normalized.
    pub(super) statistics: ComptimeOption<Array<f32>>,
    /// From a row to the next, in fours.
    pub(super) stride: usize,
    /// Of the tensor in the row, in fours.
    pub(super) offset: usize,
}

/// Which rows of a tensor a tile has.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Span {
    /// The first, among those of all samples.
    pub(super) first: usize,
    /// So many from there on are the sample's; the tile is zero after them.
    pub(super) count: usize,
}

/// The sample and the head that a cube of threads works on, and the rows of one side that are its own.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub(super) sample: usize,
    pub(super) head: usize,
    /// The tile's first row in the sample.
    pub(super) start: usize,
}

/// The place of a cube among those of all samples, heads and tiles of `rows` rows, of which a sample has `count`.
#[cube]
pub(super) fn place(count: usize, heads: usize, #[comptime] rows: usize) -> Place {
    let tiles = count.div_ceil(rows);
    let cube = CUBE_POS;
    Place {
        sample: cube / tiles / heads,
        head: cube / tiles % heads,
        start: cube % tiles * rows,
    }
}

/// From row `start` of the `count` of a sample to its end.
#[cube]
pub(super) fn span(sample: usize, start: usize, count: usize) -> Span {
    Span {
        first: sample * count + start,
        count: count - start,
    }
}

/// The thread's first row and column of a product.
#[cube]
pub(super) fn corner() -> (usize, usize) {
    let thread = UNIT_POS as usize;
    (thread / COLUMN_THREADS, thread % COLUMN_THREADS)
}

/// A tile for `rows` rows of a head.
#[cube]
pub(super) fn tile(
    #[comptime] rows: usize,
    #[comptime] tiles: Tiles,
) -> SharedMemory<Vector<f32, Four>> {
    SharedMemory::new(comptime!(rows * tiles.pitch()))
}

/// Loads `size` rows of a head, normalized and in f32.
#[cube]
pub(super) fn load<F: Float>(
    rows: &Rows<F>,
    tile: &mut SharedMemory<Vector<f32, Four>>,
    span: Span,
    head: usize,
    #[comptime] size: usize,
    #[comptime] tiles: Tiles,
) {
    let fours = comptime!(tiles.fours);
    let pitch = comptime!(tiles.pitch());
    let mut i = UNIT_POS as usize;
    while i < size * fours {
        let row = i / fours;
        let four = i % fours;
        let mut value = Vector::<f32, Four>::new(0.0);
        if row < span.count {
            let place = span.first + row;
            value = Vector::<f32, Four>::cast_from(
                rows.data[place * rows.stride + rows.offset + head * fours + four],
            );
            #[comptime]
            if let ComptimeOption::Some(statistics) = &rows.statistics {
                let mean = Vector::<f32, Four>::new(statistics[2 * place]);
                value = (value - mean) * Vector::<f32, Four>::new(statistics[2 * place + 1]);
            }
        }
        tile[row * pitch + four] = value;
        i += THREADS;
    }
}

/// The thread's part of `left right^T`, `[rows / 16, columns / 8]`.
#[cube]
pub(super) fn products(
    left: &SharedMemory<Vector<f32, Four>>,
    right: &SharedMemory<Vector<f32, Four>>,
    #[comptime] tiles: Tiles,
) -> Array<f32> {
    let rows = comptime!(tiles.own_rows());
    let columns = comptime!(tiles.own_columns());
    let pitch = comptime!(tiles.pitch());
    let (row, column) = corner();
    let mut sums = zeros(comptime!(rows * columns));
    let mut of_left = Array::<Vector<f32, Four>>::new(rows);
    for four in 0..comptime!(tiles.fours) {
        #[unroll]
        for i in 0..rows {
            of_left[i] = left[(row + i * ROW_THREADS) * pitch + four];
        }
        #[unroll]
        for j in 0..columns {
            let of_right = right[(column + j * COLUMN_THREADS) * pitch + four];
            #[unroll]
            for i in 0..rows {
                let one = of_left[i];
                let mut sum = sums[i * columns + j];
                #[unroll]
                for lane in 0..4usize {
                    sum += one[lane] * of_right[lane];
                }
                sums[i * columns + j] = sum;
            }
        }
    }
    sums
}

/// So many zeros.
#[cube]
pub(super) fn zeros(#[comptime] count: usize) -> Array<f32> {
    let mut values = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        values[i] = 0.0;
    }
    values
}

/// Sums of no row yet, for [`accumulate`]: the thread's rows, with every eighth four.
#[cube]
pub(super) fn no_sums(#[comptime] tiles: Tiles) -> Array<Vector<f32, Four>> {
    let count = comptime!(tiles.own_rows() * tiles.own_fours());
    let mut sums = Array::<Vector<f32, Four>>::new(count);
    #[unroll]
    for i in 0..count {
        sums[i] = Vector::<f32, Four>::new(0.0);
    }
    sums
}

/// The memory in which threads show each other their part of a product.
#[cube]
pub(super) fn shown(#[comptime] tiles: Tiles) -> SharedMemory<f32> {
    SharedMemory::new(comptime!(tiles.rows * tiles.shown_pitch()))
}

/// Shows the thread's part of a product.
#[cube]
pub(super) fn show(values: &Array<f32>, shown: &mut SharedMemory<f32>, #[comptime] tiles: Tiles) {
    let rows = comptime!(tiles.own_rows());
    let columns = comptime!(tiles.own_columns());
    let pitch = comptime!(tiles.shown_pitch());
    let (row, column) = corner();
    #[unroll]
    for i in 0..rows {
        #[unroll]
        for j in 0..columns {
            shown[(row + i * ROW_THREADS) * pitch + column + j * COLUMN_THREADS] =
                values[i * columns + j];
        }
    }
}

/// Adds the rows of `tile`, weighted by the product that was shown.
#[cube]
pub(super) fn accumulate(
    shown: &SharedMemory<f32>,
    tile: &SharedMemory<Vector<f32, Four>>,
    sums: &mut Array<Vector<f32, Four>>,
    #[comptime] tiles: Tiles,
) {
    let rows = comptime!(tiles.own_rows());
    let fours = comptime!(tiles.own_fours());
    let pitch = comptime!(tiles.pitch());
    let last = comptime!(tiles.fours - 1);
    let shown_pitch = comptime!(tiles.shown_pitch());
    let (row, column) = corner();
    let mut weights = Array::<Vector<f32, Four>>::new(rows);
    for k in 0..comptime!(tiles.columns) {
        #[unroll]
        for i in 0..rows {
            weights[i] = Vector::<f32, Four>::new(shown[(row + i * ROW_THREADS) * shown_pitch + k]);
        }
        #[unroll]
        for j in 0..fours {
            // Beyond the last four there is nothing to write, whatever is summed.
            let four = (column + j * COLUMN_THREADS).min(last);
            let value = tile[k * pitch + four];
            #[unroll]
            for i in 0..rows {
                sums[i * fours + j] += weights[i] * value;
            }
        }
    }
}

/// Multiplies the sums of each of the thread's rows.
#[cube]
pub(super) fn scale_rows(
    sums: &mut Array<Vector<f32, Four>>,
    factors: &Array<f32>,
    #[comptime] tiles: Tiles,
) {
    let rows = comptime!(tiles.own_rows());
    let fours = comptime!(tiles.own_fours());
    #[unroll]
    for i in 0..rows {
        let factor = Vector::<f32, Four>::new(factors[i]);
        #[unroll]
        for j in 0..fours {
            sums[i * fours + j] *= factor;
        }
    }
}

/// Writes the sums into rows of a head.
#[cube]
pub(super) fn store<F: Float>(
    sums: &Array<Vector<f32, Four>>,
    rows: &mut Rows<F>,
    span: Span,
    head: usize,
    #[comptime] tiles: Tiles,
) {
    let own = comptime!(tiles.own_rows());
    let fours = comptime!(tiles.own_fours());
    let (row, column) = corner();
    #[unroll]
    for i in 0..own {
        let row = row + i * ROW_THREADS;
        if row < span.count {
            let start =
                (span.first + row) * rows.stride + rows.offset + head * comptime!(tiles.fours);
            #[unroll]
            for j in 0..fours {
                let four = column + j * COLUMN_THREADS;
                if four < comptime!(tiles.fours) {
                    rows.data[start + four] = Vector::<F, Four>::cast_from(sums[i * fours + j]);
                }
            }
        }
    }
}

/// The sums, or the largest, of what all threads have for each of their rows.
#[cube]
pub(super) fn over_rows(
    values: &mut Array<f32>,
    shared: &mut SharedMemory<f32>,
    #[comptime] largest: bool,
    #[comptime] tiles: Tiles,
) {
    let rows = comptime!(tiles.own_rows());
    let (row, column) = corner();
    // Some threads may still be reading what was there before.
    sync_cube();
    #[unroll]
    for i in 0..rows {
        shared[(row + i * ROW_THREADS) * COLUMN_THREADS + column] = values[i];
    }
    sync_cube();
    #[unroll]
    for i in 0..rows {
        let start = (row + i * ROW_THREADS) * COLUMN_THREADS;
        let mut all = shared[start];
        #[unroll]
        for j in 1..COLUMN_THREADS {
            let other = shared[start + j];
            if largest {
                all = all.max(other);
            } else {
                all += other;
            }
        }
        values[i] = all;
    }
}
