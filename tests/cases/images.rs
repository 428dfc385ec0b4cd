//! image_prep, wds_pixels: what becomes of pictures before they are encoded.

use crate::{golden::Golden, report::Report};
use image::RgbImage;
use microdit_data::{
    Image, Members, Shards,
    image::{center_crop, decode, pixels, resize_shorter_side},
};
use std::path::Path;

/// One level of 255: different libraries round fixed-point sums differently.
const LEVEL: f64 = 1.0;

/// Levels by which decoders of JPEG differ: the format leaves rounding and the smoothing of colours to them.
const DECODER: f64 = 8.0;

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
        let resized = resize_shorter_side(&image, size);
        let levels: Vec<f64> = resized.as_raw().iter().copied().map(f64::from).collect();
        let expected = golden.get(&format!("out.{picture}.resized"));
        report.close(format!("{picture}.resized"), &levels, expected, LEVEL);
        let values: Vec<f64> = pixels(&center_crop(&resized, size))
            .into_iter()
            .map(f64::from)
            .collect();
        let expected = golden.get(&format!("out.{picture}.image"));
        // A level of the range -1..1, and the rounding of f32.
        report.close(
            format!("{picture}.image"),
            &values,
            expected,
            LEVEL / 127.5 + 1e-6,
        );
    }
}
