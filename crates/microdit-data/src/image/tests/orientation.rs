//! Orientations from EXIF data, in every format that carries them.

use super::decode;
use image::{
    DynamicImage, GrayImage, ImageEncoder, Luma,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};

/// The lower levels of EXIF data: an orientation and nothing else.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif
}

/// An uncompressed gray TIFF.
fn tiff(image: &GrayImage, orientation: u8) -> Vec<u8> {
    let mut file = b"II\x2a\0".to_vec();
    file.extend((8 + image.len() as u32).to_le_bytes());
    file.extend(image.as_raw());
    let tags: [(u16, u32); 9] = [
        (256, image.width()),
        (257, image.height()),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (274, orientation.into()),
        (278, image.height()),
        (279, image.len() as u32),
    ];
    file.extend((tags.len() as u16).to_le_bytes());
    for (tag, value) in tags {
        file.extend(tag.to_le_bytes());
        file.extend([4, 0, 1, 0, 0, 0]);
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file
}

/// As ImageOps.exif_transpose of Pillow: rows of a picture of 3 x 2 pixels.
#[test]
fn pictures_are_upright() {
    const UPRIGHT: [(u32, [u8; 6]); 8] = [
        (3, [0, 1, 2, 3, 4, 5]),
        (3, [2, 1, 0, 5, 4, 3]),
        (3, [5, 4, 3, 2, 1, 0]),
        (3, [3, 4, 5, 0, 1, 2]),
        (2, [0, 3, 1, 4, 2, 5]),
        (2, [3, 0, 4, 1, 5, 2]),
        (2, [5, 2, 4, 1, 3, 0]),
        (2, [2, 5, 1, 4, 0, 3]),
    ];
    // Blocks of 8 pixels, which JPEG keeps apart.
    let image = GrayImage::from_fn(24, 16, |x, y| Luma([(40 * (x / 8 + 3 * (y / 8))) as u8]));
    let colors = DynamicImage::from(image.clone()).into_rgb8();
    for (i, (width, rows)) in UPRIGHT.into_iter().enumerate() {
        let orientation = i as u8 + 1;
        let mut files = vec![("TIFF", tiff(&image, orientation))];
        let with = |encoder: Box<dyn FnOnce(Vec<u8>) -> Vec<u8>>| encoder(exif(orientation));
        files.push((
            "JPEG",
            with(Box::new(|exif| {
                let mut file = Vec::new();
                let mut encoder = JpegEncoder::new_with_quality(&mut file, 95);
                encoder.set_exif_metadata(exif).unwrap();
                encoder.encode_image(&colors).unwrap();
                file
            })),
        ));
        files.push((
            "PNG",
            with(Box::new(|exif| {
                let mut file = Vec::new();
                let mut encoder = PngEncoder::new(&mut file);
                encoder.set_exif_metadata(exif).unwrap();
                colors.write_with_encoder(encoder).unwrap();
                file
            })),
        ));
        files.push((
            "WebP",
            with(Box::new(|exif| {
                let mut file = Vec::new();
                let mut encoder = WebPEncoder::new_lossless(&mut file);
                encoder.set_exif_metadata(exif).unwrap();
                colors.write_with_encoder(encoder).unwrap();
                file
            })),
        ));
        for (format, file) in files {
            let found = decode(&file).unwrap();
            assert_eq!(
                found.width(),
                8 * width,
                "{format}, orientation {orientation}"
            );
            let blocks: Vec<u8> = (0..6)
                .map(|block| found.get_pixel(8 * (block % width) + 4, 8 * (block / width) + 4)[0])
                .map(|level| (level + 20) / 40)
                .collect();
            assert_eq!(blocks, rows, "{format}, orientation {orientation}");
        }
    }
    // Nonsense turns nothing.
    for orientation in [0, 9, 255] {
        assert_eq!(decode(&tiff(&image, orientation)).unwrap().width(), 24);
    }
}
