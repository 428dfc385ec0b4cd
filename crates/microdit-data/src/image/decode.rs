//! Image files to RGB as people see them: upright, on a background, and complete.

use super::{format, jpeg, limits::Limits};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader,
    RgbImage, Rgba, RgbaImage, metadata::Orientation,
};
use std::io::Cursor;

/// What transparent parts show by default.
const WHITE: [u8; 3] = [255; 3];

/// Formats that the crate `image` decodes here.
const READ_BY_IMAGE: [ImageFormat; 5] = [
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// A picture as people see it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its pixels.
    pub image: RgbImage,
    /// Whether something of the background shows.
    pub transparent: bool,
}

/// Decodes a JPEG, PNG, WebP, GIF (its first picture), BMP or TIFF file to RGB, whatever its name: turned as its EXIF data say, and with
/// white where it is transparent. A file that claims to be larger than [`Limits::default`] is refused before memory is allocated.
///
/// # Errors
/// What is wrong with the file. Missing parts, which decoders fill in, are an error.
pub fn decode(file: &[u8]) -> Result<RgbImage, String> {
    Ok(read(file, WHITE, &Limits::default())?.image)
}

/// [`decode`] with another background and other limits.
///
/// # Errors
/// As there.
pub fn read(file: &[u8], background: [u8; 3], limits: &Limits) -> Result<Picture, String> {
    if file.is_empty() {
        return Err("an empty image file".into());
    }
    let format = image::guess_format(file).ok();
    let (mut image, orientation) = match format {
        Some(ImageFormat::Jpeg) => {
            let (image, metadata) = jpeg::decode(file, limits)?;
            (image, orientation(&metadata))
        }
        Some(format) if READ_BY_IMAGE.contains(&format) => by_image(file, format, limits)?,
        _ => {
            return Err(match format::foreign(file) {
                Some(name) => format!(
                    "an image file in {name}, which is not read; convert it to JPEG, PNG or WebP"
                ),
                None => "an image that cannot be decoded: its format is unknown".into(),
            });
        }
    };
    image.apply_orientation(orientation);
    if image.width() == 0 || image.height() == 0 {
        return Err("an image without pixels".into());
    }
    Ok(flatten(image, background))
}

/// Width and height of a picture as [`decode`] turns it, by its header alone.
///
/// # Errors
/// What is wrong with the header, and sizes that [`Limits::default`] refuses.
pub fn size(file: &[u8]) -> Result<[u32; 2], String> {
    let limits = Limits::default();
    let ([width, height], orientation) = match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => {
            let (size, metadata) = jpeg::size(file)?;
            (size, orientation(&metadata))
        }
        Ok(format) if READ_BY_IMAGE.contains(&format) => {
            let mut decoder = decoder(file, format, &limits)?;
            let (width, height) = decoder.dimensions();
            ([width, height], turned(&mut decoder, format))
        }
        // The error is that of decoding it.
        _ => {
            let image = decode(file)?;
            ([image.width(), image.height()], Orientation::NoTransforms)
        }
    };
    limits.admit_size(width, height)?;
    if width == 0 || height == 0 {
        return Err("an image without pixels".into());
    }
    Ok(match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => [height, width],
        _ => [width, height],
    })
}

/// Decodes what the crate `image` has a strict decoder for.
fn by_image(
    file: &[u8],
    format: ImageFormat,
    limits: &Limits,
) -> Result<(DynamicImage, Orientation), String> {
    let mut decoder = decoder(file, format, limits)?;
    let (width, height) = decoder.dimensions();
    limits.admit_size(width, height)?;
    let orientation = turned(&mut decoder, format);
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok((image, orientation))
}

/// A decoder of a file, within limits of memory.
fn decoder<'a>(
    file: &'a [u8],
    format: ImageFormat,
    limits: &Limits,
) -> Result<impl ImageDecoder + use<'a>, String> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut memory = image::Limits::default();
    // Four channels of 16 bits, and what the decoder itself needs.
    memory.max_alloc = Some(8 * limits.max_pixels + (64 << 20));
    reader.limits(memory);
    reader.into_decoder().map_err(broken)
}

/// How a picture is to be turned.
fn turned(decoder: &mut impl ImageDecoder, format: ImageFormat) -> Orientation {
    match format {
        ImageFormat::Tiff => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        _ => orientation(&[
            decoder.exif_metadata().unwrap_or_default(),
            decoder.xmp_metadata().unwrap_or_default(),
        ]),
    }
}

fn broken(error: ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "an image file that is truncated".into()
        }
        error => format!("an image that cannot be decoded: {error}"),
    }
}

/// The orientation, from the EXIF data or else the XMP data.
fn orientation([exif, xmp]: &[Option<Vec<u8>>; 2]) -> Orientation {
    let by_exif = exif.as_deref().and_then(|exif| {
        // The prefix belongs in JPEG, but other files have it too.
        Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
    });
    let by_xmp = || {
        let text = String::from_utf8_lossy(xmp.as_deref()?);
        let (_, after) = text.split_once("tiff:Orientation")?;
        let number = after
            .trim_start_matches(['=', '"', '\'', '>', ' '])
            .bytes()
            .next()?;
        Orientation::from_exif(number.checked_sub(b'0')?)
    };
    by_exif.or_else(by_xmp).unwrap_or(Orientation::NoTransforms)
}

/// The picture in 8 bits on a background. Of 16 bits the high 8 are kept, as Pillow does.
fn flatten(image: DynamicImage, background: [u8; 3]) -> Picture {
    let high = |levels: Vec<u16>| {
        levels
            .into_iter()
            .map(|level| (level >> 8) as u8)
            .collect::<Vec<u8>>()
    };
    let (width, height) = (image.width(), image.height());
    let narrow = match image {
        DynamicImage::ImageLuma16(image) => {
            GrayImage::from_raw(width, height, high(image.into_raw())).map(Into::into)
        }
        DynamicImage::ImageLumaA16(image) => {
            GrayAlphaImage::from_raw(width, height, high(image.into_raw())).map(Into::into)
        }
        DynamicImage::ImageRgb16(image) => {
            RgbImage::from_raw(width, height, high(image.into_raw())).map(Into::into)
        }
        DynamicImage::ImageRgba16(image) => {
            RgbaImage::from_raw(width, height, high(image.into_raw())).map(Into::into)
        }
        other => Some(other),
    };
    let image: DynamicImage = narrow.expect("as many levels as before");
    if !image.color().has_alpha() {
        return Picture {
            image: image.into_rgb8(),
            transparent: false,
        };
    }
    let image = image.into_rgba8();
    let mut transparent = false;
    let mut levels = Vec::with_capacity(3 * (image.len() / 4));
    for Rgba([red, green, blue, alpha]) in image.pixels() {
        transparent |= *alpha < u8::MAX;
        let alpha = u32::from(*alpha);
        for (level, behind) in [red, green, blue].into_iter().zip(background) {
            let sum = u32::from(*level) * alpha + u32::from(behind) * (255 - alpha);
            levels.push(((sum + 127) / 255) as u8);
        }
    }
    Picture {
        image: RgbImage::from_raw(width, height, levels).expect("three levels per pixel"),
        transparent,
    }
}
