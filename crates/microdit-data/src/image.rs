//! Pictures to squares of pixels, as torchvision prepares them.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{DynamicImage, ImageReader, Limits, RgbImage, imageops};
use std::io::Cursor;

/// Longest side of a picture that is decoded.
const MAX_SIDE: u32 = 30_000;

/// Memory one picture may take while it is decoded: that of some 80 megapixels.
const MAX_BYTES: u64 = 256 << 20;

/// How many times longer than wide a picture may be: squares of strips would cost more memory than any picture.
const MAX_ASPECT: u32 = 64;

/// Decodes a JPEG, PNG or WebP file to RGB. A file that claims to be larger than 30,000 pixels or 256 MiB is refused before
/// memory is taken, and so is one more than 64 times longer than wide.
///
/// # Errors
/// What is wrong with the file.
pub fn decode(file: &[u8]) -> Result<RgbImage, String> {
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| error.to_string())?;
    let (width, height) = (image.width(), image.height());
    let (short, long) = (width.min(height), width.max(height));
    if short == 0 || long / short >= MAX_ASPECT {
        return Err(format!(
            "it has {width} x {height} pixels; expected at most {MAX_ASPECT} times one side in the other"
        ));
    }
    Ok(DynamicImage::into_rgb8(image))
}

/// Resizes so that the shorter side is `size` pixels, bicubically with antialiasing.
///
/// # Panics
/// If the image or `size` is empty.
pub fn resize_shorter_side(image: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let short = width.min(height);
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
pub fn center_crop(image: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    assert!(
        width.min(height) >= size,
        "{width} x {height} pixels hold no square of {size}"
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb};

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let image = RgbImage::from_pixel(width, height, Rgb([10, 20, 30]));
        image.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    #[test]
    fn enormous_pictures_are_refused_before_memory_is_taken() {
        let mut file = png(3, 2);
        assert_eq!(decode(&file).unwrap().dimensions(), (3, 2));
        // Width and height of a PNG, with the checksum of its header.
        file[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = decode(&file).unwrap_err();
        assert!(error.to_lowercase().contains("limit"), "{error}");
        // Within the longest side, but too much memory.
        file[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = decode(&file).unwrap_err();
        assert!(error.to_lowercase().contains("limit"), "{error}");
    }

    /// The checksum of PNG's chunks.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn strips_are_refused() {
        assert!(decode(&png(2, 126)).is_ok());
        let error = decode(&png(2, 128)).unwrap_err();
        assert!(error.contains("2 x 128"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        let whole = png(8, 8);
        for file in [&b""[..], b"\xff\xd8\xff", &whole[..whole.len() / 2]] {
            assert!(decode(file).is_err());
        }
    }

    #[test]
    fn the_crop_is_central() {
        let image = RgbImage::from_fn(7, 4, |x, y| Rgb([x as u8, y as u8, 0]));
        // (7 - 4) / 2 = 1.5 goes to 2, as Python rounds.
        assert_eq!(center_crop(&image, 4).get_pixel(0, 0), &Rgb([2, 0, 0]));
        assert_eq!(center_crop(&image, 2).get_pixel(0, 0), &Rgb([2, 1, 0]));
    }
}
