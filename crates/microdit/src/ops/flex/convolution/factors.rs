//! What a convolution multiplies where it is a product: images, packed as its kernel sees them.

use super::{
    super::{number::Number, simd::simd},
    packed::{Columns, Factors, INNER, PANEL},
    patches::Patches,
    terms::Term,
};
use std::array::from_fn;

/// Weights `[output, input x taps]` times patches `[input x taps, pixels]` of every image.
pub(super) struct Forward<'a, N, T> {
    /// In rows of terms.
    pub(super) weight: &'a [T],
    pub(super) x: &'a [N],
    pub(super) inputs: usize,
    pub(super) patches: &'a Patches,
}

impl<N, T: Term> Forward<'_, N, T> {
    /// What a pixel of the output is summed of.
    fn rows(&self) -> usize {
        self.inputs * self.patches.taps.len()
    }

    fn terms(&self) -> usize {
        self.rows().div_ceil(T::NUMBERS)
    }
}

impl<N: Number, T: Term> Factors<T> for Forward<'_, N, T> {
    fn blocks(&self) -> usize {
        self.terms().div_ceil(INNER)
    }

    fn inner(&self, block: usize) -> usize {
        INNER.min(self.terms() - block * INNER)
    }

    fn left(&self, block: usize) -> (&[T], usize) {
        (&self.weight[block * INNER..], self.terms())
    }

    fn pack(&self, columns: Columns, block: usize, out: &mut [T]) {
        let (size, taps) = (self.patches.input, self.patches.taps.len());
        let size = size[0] * size[1];
        let image = &self.x[columns.run * self.inputs * size..];
        let fill = |row: usize, out: &mut [f32; PANEL]| {
            let (out, rest) = out.split_at_mut(columns.count);
            rest.fill(0.0);
            if row == self.rows() {
                // Nothing stands beside the last row of an odd number.
                return out.fill(0.0);
            }
            let channel = &image[row / taps * size..][..size];
            self.patches.row(channel, row % taps, columns.first, out);
        };
        simd(
            #[inline(always)]
            || {
                let rows = out.as_chunks_mut::<PANEL>().0.iter_mut();
                for (term, out) in (block * INNER..).zip(rows) {
                    T::across(
                        out,
                        #[inline(always)]
                        |i, out| fill(term * T::NUMBERS + i, out),
                    );
                }
            },
        );
    }
}

/// The output's gradient `[output, pixels]` times the patches turned around `[pixels, input x taps]`, over all images.
pub(super) struct WeightGradient<'a> {
    pub(super) grad: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) batch: usize,
    pub(super) channels: [usize; 2],
    pub(super) patches: &'a Patches,
}

impl WeightGradient<'_> {
    fn blocks_per_image(&self) -> usize {
        self.patches.pixels().div_ceil(INNER)
    }

    /// The image of a block, and its first pixel.
    fn place(&self, block: usize) -> (usize, usize) {
        let blocks = self.blocks_per_image();
        (block / blocks, block % blocks * INNER)
    }
}

impl Factors<f32> for WeightGradient<'_> {
    fn blocks(&self) -> usize {
        self.batch * self.blocks_per_image()
    }

    fn inner(&self, block: usize) -> usize {
        INNER.min(self.patches.pixels() - self.place(block).1)
    }

    fn left(&self, block: usize) -> (&[f32], usize) {
        let (image, first) = self.place(block);
        let pixels = self.patches.pixels();
        let image = image * self.channels[1] * pixels;
        (&self.grad[image + first..], pixels)
    }

    fn pack(&self, columns: Columns, block: usize, out: &mut [f32]) {
        let ((image, first), taps) = (self.place(block), self.patches.taps.len());
        let size = self.patches.input[0] * self.patches.input[1];
        let image = &self.x[image * self.channels[0] * size..];
        let mut rows = [[0.0; PIXELS]; PANEL];
        for (i, out) in out.chunks_mut(PIXELS * PANEL).enumerate() {
            let pixels = out.len() / PANEL;
            for (column, row) in (columns.first..).zip(&mut rows[..columns.count]) {
                let channel = &image[column / taps * size..][..size];
                let row = &mut row[..pixels];
                self.patches
                    .row(channel, column % taps, first + i * PIXELS, row);
            }
            simd(
                #[inline(always)]
                || transpose(&rows, out),
            );
        }
    }
}

/// Pixels that are turned around at a time, in the nearest cache.
const PIXELS: usize = 64;

/// The first columns of `rows`, one after the other.
#[inline(always)]
fn transpose(rows: &[[f32; PIXELS]; PANEL], columns: &mut [f32]) {
    /// Rows and columns of a block that is turned around in registers.
    const BLOCK: usize = 4;
    let (columns, _) = columns.as_chunks_mut::<PANEL>();
    for (i, columns) in columns.chunks_mut(BLOCK).enumerate() {
        for (j, rows) in rows.as_chunks::<BLOCK>().0.iter().enumerate() {
            let block: [[f32; BLOCK]; BLOCK] =
                from_fn(|row| from_fn(|column| rows[row][i * BLOCK + column]));
            for (column, out) in columns.iter_mut().enumerate() {
                let out = &mut out[j * BLOCK..][..BLOCK];
                out.copy_from_slice(&block.map(|row| row[column]));
            }
        }
    }
}
