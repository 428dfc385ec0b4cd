//! From pictures of any size to what a vision transformer takes: resized, cut in the middle, normalized.

use super::resample::{antialiased, resample};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use image::RgbImage;
use microdit::picture::{Filter, Resample};
use rayon::prelude::*;
use std::{fmt, ops::Range};

/// How pictures are resized before they are cut to a network's size, `[height, width]` in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Not at all.
    Keep,
    /// To this height and width, whatever the aspect ratio.
    Squash([usize; 2]),
    /// So that the shorter side has this many pixels; the longer one is cut, not rounded.
    Shorter(usize),
    /// So that the picture just covers this height and width; its sides are rounded.
    Cover([usize; 2]),
    /// So that the picture just fits into this height and width; its sides are rounded.
    Within([usize; 2]),
}

/// Which pixels the middle of a picture is, where it lies between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// The even one of both; a small picture is padded by less before it than after: torchvision, open_clip.
    Even,
    /// The one before; a small picture is padded by more before it than after: transformers.
    Before,
}

/// How a network wants its pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// How they are resized.
    pub fit: Fit,
    /// The kernel, stretched where a picture becomes smaller.
    pub filter: Filter,
    /// Height and width the network takes: the middle of the resized picture, with black around it where it is smaller.
    pub size: [usize; 2],
    /// Which pixels are the middle.
    pub corner: Corner,
    /// What levels of 0 to 255 are multiplied by.
    pub factor: f64,
    /// What is subtracted after that, for red, green and blue.
    pub mean: [f64; 3],
    /// What the difference is divided by.
    pub std: [f64; 3],
}

/// One axis of a picture: the part of the resized picture that is kept, and pixels of padding before it.
struct Cut {
    part: Range<usize>,
    before: usize,
}

impl Preparation {
    /// The mean and standard deviation of CLIP's training images.
    pub const CLIP: [[f64; 3]; 2] = [
        [0.481_454_66, 0.457_827_5, 0.408_210_73],
        [0.268_629_54, 0.261_302_58, 0.275_777_11],
    ];

    /// Those of ImageNet.
    pub const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

    /// As OpenAI's own code for CLIP prepares pictures, at this height and width.
    pub fn openai(size: [usize; 2]) -> Self {
        let [mean, std] = Self::CLIP;
        Self {
            fit: Fit::Shorter(size[0].min(size[1])),
            filter: Filter::Bicubic,
            size,
            corner: Corner::Even,
            factor: 1.0 / 255.0,
            mean,
            std,
        }
    }

    /// Pictures to the network's input `[batch, 3, height, width]`: resized as Pillow does, rounded to 8 bits.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn pictures<B: Backend>(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 4> {
        let [height, width] = self.size;
        let values: Vec<f32> = images
            .par_iter()
            .flat_map_iter(|i| self.picture(i))
            .collect();
        let shape = [images.len(), 3, height, width];
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn picture(&self, image: &RgbImage) -> Vec<f32> {
        let from = [image.height() as usize, image.width() as usize];
        let (resample, before) = self.resample(from);
        let levels = resample.apply(image.as_raw(), from);
        let [height, width] = self.size;
        let columns = resample.part[1].len();
        let mut values = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            let table: Vec<f32> = (0..=255)
                .map(|level| self.value(f64::from(level), channel) as f32)
                .collect();
            let start = values.len();
            values.resize(start + height * width, table[0]);
            let plane = values[start..].chunks_exact_mut(width).skip(before[0]);
            for (row, levels) in plane.zip(levels.chunks_exact(3 * columns)) {
                let pixels = row[before[1]..].iter_mut().zip(levels.chunks_exact(3));
                pixels.for_each(|(value, pixel)| *value = table[usize::from(pixel[channel])]);
            }
        }
        values
    }

    fn value(&self, level: f64, channel: usize) -> f64 {
        (level * self.factor - self.mean[channel]) / self.std[channel]
    }

    /// The same for images `[batch, 3, height, width]` in 0..1, differentiable: nothing is rounded or clipped, so that the result differs
    /// from that of 8-bit pictures by a level or two, and by more where the kernel overshoots black or white.
    ///
    /// # Panics
    /// If the images have no pixels.
    pub fn images<B: Backend>(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = images.dims();
        let device = images.device();
        let (plan, before) = self.resample([height, width]);
        let rows = antialiased(&plan.taps(0, height), height);
        let columns = antialiased(&plan.taps(1, width), width);
        let mut images = resample(images, &rows, &columns);
        for axis in [0, 1] {
            let after = self.size[axis] - before[axis] - plan.part[axis].len();
            images = pad(images, 2 + axis, [before[axis], after]);
        }
        let channel = |f: &dyn Fn(usize) -> f64| -> Tensor<B, 4> {
            let values: Vec<f32> = (0..3).map(|i| f(i) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 3, 1, 1]), &device)
        };
        let factor = channel(&|i| 255.0 * self.factor / self.std[i]);
        let summand = channel(&|i| -self.mean[i] / self.std[i]);
        images * factor + summand
    }

    /// What becomes of a picture of height and width `from`, and the padding before it.
    fn resample(&self, from: [usize; 2]) -> (Resample, [usize; 2]) {
        let resized = match self.fit {
            Fit::Keep => Resample::to(from, self.filter),
            Fit::Squash(to) => Resample::to(to, self.filter),
            Fit::Shorter(size) => Resample::shorter_side(from, size, self.filter),
            Fit::Cover(to) => self.scaled(from, to, f64::min),
            Fit::Within(to) => self.scaled(from, to, f64::max),
        };
        let [rows, columns] = [0, 1].map(|axis| self.cut(resized.to[axis], self.size[axis]));
        let before = [rows.before, columns.before];
        let part = [rows.part, columns.part];
        (Resample { part, ..resized }, before)
    }

    /// By one ratio along both axes: the smaller or larger of those that make either side fit.
    fn scaled(&self, from: [usize; 2], to: [usize; 2], choose: fn(f64, f64) -> f64) -> Resample {
        let ratio = |axis: usize| from[axis] as f64 / to[axis] as f64;
        let ratio = choose(ratio(0), ratio(1));
        let side = |side: usize| (side as f64 / ratio).round_ties_even().max(1.0) as usize;
        Resample::to(from.map(side), self.filter)
    }

    fn cut(&self, whole: usize, size: usize) -> Cut {
        if whole < size {
            let rest = size - whole;
            let before = match self.corner {
                Corner::Even => rest / 2,
                Corner::Before => rest.div_ceil(2),
            };
            return Cut {
                part: 0..whole,
                before,
            };
        }
        let rest = (whole - size) as f64 / 2.0;
        let start = match self.corner {
            Corner::Even => rest.round_ties_even(),
            Corner::Before => rest.floor(),
        } as usize;
        Cut {
            part: start..start + size,
            before: 0,
        }
    }

    /// Checks numbers that come from a file.
    pub(super) fn check(&self) -> Result<(), String> {
        const MAX_SIDE: usize = 1 << 14;
        let [height, width] = self.size;
        let mut sides = vec![("height", height), ("width", width)];
        match self.fit {
            Fit::Keep => {}
            Fit::Shorter(side) => sides.push(("shortest_edge", side)),
            Fit::Squash(to) | Fit::Cover(to) | Fit::Within(to) => {
                sides.extend(to.map(|side| ("size", side)));
            }
        }
        for (key, side) in sides {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(format!(
                    "{key} of the prepared pictures is {side}; expected 1 to {MAX_SIDE}"
                ));
            }
        }
        let numbers = self.mean.iter().chain(&self.std).chain([&self.factor]);
        if let Some(number) = numbers.into_iter().find(|number| !number.is_finite()) {
            return Err(format!("a mean, std or factor of pictures is {number}"));
        }
        if self.std.contains(&0.0) {
            return Err("a std of pictures is 0, which they are divided by".into());
        }
        Ok(())
    }
}

/// Zeros before and after the images along a dimension.
fn pad<B: Backend>(images: Tensor<B, 4>, dim: usize, counts: [usize; 2]) -> Tensor<B, 4> {
    let (mut shape, device) = (images.dims(), images.device());
    let [before, after] = counts.map(|count| {
        shape[dim] = count;
        (count > 0).then(|| Tensor::zeros(shape, &device))
    });
    let parts = [before, Some(images), after];
    Tensor::cat(parts.into_iter().flatten().collect(), dim)
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = format!("{:?}", self.filter).to_lowercase();
        let [height, width] = self.size;
        match self.fit {
            Fit::Keep => write!(f, "not resized")?,
            Fit::Squash([height, width]) => write!(f, "squashed to {height} x {width}, {filter}")?,
            Fit::Shorter(side) => write!(f, "shorter side to {side}, {filter}")?,
            Fit::Cover([height, width]) => write!(f, "covering {height} x {width}, {filter}")?,
            Fit::Within([height, width]) => write!(f, "within {height} x {width}, {filter}")?,
        }
        match self.fit {
            Fit::Squash(to) if to == self.size => Ok(()),
            _ => write!(f, ", the middle {height} x {width}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    fn preparation(fit: Fit, corner: Corner) -> Preparation {
        Preparation {
            fit,
            filter: Filter::Bicubic,
            size: [8, 6],
            corner,
            factor: 1.0 / 255.0,
            mean: [0.25; 3],
            std: [0.5; 3],
        }
    }

    /// Smooth and far from black and white, where neither rounding nor clipping counts for much.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let level = |phase: f64| {
                128.0 + 60.0 * (f64::from(x) * 0.2 + f64::from(y) * 0.13 + phase).sin()
            };
            image::Rgb([0.0, 1.0, 2.0].map(|phase| level(phase) as u8))
        })
    }

    #[test]
    fn differentiable_images_become_what_pictures_become() {
        let device = Default::default();
        let fits = [
            Fit::Keep,
            Fit::Squash([8, 6]),
            Fit::Shorter(8),
            Fit::Cover([8, 6]),
            Fit::Within([8, 6]),
        ];
        for fit in fits {
            for (width, height) in [(20, 13), (9, 31), (5, 4), (7, 9)] {
                for corner in [Corner::Even, Corner::Before] {
                    let preparation = preparation(fit, corner);
                    let picture = picture(width, height);
                    let levels: Vec<f32> = picture
                        .as_raw()
                        .iter()
                        .map(|&l| f32::from(l) / 255.0)
                        .collect();
                    let shape = [1, height as usize, width as usize, 3];
                    let image: Tensor<Flex, 4> =
                        Tensor::from_data(TensorData::new(levels, shape), &device);
                    let found = preparation.images(image.permute([0, 3, 1, 2]));
                    let expected = preparation.pictures::<Flex>(&[picture], &device);
                    assert_eq!(found.dims(), [1, 3, 8, 6]);
                    let error = (found - expected).abs().max().into_scalar();
                    // 1.2 levels: each of two passes rounds.
                    assert!(error < 1.2 / 127.5, "{fit:?} {width} x {height}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_middle_is_each_librarys() {
        let cut = |corner, whole| {
            let Cut { part, before } = preparation(Fit::Keep, corner).cut(whole, 4);
            (part.start, before)
        };
        let both = |whole| [Corner::Even, Corner::Before].map(|corner| cut(corner, whole));
        // (7 - 4) / 2 = 1.5: torchvision rounds to 2, transformers down to 1.
        assert_eq!(both(7), [(2, 0), (1, 0)]);
        assert_eq!(both(5), [(0, 0), (0, 0)]);
        assert_eq!(both(3), [(0, 0), (0, 1)]);
        assert_eq!(both(2), [(0, 1), (0, 1)]);
    }

    #[test]
    fn sides_are_scaled_as_timm_scales_them() {
        let to = |fit, from| preparation(fit, Corner::Even).resample(from).0.to;
        // 10 / 8 = 1.25 and 20 / 6 = 3.33.
        assert_eq!(to(Fit::Cover([8, 6]), [10, 20]), [8, 16]);
        assert_eq!(to(Fit::Within([8, 6]), [10, 20]), [3, 6]);
        assert_eq!(to(Fit::Shorter(8), [10, 21]), [8, 16]);
    }
}
