//! How large the tiles of the attention kernels are, and whether a device has the memory for them.

use burn_cubecl::CubeRuntime;

/// Threads that share a column of a product, and those that share a row.
pub(super) const ROW_THREADS: usize = 16;
pub(super) const COLUMN_THREADS: usize = 8;
/// Threads of a cube. Every device has as many.
pub(super) const THREADS: usize = ROW_THREADS * COLUMN_THREADS;

/// Tensors that a kernel takes at most.
const BINDINGS: u32 = 9;

/// Sizes of head that the kernels are for. Larger ones need more registers than a thread has.
const HEAD_SIZES: std::ops::RangeInclusive<usize> = 32..=128;

/// Rows and columns of a product, the first choice first.
const CHOICES: [(usize, usize); 5] = [(64, 32), (32, 32), (32, 16), (16, 16), (16, 8)];

/// Sizes of a product of two tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiles {
    /// Its rows, those of the tiles that stay.
    pub(super) rows: usize,
    /// Its columns, the rows of the tiles that come and go.
    pub(super) columns: usize,
    /// Size of a head, in fours.
    pub(super) fours: usize,
}

impl Tiles {
    /// From a row of a tile to the next, in fours. Odd, so that neighbouring rows begin in different banks of the memory.
    pub(super) fn pitch(self) -> usize {
        self.fours | 1
    }

    /// From a row of a product in shared memory to the next.
    pub(super) fn shown_pitch(self) -> usize {
        self.columns + COLUMN_THREADS
    }

    /// Rows of a product that a thread has.
    pub(super) fn own_rows(self) -> usize {
        self.rows / ROW_THREADS
    }

    /// Columns of a product that a thread has.
    pub(super) fn own_columns(self) -> usize {
        self.columns / COLUMN_THREADS
    }

    /// Fours of a row that a thread sums.
    pub(super) fn own_fours(self) -> usize {
        self.fours.div_ceil(COLUMN_THREADS)
    }

    /// Bytes of shared memory with so many tiles of `rows` and of `columns`.
    fn memory(self, of_rows: usize, of_columns: usize) -> usize {
        let tiles = 4 * self.pitch() * (of_rows * self.rows + of_columns * self.columns);
        let between_threads = self.rows * (self.shown_pitch() + COLUMN_THREADS);
        size_of::<f32>() * (tiles + between_threads)
    }
}

/// The tiles of each kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::cube) struct Plan {
    pub(super) heads: usize,
    pub(super) forward: Tiles,
    pub(super) queries: Tiles,
    pub(super) keys: Tiles,
}

impl Plan {
    /// For heads side by side in `width` columns; nothing where the head's size or the device is not what the kernels are for.
    pub(in crate::ops::cube) fn new<R: CubeRuntime>(
        device: &R::Device,
        width: usize,
        heads: usize,
    ) -> Option<Self> {
        let head = width / heads;
        if !width.is_multiple_of(heads) || !head.is_multiple_of(4) || !HEAD_SIZES.contains(&head) {
            return None;
        }
        let hardware = R::client(device).properties().hardware.clone();
        if (hardware.max_units_per_cube as usize) < THREADS || hardware.max_bindings < BINDINGS {
            return None;
        }
        let largest = |of_rows, of_columns| {
            let tiles = CHOICES.iter().map(|&(rows, columns)| Tiles {
                rows,
                columns,
                fours: head / 4,
            });
            let memory = hardware.max_shared_memory_size;
            tiles
                .into_iter()
                .find(|tiles| tiles.memory(of_rows, of_columns) <= memory)
        };
        Some(Self {
            heads,
            forward: largest(1, 1)?,
            queries: largest(2, 1)?,
            keys: largest(2, 2)?,
        })
    }
}
