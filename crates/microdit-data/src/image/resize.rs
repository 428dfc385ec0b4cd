//! Resizing and cropping of pictures, equal to Pillow's and torchvision's.

use image::RgbImage;
use microdit::picture::{Filter, Resample};

/// The middle of a picture, `size` x `size` pixels, after its shorter side was resized to `size`, bicubically with antialiasing.
///
/// # Panics
/// If the image is empty.
pub fn square(image: &RgbImage, size: u32) -> RgbImage {
    let size = size as usize;
    let resample = Resample::shorter_side(sides(image), size, Filter::Bicubic);
    resampled(image, &resample.center([size; 2]))
}

/// Resizes to `width` x `height` pixels, bicubically with antialiasing.
///
/// # Panics
/// If the image is empty.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let to = [height as usize, width as usize];
    resampled(image, &Resample::to(to, Filter::Bicubic))
}

fn resampled(image: &RgbImage, resample: &Resample) -> RgbImage {
    let levels = resample.apply(image.as_raw(), sides(image));
    let [height, width] = [0, 1].map(|axis| resample.part[axis].len() as u32);
    RgbImage::from_raw(width, height, levels).expect("three levels per pixel")
}

/// Height and width.
fn sides(image: &RgbImage) -> [usize; 2] {
    [image.height() as usize, image.width() as usize]
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
