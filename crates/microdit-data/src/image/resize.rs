//! Resizing and cropping, equal to Pillow's and torchvision's.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::{RgbImage, imageops};
use std::{array::from_fn, borrow::Cow};

/// The middle of a picture, `size` x `size` pixels, after its shorter side was resized to `size`, bicubically with antialiasing. A
/// level may differ by one from Pillow's, whose sums are rounded elsewhere ([`microdit::picture`] has the same levels in four times
/// the time).
///
/// # Panics
/// If the image or `size` is empty.
pub fn square(image: &RgbImage, size: u32) -> RgbImage {
    cover(image, size, size)
}

/// Which part of a resized picture is kept, and how it is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// Where the part lies between left and right and between top and bottom, each in `[0, 1)`; in the middle if absent.
    pub crop: Option<[f32; 2]>,
    /// Whether left and right are swapped.
    pub flip: bool,
}

/// A part of a picture, `width` x `height` pixels, after it was resized as by [`cover`]; the picture itself where that is all of it.
///
/// # Panics
/// If one of the images is empty.
pub fn viewed(image: Cow<'_, RgbImage>, width: u32, height: u32, view: View) -> Cow<'_, RgbImage> {
    let resized = covering(image, width, height);
    let mut part = match view.crop {
        None => center_crop(resized, (width, height)),
        Some([across, down]) => {
            // Every offset is as likely as every other.
            let offset = |whole: u32, part: u32, share: f32| {
                let offsets = whole - part + 1;
                ((f64::from(share) * f64::from(offsets)) as u32).min(offsets - 1)
            };
            let (x, y) = (
                offset(resized.width(), width, across),
                offset(resized.height(), height, down),
            );
            crop(resized, [x, y], (width, height))
        }
    };
    if view.flip {
        imageops::flip_horizontal_in_place(part.to_mut());
    }
    part
}

/// How many times longer than the part that is kept a picture is at most when it is resized.
const MAX_ASPECT: u64 = 64;

/// The middle of a picture, `width` x `height` pixels, after it was resized to the smallest size that covers them, bicubically
/// with antialiasing: nothing is distorted, and what lies beyond two of its sides is cut off.
///
/// Of a picture that is more than 64 times longer than what is cut from it only the middle is resized: long strips would cost more
/// memory than any other picture.
///
/// # Panics
/// If one of the images is empty.
pub fn cover(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let image = Cow::Borrowed(image);
    viewed(image, width, height, View::default()).into_owned()
}

/// The smallest size of a picture that covers `width` x `height` pixels.
fn covering(image: Cow<'_, RgbImage>, width: u32, height: u32) -> Cow<'_, RgbImage> {
    let (from_width, from_height) = image.dimensions();
    // `side * numerator / denominator`, cut, not rounded.
    let scaled = |side: u32, numerator: u32, denominator: u32| {
        u64::from(side) * u64::from(numerator) / u64::from(denominator)
    };
    let longest = |side, numerator, denominator| {
        let longest = MAX_ASPECT * scaled(side, numerator, denominator).max(1);
        u32::try_from(longest).unwrap_or(u32::MAX)
    };
    let middle = (
        from_width.min(longest(from_height, width, height)),
        from_height.min(longest(from_width, height, width)),
    );
    if middle != image.dimensions() {
        return covering(center_crop(image, middle), width, height);
    }
    let wide =
        u64::from(from_width) * u64::from(height) > u64::from(from_height) * u64::from(width);
    let resized = match wide {
        true => (scaled(from_width, height, from_height) as u32, height),
        false => (width, scaled(from_height, width, from_width) as u32),
    };
    match resized == image.dimensions() {
        true => image,
        false => Cow::Owned(resize(&image, resized.0, resized.1)),
    }
}

/// Resizes to `width` x `height` pixels, bicubically with antialiasing, like Pillow: the kernel's a is -0.5.
///
/// # Panics
/// If one of the images is empty.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    // Of one type of pixels: `resize` would compile the code of all, which takes more than a minute.
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw());
    let mut resized = RgbImage::new(width, height);
    let mut to = TypedImage::<U8x3>::from_buffer(width, height, &mut resized)
        .expect("three bytes per pixel");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new()
        .resize_typed(&source.expect("three bytes per pixel"), &mut to, &options)
        .expect("neither image is empty");
    resized
}

/// The middle of an image that is at least as large; where that lies between two pixels, at the even one.
fn center_crop(image: Cow<'_, RgbImage>, (width, height): (u32, u32)) -> Cow<'_, RgbImage> {
    let offset = |whole: u32, part: u32| (f64::from(whole - part) / 2.0).round_ties_even() as u32;
    let corner = [offset(image.width(), width), offset(image.height(), height)];
    crop(image, corner, (width, height))
}

/// The part of an image whose upper left pixel is `[x, y]`.
fn crop(
    image: Cow<'_, RgbImage>,
    [x, y]: [u32; 2],
    (width, height): (u32, u32),
) -> Cow<'_, RgbImage> {
    if image.dimensions() == (width, height) {
        return image;
    }
    Cow::Owned(imageops::crop_imm(&*image, x, y, width, height).to_image())
}

/// Pixels in -1..1, channel by channel: `[3, height, width]`.
pub fn pixels(image: &RgbImage) -> Vec<f32> {
    let mut pixels = vec![0.0; image.as_raw().len()];
    write_pixels(image, &mut pixels);
    pixels
}

/// [`pixels`] into memory that is there: as many as the picture has.
pub(crate) fn write_pixels(image: &RgbImage, pixels: &mut [f32]) {
    // A division for each level there is, not for each that is seen.
    let values: [f32; 256] = from_fn(|level| level as f32 / 127.5 - 1.0);
    let levels = image.as_raw().as_chunks::<3>().0;
    let planes = pixels.chunks_exact_mut(levels.len().max(1));
    for (channel, plane) in planes.enumerate() {
        for (value, pixel) in plane.iter_mut().zip(levels) {
            *value = values[usize::from(pixel[channel])];
        }
    }
}
