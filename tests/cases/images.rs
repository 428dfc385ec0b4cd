//! image_prep, picture_resize, wds_pixels: what becomes of pictures before they are encoded.

use crate::{golden::Golden, report::Report};
use image::RgbImage;
use microdit::picture::{Filter, Resample};
use microdit_data::{
    Image, Members, Shards,
    image::{decode, pixels, square},
};
use std::path::Path;

/// Levels by which decoders of JPEG differ: the format leaves rounding and the smoothing of colours to them.
const DECODER: f64 = 8.0;

/// One level of 255: the fast resizing rounds its fixed-point sums elsewhere.
const LEVEL: f64 = 1.0 / 127.5 + 1e-6;

/// The first pictures of the tar beside the file, by their keys.
pub(super) fn wds_pixels(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let tar = path.with_file_name("wds_clean.tar");
    let shards = Shards::open(&tar.to_string_lossy(), Members::Pictures);
    let shards = shards.unwrap_or_else(|error| panic!("{error}"));
    for shard in shards.iter() {
        let (samples, _) = shards.read(shard).unwrap_or_else(|error| panic!("{error}"));
        for sample in samples {
            let key = format!("out.pixels.{}", sample.key);
            let Image::Encoded(file) = &sample.image else {
                panic!("{key} is no file");
            };
            if golden.has(&key) {
                let image = decode(file).unwrap_or_else(|error| panic!("{key}: {error}"));
                let levels: Vec<f64> = image.as_raw().iter().copied().map(f64::from).collect();
                report.close(&sample.key, &levels, golden.get(&key), DECODER);
            }
        }
    }
}

pub(super) fn image_prep(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let pictures: Vec<&str> = golden
        .with_prefix("in.")
        .filter_map(|(name, _)| name.strip_suffix(".pixels"))
        .collect();
    for picture in pictures {
        let size = golden.config[picture]["size"].as_u64().expect("a size") as u32;
        let source = golden.get(&format!("in.{picture}.pixels"));
        let levels = source.data.iter().map(|&level| level as u8).collect();
        let (height, width) = (source.shape[0] as u32, source.shape[1] as u32);
        let image = RgbImage::from_raw(width, height, levels).expect("three levels per pixel");
        let from = [source.shape[0], source.shape[1]];
        let resized = Resample::shorter_side(from, size as usize, Filter::Bicubic);
        let levels = resized.apply(image.as_raw(), from).into_iter();
        let levels: Vec<f64> = levels.map(f64::from).collect();
        let expected = golden.get(&format!("out.{picture}.resized"));
        report.equal(format!("{picture}.resized"), &levels, &expected.data);
        let values: Vec<f64> = pixels(&square(&image, size))
            .into_iter()
            .map(f64::from)
            .collect();
        let expected = golden.get(&format!("out.{picture}.image"));
        report.close(format!("{picture}.image"), &values, expected, LEVEL);
    }
}

/// Pictures of several sizes resized by Pillow with every kernel, in 8 bits and in single precision.
pub(super) fn picture_resize(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let filters = [
        ("box", Filter::Box),
        ("bilinear", Filter::Bilinear),
        ("hamming", Filter::Hamming),
        ("bicubic", Filter::Bicubic),
        ("lanczos", Filter::Lanczos),
    ];
    for i in 0.. {
        let key = format!("in.{i}.pixels");
        if !golden.has(&key) {
            break;
        }
        let pixels = golden.get(&key);
        let from = [pixels.shape[0], pixels.shape[1]];
        let levels: Vec<u8> = pixels.data.iter().map(|&level| level as u8).collect();
        for (name, filter) in filters {
            let key = format!("out.{i}.{name}");
            let expected = golden.get(&key);
            let resample = Resample::to([expected.shape[0], expected.shape[1]], filter);
            let found = resample.apply(&levels, from).into_iter();
            let found: Vec<f64> = found.map(f64::from).collect();
            report.equal(&key, &found, &expected.data);
            let key = format!("{key}_f32");
            if golden.has(&key) {
                let found = resample.apply(&pixels.to_f32(), from).into_iter();
                let found: Vec<f64> = found.map(f64::from).collect();
                // A unit in the last place of 255.
                report.close(&key, &found, golden.get(&key), 2e-5);
            }
        }
    }
}
