//! image_prep: what becomes of pictures before they are encoded.

use crate::{golden::Golden, report::Report};
use image::RgbImage;
use microdit_data::image::{center_crop, pixels, resize_shorter_side};
use std::path::Path;

/// One level of 255: different libraries round fixed-point sums differently.
const LEVEL: f64 = 1.0;

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
