//! The pixels that a kernel sees, laid out as rows of tiles.

use super::{
    super::{
        super::{
            bf16::{TILE, two_rows},
            buffer::Lines,
            number::Number,
            transpose::transpose_rows,
        },
        patches::Patches,
    },
    CHANNELS,
};
use std::array::from_fn;

/// Which pixels the taps of a kernel see.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) patches: &'a Patches,
    inputs: usize,
    /// Of channels of the input.
    pub(super) groups: usize,
    /// The first row and column that any tap sees at the output's first pixel, and how far behind them the last are.
    corner: [isize; 2],
    reach: [usize; 2],
    /// The taps, row after row and in a row from left to right, ...
    pub(super) order: Vec<usize>,
    /// ... and what they see.
    pub(super) runs: Vec<Run>,
}

/// Some taps, one after the other, that see one row, each as far behind the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Row and column behind the first that any tap sees.
    pub(super) first: [usize; 2],
    pub(super) count: usize,
    /// In columns.
    pub(super) step: usize,
}

impl Run {
    fn all(places: impl Iterator<Item = [usize; 2]>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for first @ [row, column] in places {
            match runs.last_mut() {
                Some(run) if run.first[0] == row && run.may_see(column) => {
                    run.step = (column - run.first[1]) / run.count;
                    run.count += 1;
                }
                _ => runs.push(Self {
                    first,
                    count: 1,
                    step: 0,
                }),
            }
        }
        runs
    }

    /// Whether the next tap, behind the last, may see a column.
    fn may_see(self, column: usize) -> bool {
        self.count == 1 || column == self.first[1] + self.count * self.step
    }
}

impl<'a> Seen<'a> {
    pub(super) fn by(inputs: usize, patches: &'a Patches) -> Self {
        let (corner, taps) = (patches.corner(), &patches.taps);
        let mut order: Vec<usize> = (0..taps.len()).collect();
        order.sort_unstable_by_key(|&tap| taps[tap]);
        let place = |tap: [isize; 2]| from_fn(|i| (tap[i] - corner[i]) as usize);
        let last = |i: usize| taps.iter().map(|&tap| place(tap)[i]).max();
        Self {
            patches,
            inputs,
            groups: inputs.div_ceil(CHANNELS),
            corner,
            reach: from_fn(|i| last(i).unwrap_or(0)),
            runs: Run::all(order.iter().map(|&tap| place(taps[tap]))),
            order,
        }
    }

    /// That a row of the output sees.
    pub(super) fn columns(&self) -> usize {
        (self.patches.output[1] - 1) * self.patches.stride[1] + self.reach[1] + 1
    }

    /// How many rows of the output see no more rows than there is room for, if any do.
    pub(super) fn output_rows(&self, room: usize) -> usize {
        let rows = room / (self.groups * self.columns() * TILE);
        rows.saturating_sub(self.reach[0]) / self.patches.stride[0]
    }

    /// What `rows` rows of the output see, from row `first` on: `[rows, groups of channels, columns, TILE]`.
    #[inline(always)]
    pub(super) fn lay_out<N: Number>(
        &self,
        image: &[N],
        first: usize,
        rows: usize,
        paired: &mut Lines<u32>,
        laid: &mut Lines<u32>,
    ) {
        let ([height, width], stride) = (self.patches.input, self.patches.stride[0]);
        let (groups, columns) = (self.groups, self.columns());
        let top = self.corner[0] + (first * stride) as isize;
        // The columns that are zeros before the image begins, and those of the image.
        let left = self.corner[1];
        let before = left.min(0).unsigned_abs().min(columns);
        let first = left.max(0) as usize;
        let count = width.saturating_sub(first).min(columns - before);
        let paired = paired.resized(TILE * count);
        let laid =
            laid.resized(((rows - 1) * stride + self.reach[0] + 1) * groups * columns * TILE);
        // All rows of some channels before the next ones, so that the processor knows what is read next. In loops: `for_each` would not
        // be compiled for wide vectors.
        for group in 0..groups {
            let rows = laid.chunks_exact_mut(columns * TILE);
            for (i, out) in rows.skip(group).step_by(groups).enumerate() {
                let row = top + i as isize;
                if count == 0 || !(0..height as isize).contains(&row) {
                    out.fill(0);
                    continue;
                }
                let (before, out) = out.split_at_mut(before * TILE);
                let (out, behind) = out.split_at_mut(count * TILE);
                before.fill(0);
                behind.fill(0);
                let first = row as usize * width + first;
                for (j, out) in paired.chunks_exact_mut(count).enumerate() {
                    let shape = [self.inputs, height * width];
                    two_rows(image, shape, group * TILE + j, first, out);
                }
                turn(paired, count, out);
            }
        }
    }
}

/// Pairs `[TILE, columns]` to `[columns, TILE]`.
#[inline(always)]
fn turn(paired: &[u32], columns: usize, out: &mut [u32]) {
    let (blocks, rest) = out.as_chunks_mut::<TILE>().0.as_chunks_mut::<TILE>();
    let rows = |block: usize| {
        let rows = paired.chunks_exact(columns);
        rows.map(move |pairs| &pairs[block * TILE..])
    };
    let whole = blocks.len();
    for (i, block) in blocks.iter_mut().enumerate() {
        transpose_rows(rows(i), block);
    }
    if !rest.is_empty() {
        let mut block = [[0; TILE]; TILE];
        transpose_rows(rows(whole), &mut block);
        rest.copy_from_slice(&block[..rest.len()]);
    }
}
