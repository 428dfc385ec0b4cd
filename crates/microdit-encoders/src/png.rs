//! Image files, and the labels in a PNG that say how it was made.

use image::{
    RgbImage,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};
use microdit::atomic_file;
use png::{BitDepth, ColorType, Encoder};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::Path,
};

/// Quality of JPEGs, from 1 to 100.
const QUALITY: u8 = 95;

/// The format an image is written in, by its file extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Lossless, the only one that holds labels.
    Png,
    /// With quality 95.
    Jpeg,
    /// Lossless.
    WebP,
}

impl PictureFormat {
    /// The format of a file extension, `.png`, `.jpg`, `.jpeg` or `.webp` in any case.
    ///
    /// ```
    /// use microdit_encoders::PictureFormat;
    /// use std::path::Path;
    /// assert_eq!(PictureFormat::of(Path::new("a.b/fox.JPG")), Some(PictureFormat::Jpeg));
    /// assert_eq!(PictureFormat::of(Path::new("fox.bmp")), None);
    /// ```
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match ending.as_str() {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::WebP,
            _ => return None,
        })
    }

    /// Pixels of the longest side it can hold.
    pub fn longest_side(self) -> u32 {
        match self {
            Self::Png => i32::MAX as u32,
            Self::Jpeg => 65_535,
            Self::WebP => 16_384,
        }
    }
}

/// Writes an image in the format of its file extension, atomically; a PNG also holds `labels`, texts by their
/// keys.
///
/// # Errors
/// If the extension is not one of [`PictureFormat`], or the file cannot be written.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("fox.png");
/// use microdit_encoders::{read_labels, save_picture};
/// save_picture(&image::RgbImage::new(4, 4), &path, &[("prompt", "a red fox".into())])?;
/// assert_eq!(read_labels(&path)?, [("prompt".into(), "a red fox".into())]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn save_picture(image: &RgbImage, path: &Path, labels: &[(&str, String)]) -> io::Result<()> {
    let format = PictureFormat::of(path).ok_or_else(|| {
        let message = "pictures are written as .png, .jpg, .jpeg or .webp";
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    atomic_file::write(path, |part| {
        let mut file = BufWriter::new(File::create(part)?);
        match format {
            PictureFormat::Png => png(image, &mut file, labels)?,
            PictureFormat::Jpeg => JpegEncoder::new_with_quality(&mut file, QUALITY)
                .encode_image(image)
                .map_err(io::Error::other)?,
            PictureFormat::WebP => image
                .write_with_encoder(WebPEncoder::new_lossless(&mut file))
                .map_err(io::Error::other)?,
        }
        file.flush()
    })
}

fn png(image: &RgbImage, file: &mut impl Write, labels: &[(&str, String)]) -> io::Result<()> {
    let mut encoder = Encoder::new(file, image.width(), image.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (key, text) in labels {
        // Prompts may be in any script; only this kind of chunk holds them.
        encoder.add_itxt_chunk((*key).to_owned(), text.clone())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    Ok(writer.finish()?)
}

/// The labels of a PNG that [`save_picture`] wrote, in their order. The pixels are not read.
///
/// # Errors
/// If the file cannot be read or is not a PNG.
pub fn read_labels(path: &Path) -> io::Result<Vec<(String, String)>> {
    let reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let text = |chunk: &png::text_metadata::ITXtChunk| {
        let text = chunk.get_text().map_err(io::Error::other)?;
        Ok((chunk.keyword.clone(), text))
    };
    reader.info().utf8_text.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageFormat;

    #[test]
    fn an_ending_matches_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 20, y as u8 * 20, 90]));
        for (name, format, lossless) in [
            ("a.png", ImageFormat::Png, true),
            ("a.PNG", ImageFormat::Png, true),
            ("a.jpg", ImageFormat::Jpeg, false),
            ("a.jpeg", ImageFormat::Jpeg, false),
            ("a.webp", ImageFormat::WebP, true),
        ] {
            let path = folder.path().join(name);
            save_picture(&image, &path, &[]).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(image::guess_format(&bytes).unwrap(), format, "{name}");
            let read = image::load_from_memory(&bytes).unwrap().into_rgb8();
            assert_eq!(read.dimensions(), (8, 4));
            assert!(!lossless || read == image, "{name}");
        }
        for name in ["a", "a.bmp", "png", "a.png.txt"] {
            let error = save_picture(&image, &folder.path().join(name), &[]).unwrap_err();
            assert!(error.to_string().contains(".png, .jpg, .jpeg or .webp"));
            assert!(!folder.path().join(name).exists());
        }
    }

    #[test]
    fn the_longest_sides_can_be_written_and_no_longer_ones() {
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in [
            ("a.jpg", PictureFormat::Jpeg),
            ("a.webp", PictureFormat::WebP),
        ] {
            let path = folder.path().join(name);
            let longest = format.longest_side();
            save_picture(&RgbImage::new(longest, 1), &path, &[]).unwrap();
            std::fs::remove_file(&path).unwrap();
            save_picture(&RgbImage::new(longest + 1, 1), &path, &[]).unwrap_err();
            assert!(!path.exists());
        }
    }

    #[test]
    fn labels_are_any_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let texts = [
            "",
            "\u{0}\x1b[31m\r\n\u{202e}",
            "červený 狐 🦊",
            &"long ".repeat(50_000),
        ];
        let labels = texts.map(|text| ("prompt", text.to_owned()));
        save_picture(&RgbImage::new(1, 1), &path, &labels).unwrap();
        let read = read_labels(&path).unwrap();
        assert_eq!(read.len(), texts.len());
        for ((_, read), text) in read.iter().zip(texts) {
            assert_eq!(read, text);
        }
    }
}
