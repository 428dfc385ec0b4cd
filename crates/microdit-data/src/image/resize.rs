//! Resizing and cropping, equal to Pillow's and torchvision's.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{RgbImage, imageops};

/// The middle of a picture, `size` x `size` pixels, after its shorter side was resized to `size`, bicubically with antialiasing. A
/// level may differ by one from Pillow's, whose sums are rounded elsewhere ([`microdit::picture`] has the same levels in four times
/// the time).
///
/// # Panics
/// If the image is empty.
pub fn square(image: &RgbImage, size: u32) -> RgbImage {
    center_crop(&resize_shorter_side(image, size), size)
}

/// How many times longer than wide a picture is at most when it is resized.
const MAX_ASPECT: u32 = 64;

/// Resizes so that the shorter side is `size` pixels, bicubically with antialiasing. Of a picture that is more than 64 times longer than
/// wide only the middle is kept: nothing else is part of the square that is cut from it, and long strips would cost more memory than any
/// other picture.
///
/// # Panics
/// If the image or `size` is empty.
fn resize_shorter_side(image: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let short = width.min(height);
    let longest = MAX_ASPECT.saturating_mul(short);
    if width.max(height) > longest {
        let (width, height) = (width.min(longest), height.min(longest));
        let corner = |whole: u32, part: u32| (whole - part) / 2;
        let (x, y) = (corner(image.width(), width), corner(image.height(), height));
        return resize_shorter_side(
            &imageops::crop_imm(image, x, y, width, height).to_image(),
            size,
        );
    }
    // The longer side is cut, not rounded.
    let scaled = |side: u32| (u64::from(size) * u64::from(side) / u64::from(short)) as u32;
    resize(image, scaled(width), scaled(height))
}

/// Resizes to `width` x `height` pixels, bicubically with antialiasing, like Pillow: the kernel's a is -0.5.
///
/// # Panics
/// If one of the images is empty.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let source = ImageRef::new(
        image.width(),
        image.height(),
        image.as_raw(),
        PixelType::U8x3,
    );
    let mut resized = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new()
        .resize(
            &source.expect("three bytes per pixel"),
            &mut resized,
            &options,
        )
        .expect("both images are of one type");
    RgbImage::from_raw(width, height, resized.into_vec()).expect("three bytes per pixel")
}

/// The square of `size` pixels in the middle; where that lies between two pixels, at the even one.
///
/// # Panics
/// If the image is smaller.
fn center_crop(image: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    assert!(
        width.min(height) >= size,
        "{width} x {height} pixels do not hold a square of {size}"
    );
    let offset = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as u32;
    imageops::crop_imm(image, offset(width), offset(height), size, size).to_image()
}

/// Pixels in -1..1, channel by channel: `[3, height, width]`.
pub fn pixels(image: &RgbImage) -> Vec<f32> {
    let plane = (image.width() * image.height()) as usize;
    let mut pixels = vec![0.0; 3 * plane];
    for (i, pixel) in image.pixels().enumerate() {
        for (channel, level) in pixel.0.into_iter().enumerate() {
            pixels[channel * plane + i] = f32::from(level) / 127.5 - 1.0;
        }
    }
    pixels
}
