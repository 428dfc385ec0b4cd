//! Resizing of pictures, equal to Pillow's (version 13) to the last bit.
//!
//! A network that was trained on pictures Pillow made smaller sees other pictures if they are made smaller differently, and
//! metrics of its features differ measurably (arXiv 2104.11222). Pillow resamples along one axis after the other; levels of
//! 8 bits are weighted in fixed point and rounded after each.

use std::ops::Range;

/// Red, green and blue.
const CHANNELS: usize = 3;

/// A kernel, which is stretched where a picture becomes smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Means of pixels.
    Box,
    /// Linear interpolation.
    Bilinear,
    /// A Hamming window over the sinc function, of the size of `Bilinear`.
    Hamming,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// The sinc function in a window of three of its lobes.
    Lanczos,
}

impl Filter {
    /// Source pixels on each side of an output pixel's center that have a weight, when the picture keeps its size.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight of a source pixel at distance `x` from the output pixel's center.
    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| match x * std::f64::consts::PI {
            0.0 => 1.0,
            x => x.sin() / x,
        };
        let distance = x.abs();
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming if distance >= 1.0 => 0.0,
            // Pillow holds these two factors in single precision.
            Self::Hamming => {
                let window = (distance * std::f64::consts::PI).cos();
                sinc(distance) * (f64::from(0.54f32) + f64::from(0.46f32) * window)
            }
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => {
                -0.5 * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// Source pixels along one axis and their weights in an output pixel, which add up to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Taps<W> {
    /// The first source pixel.
    pub first: usize,
    /// Its weight and those of the pixels after it.
    pub weights: Vec<W>,
}

/// A new size for a picture, and the part of the resized picture that is wanted: only that is computed.
///
/// ```
/// use microdit::picture::{Filter, Resample};
///
/// // Of a picture of 2 x 4 pixels, the right half of what it becomes at double size.
/// let resample = Resample { part: [0..4, 4..8], ..Resample::to([4, 8], Filter::Bicubic) };
/// let gray = vec![200u8; 2 * 4 * 3];
/// assert_eq!(resample.apply(&gray, [2, 4]), vec![200u8; 4 * 4 * 3]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resample {
    /// Height and width of the resized picture, in pixels.
    pub to: [usize; 2],
    /// Rows and columns of it that are wanted.
    pub part: [Range<usize>; 2],
    /// The kernel.
    pub filter: Filter,
}

impl Resample {
    /// To height and width `to`, all of it.
    pub fn to(to: [usize; 2], filter: Filter) -> Self {
        Self {
            to,
            part: to.map(|side| 0..side),
            filter,
        }
    }

    /// A picture of height and width `from` so that its shorter side has `size` pixels; the longer one is cut, not rounded.
    ///
    /// # Panics
    /// If a side of `from` is 0.
    pub fn shorter_side(from: [usize; 2], size: usize, filter: Filter) -> Self {
        let short = from[0].min(from[1]);
        Self::to(from.map(|side| size * side / short), filter)
    }

    /// The middle of it, `height` x `width` pixels; where that lies between two pixels, at the even one, as in torchvision.
    ///
    /// # Panics
    /// If it is smaller.
    #[must_use]
    pub fn center(self, size: [usize; 2]) -> Self {
        let part = [0, 1].map(|axis| {
            let (whole, side) = (self.to[axis], size[axis]);
            assert!(side <= whole, "{whole} pixels do not hold {side}");
            let start = ((whole - side) as f64 / 2.0).round_ties_even() as usize;
            start..start + side
        });
        Self { part, ..self }
    }

    /// The source pixels of each wanted output pixel along an axis (0 for rows, 1 for columns) of `from` pixels.
    ///
    /// # Panics
    /// If there are no pixels, or the part is not within the resized picture.
    pub fn taps(&self, axis: usize, from: usize) -> Vec<Taps<f64>> {
        let (to, part) = (self.to[axis], self.part[axis].clone());
        assert!(from > 0 && part.end <= to, "{part:?} of {to} from {from}");
        if from == to {
            let one = |first| Taps {
                first,
                weights: vec![1.0],
            };
            return part.map(one).collect();
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = self.filter.support() * stretch;
        let taps = |at: usize| {
            let center = (at as f64 + 0.5) * scale;
            // Casts cut at 0.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weight = |x: usize| {
                let distance = x as f64 - center + 0.5;
                self.filter.weight(distance * (1.0 / stretch))
            };
            let mut weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            for weight in &mut weights {
                *weight /= sum;
            }
            Taps { first, weights }
        };
        part.map(taps).collect()
    }

    /// Resizes a picture of height and width `from`: red, green and blue of each pixel, row by row.
    ///
    /// # Panics
    /// If `levels` are not of such a picture, it has no pixels, or the part is not within the resized one.
    pub fn apply<T: Level>(&self, levels: &[T], from: [usize; 2]) -> Vec<T> {
        let [height, width] = from;
        assert_eq!(levels.len(), height * width * CHANNELS, "{from:?} pixels");
        let mut taps = [0, 1].map(|axis| {
            let taps = self.taps(axis, from[axis]).into_iter();
            let fixed = taps.map(|taps| Taps {
                first: taps.first,
                weights: taps.weights.into_iter().map(T::weight).collect(),
            });
            fixed.collect::<Vec<Taps<T::Weight>>>()
        });
        // The first pass leaves out what the second does not need.
        let second = usize::from(self.rows_first(from));
        let used = used(&taps[second]);
        for taps in &mut taps[second] {
            taps.first -= used.start;
        }
        let [rows, columns] = &taps;
        pulp::Arch::new().dispatch(|| {
            if second == 1 {
                let part = down(levels, width, &used, rows);
                across(&part, used.len(), &(0..rows.len()), columns)
            } else {
                let part = across(levels, width, &used, columns);
                down(&part, columns.len(), &(0..columns.len()), rows)
            }
        })
    }

    /// Whether columns of pixels are resampled before rows of them: so Pillow does since version 13 where the height shrinks by more
    /// than twice as many pixels as the width.
    fn rows_first(&self, [height, width]: [usize; 2]) -> bool {
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let (down, across) = (shrinks(height, self.to[0]), shrinks(width, self.to[1]));
        down > 0 && down > 2 * across
    }
}

/// From the first source pixel to the last.
fn used<W>(taps: &[Taps<W>]) -> Range<usize> {
    let first = taps.iter().map(|taps| taps.first).min();
    let end = taps
        .iter()
        .map(|taps| taps.first + taps.weights.len())
        .max();
    first.unwrap_or(0)..end.unwrap_or(0)
}

/// Resamples the `columns` of a picture of `width` pixels along its height.
#[inline(always)]
fn down<T: Level>(
    levels: &[T],
    width: usize,
    columns: &Range<usize>,
    rows: &[Taps<T::Weight>],
) -> Vec<T> {
    let mut resized = Vec::with_capacity(rows.len() * columns.len() * CHANNELS);
    let mut sums = vec![T::START; columns.len() * CHANNELS];
    for taps in rows {
        sums.fill(T::START);
        for (row, &weight) in (taps.first..).zip(&taps.weights) {
            let row = &levels[(row * width + columns.start) * CHANNELS..][..sums.len()];
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum = level.add(weight, *sum);
            }
        }
        resized.extend(sums.iter().map(|&sum| T::finish(sum)));
    }
    resized
}

/// Rows that are resampled side by side, and the levels of a column of them.
const ROWS: usize = 8;
const LANES: usize = ROWS * CHANNELS;

/// Resamples the `rows` of a picture of `width` pixels along its width.
#[inline(always)]
fn across<T: Level>(
    levels: &[T],
    width: usize,
    rows: &Range<usize>,
    columns: &[Taps<T::Weight>],
) -> Vec<T> {
    let mut resized = vec![T::default(); rows.len() * columns.len() * CHANNELS];
    let source = &levels[rows.start * width * CHANNELS..rows.end * width * CHANNELS];
    // Turned, so that a weight multiplies neighbors in memory.
    let mut turned = vec![[T::default(); LANES]; width];
    let blocks = source
        .chunks(ROWS * width * CHANNELS)
        .zip(resized.chunks_mut(ROWS * columns.len() * CHANNELS));
    for (block, resized) in blocks {
        for (i, row) in block.chunks_exact(width * CHANNELS).enumerate() {
            for (column, pixel) in turned.iter_mut().zip(row.chunks_exact(CHANNELS)) {
                column[i * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
            }
        }
        for (x, taps) in columns.iter().enumerate() {
            let mut sums = [T::START; LANES];
            for (column, &weight) in turned[taps.first..].iter().zip(&taps.weights) {
                for (sum, &level) in sums.iter_mut().zip(column) {
                    *sum = level.add(weight, *sum);
                }
            }
            let rows = resized.chunks_exact_mut(columns.len() * CHANNELS);
            for (row, sums) in rows.zip(sums.chunks_exact(CHANNELS)) {
                for (level, &sum) in row[x * CHANNELS..].iter_mut().zip(sums) {
                    *level = T::finish(sum);
                }
            }
        }
    }
    resized
}

/// How bright a color of a pixel is: 8 bits, whose sums are of fixed-point numbers, or single precision, whose sums are of double
/// precision (Pillow's modes RGB and F).
pub trait Level: Copy + Default + level::Sum {}

impl Level for u8 {}
impl Level for f32 {}

mod level {
    /// A weighted sum of levels.
    pub trait Sum {
        type Weight: Copy;
        type Value: Copy;
        const START: Self::Value;
        fn weight(weight: f64) -> Self::Weight;
        fn add(self, weight: Self::Weight, sum: Self::Value) -> Self::Value;
        fn finish(sum: Self::Value) -> Self;
    }

    /// Fractional bits of sums of 8-bit levels.
    const BITS: u32 = 22;

    impl Sum for u8 {
        type Weight = i32;
        type Value = i32;
        /// A half, so that cutting rounds.
        const START: i32 = 1 << (BITS - 1);

        fn weight(weight: f64) -> i32 {
            (weight * f64::from(1 << BITS)).round() as i32
        }

        #[inline(always)]
        fn add(self, weight: i32, sum: i32) -> i32 {
            sum + i32::from(self) * weight
        }

        #[inline(always)]
        fn finish(sum: i32) -> u8 {
            (sum >> BITS).clamp(0, 255) as u8
        }
    }

    impl Sum for f32 {
        type Weight = f64;
        type Value = f64;
        const START: f64 = 0.0;

        fn weight(weight: f64) -> f64 {
            weight
        }

        #[inline(always)]
        fn add(self, weight: f64, sum: f64) -> f64 {
            sum + f64::from(self) * weight
        }

        #[inline(always)]
        fn finish(sum: f64) -> f32 {
            sum as f32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<u8> {
        let hash = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8;
        (0..count).map(hash).collect()
    }

    #[test]
    fn the_center_is_where_torchvision_cuts() {
        let center = |to: [usize; 2], size| Resample::to(to, Filter::Box).center([size; 2]).part;
        // (7 - 4) / 2 = 1.5 goes to 2, (5 - 4) / 2 = 0.5 to 0, as Python rounds.
        assert_eq!(center([7, 5], 4), [2..6, 0..4]);
        assert_eq!(center([4, 7], 2), [1..3, 2..4]);
    }

    #[test]
    fn a_part_is_what_it_is_in_the_whole() {
        for (from, to) in [
            ([31, 20], [17, 29]),
            ([9, 40], [20, 23]),
            ([70, 8], [12, 7]),
        ] {
            let levels = noise(from[0] * from[1] * CHANNELS);
            let whole = Resample::to(to, Filter::Lanczos);
            let part = Resample {
                part: [3..11, 2..7],
                ..whole.clone()
            };
            let whole = whole.apply(&levels, from);
            let expected: Vec<u8> = (3..11)
                .flat_map(|row| whole[(row * to[1] + 2) * CHANNELS..][..5 * CHANNELS].to_vec())
                .collect();
            assert_eq!(part.apply(&levels, from), expected, "{from:?} to {to:?}");
        }
    }

    /// The part of a long strip takes no more memory than any other picture.
    #[test]
    fn strips_are_resampled_where_they_are_seen() {
        let (height, width) = (2, 30_000);
        let strip: Vec<u8> = (0..height * width * CHANNELS)
            .map(|i| (i / CHANNELS % width / 118) as u8)
            .collect();
        let square = Resample::shorter_side([height, width], 64, Filter::Bicubic).center([64; 2]);
        let middle = square.apply(&strip, [height, width]);
        assert_eq!(middle.len(), 64 * 64 * CHANNELS);
        assert!(
            middle
                .iter()
                .all(|level| level.abs_diff((15_000 / 118) as u8) <= 1)
        );
    }

    #[test]
    fn weights_add_up_to_one() {
        for filter in [
            Filter::Box,
            Filter::Bilinear,
            Filter::Hamming,
            Filter::Bicubic,
            Filter::Lanczos,
        ] {
            for (from, to) in [(50, 7), (7, 50), (1, 9), (9, 1)] {
                for taps in Resample::to([to, to], filter).taps(0, from) {
                    let sum: f64 = taps.weights.iter().sum();
                    assert!(
                        (sum - 1.0).abs() < 1e-12,
                        "{filter:?} {from} to {to}: {sum}"
                    );
                }
            }
        }
    }
}
