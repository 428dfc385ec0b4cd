//! PNG files that say how they came about.

use image::RgbImage;
use microdit::write_whole;
use png::{BitDepth, ColorType, Encoder};
use std::{fs::File, io, path::Path};

/// Writes a picture with `labels`, texts by their keys, whole or not at all.
///
/// # Errors
/// If the file cannot be written.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("fox.png");
/// microdit_encoders::save_png(&image::RgbImage::new(4, 4), &path, &[("prompt", "a red fox".into())])?;
/// let reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path)?)).read_info()?;
/// let label = &reader.info().utf8_text[0];
/// assert_eq!((label.keyword.as_str(), label.get_text()?.as_str()), ("prompt", "a red fox"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_png(image: &RgbImage, path: &Path, labels: &[(&str, String)]) -> io::Result<()> {
    write_whole(path, |part| {
        let mut encoder = Encoder::new(
            io::BufWriter::new(File::create(part)?),
            image.width(),
            image.height(),
        );
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        for (key, text) in labels {
            // Prompts are of any script, which only this kind of chunk holds.
            encoder.add_itxt_chunk((*key).to_owned(), text.clone())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(image.as_raw())?;
        writer.finish()?;
        Ok(())
    })
}
