//! The pixels of an image that a convolution's kernel sees, as the columns of a matrix that is nowhere in memory (im2col).

use super::super::number::Number;
use std::array::from_fn;

/// Where the taps of a kernel lie, for every pixel of its output.
#[derive(Clone, Debug)]
pub(super) struct Patches {
    /// Height and width of the input.
    pub(super) input: [usize; 2],
    /// Height and width of the output.
    pub(super) output: [usize; 2],
    /// How many rows and columns of the input a step of the output moves.
    pub(super) stride: [usize; 2],
    /// Row and column of the input that each tap sees at the output's first pixel; outside of the input, it sees zeros.
    pub(super) taps: Vec<[isize; 2]>,
}

impl Patches {
    /// Pixels of the output.
    pub(super) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The first row and column that any tap sees.
    pub(super) fn corner(&self) -> [isize; 2] {
        from_fn(|i| self.taps.iter().map(|tap| tap[i]).min().unwrap_or(0))
    }

    /// What `tap` sees of a channel, for the output's pixels from `first` on.
    pub(super) fn row<N: Number>(&self, channel: &[N], tap: usize, first: usize, out: &mut [f32]) {
        let ([height, width], stride) = (self.input, self.stride[1]);
        let [top, left] = self.taps[tap];
        for (y, x, out) in Segments::new(first, self.output[1], out) {
            let row = top + (y * self.stride[0]) as isize;
            if !(0..height as isize).contains(&row) {
                out.fill(0.0);
                continue;
            }
            let row = &channel[row as usize * width..][..width];
            let [begin, end] = seen(left + (x * stride) as isize, stride, width, out.len());
            out[..begin].fill(0.0);
            out[end..].fill(0.0);
            if begin == end {
                continue;
            }
            let row = &row[(left + ((x + begin) * stride) as isize) as usize..];
            let out = &mut out[begin..end];
            match stride {
                1 => {
                    for (out, pixel) in out.iter_mut().zip(row) {
                        *out = pixel.wide();
                    }
                }
                2 => every_second(row, out),
                _ => {
                    for (out, pixel) in out.iter_mut().zip(row.iter().step_by(stride)) {
                        *out = pixel.wide();
                    }
                }
            }
        }
    }
}

/// The first of every two pixels, of which the last may be without a second: a stride that the compiler knows makes vectors.
fn every_second<N: Number>(row: &[N], out: &mut [f32]) {
    let Some((last, out)) = out.split_last_mut() else {
        return;
    };
    for (out, [pixel, _]) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *out = pixel.wide();
    }
    *last = row[2 * out.len()].wide();
}

/// Of `count` places that see every `stride`-th pixel from `first` on, which see one of `0..size`: from the first to behind the last.
fn seen(first: isize, stride: usize, size: usize, count: usize) -> [usize; 2] {
    let up_to = |pixel: isize| {
        ((pixel - first).max(0) as usize)
            .div_ceil(stride)
            .min(count)
    };
    [up_to(0), up_to(size as isize)]
}

/// The parts of a run of pixels that lie in one row each, with the row and the column of the first of them.
struct Segments<'a> {
    y: usize,
    x: usize,
    width: usize,
    rest: &'a mut [f32],
}

impl<'a> Segments<'a> {
    fn new(first: usize, width: usize, run: &'a mut [f32]) -> Self {
        Self {
            y: first / width,
            x: first % width,
            width,
            rest: run,
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (usize, usize, &'a mut [f32]);

    fn next(&mut self) -> Option<Self::Item> {
        let (y, x) = (self.y, self.x);
        let count = self.rest.len().min(self.width - x);
        let segment = self.rest.split_off_mut(..count)?;
        (self.y, self.x) = (y + 1, 0);
        (count > 0).then_some((y, x, segment))
    }
}
