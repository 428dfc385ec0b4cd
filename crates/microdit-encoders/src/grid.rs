//! Pictures side by side.

use image::{Rgb, RgbImage, imageops};

/// Pixels between two pictures.
const GAP: u32 = 2;

/// Lays pictures out row by row, `columns` in a row, on white; the cells have the size of the largest picture.
pub fn grid(images: &[RgbImage], columns: usize) -> RgbImage {
    let columns = columns.max(1) as u32;
    let rows = (images.len() as u32).div_ceil(columns);
    let width = images.iter().map(RgbImage::width).max().unwrap_or(0) + GAP;
    let height = images.iter().map(RgbImage::height).max().unwrap_or(0) + GAP;
    let mut page = RgbImage::from_pixel(columns * width + GAP, rows * height + GAP, Rgb([255; 3]));
    for (i, image) in (0u32..).zip(images) {
        let (x, y) = (i % columns * width + GAP, i / columns * height + GAP);
        imageops::replace(&mut page, image, x.into(), y.into());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_order() {
        let dot = |level| RgbImage::from_pixel(1, 1, Rgb([level; 3]));
        let page = grid(&[dot(1), dot(2), dot(3)], 2);
        assert_eq!(page.dimensions(), (8, 8));
        for ((x, y), level) in [((2, 2), 1), ((5, 2), 2), ((2, 5), 3), ((5, 5), 255)] {
            assert_eq!(page.get_pixel(x, y), &Rgb([level; 3]));
        }
    }
}
