//! Contact sheets: pictures side by side.

use image::{Rgb, RgbImage, imageops};

/// Pixels between two pictures.
const GAP: u64 = 2;

/// Pixels of the largest sheet, whose three bytes each are held in memory.
const LARGEST: u64 = 1 << 28;

/// A page that pictures are placed on as they come, row by row, on white.
#[derive(Clone, Debug)]
pub struct ContactSheet {
    page: RgbImage,
    columns: usize,
    cell: [u32; 2],
}

impl ContactSheet {
    /// Width and height of a page for `count` pictures of `size` (width and height), `columns` in a row; none if that is
    /// more than a sheet may have, 2^28 pixels.
    pub fn size(count: usize, columns: usize, size: [u32; 2]) -> Option<[u32; 2]> {
        let columns = columns.max(1);
        let side = |cells: usize, side: u32| {
            let side = (u64::from(side) + GAP).checked_mul(cells as u64)?;
            u32::try_from(side.checked_add(GAP)?).ok()
        };
        let page = [
            side(columns, size[0])?,
            side(count.div_ceil(columns), size[1])?,
        ];
        let pixels = u64::from(page[0]) * u64::from(page[1]);
        (pixels <= LARGEST).then_some(page)
    }

    /// A page without pictures; none where [`size`](Self::size) is none.
    pub fn new(count: usize, columns: usize, size: [u32; 2]) -> Option<Self> {
        let [width, height] = Self::size(count, columns, size)?;
        Some(Self {
            page: RgbImage::from_pixel(width, height, Rgb([255; 3])),
            columns: columns.max(1),
            cell: size.map(|side| side + GAP as u32),
        })
    }

    /// Places the picture with index `i`.
    pub fn place(&mut self, i: usize, image: &RgbImage) {
        let at = |cell: usize, axis: usize| (cell as u64 * u64::from(self.cell[axis]) + GAP) as i64;
        let (x, y) = (at(i % self.columns, 0), at(i / self.columns, 1));
        imageops::replace(&mut self.page, image, x, y);
    }

    /// The page.
    pub fn into_image(self) -> RgbImage {
        self.page
    }
}

/// Lays pictures out row by row, `columns` in a row, on white; the cells have the size of the largest picture. None if
/// that is more than a [`ContactSheet`] may have.
pub fn contact_sheet(images: &[RgbImage], columns: usize) -> Option<RgbImage> {
    let width = images.iter().map(RgbImage::width).max().unwrap_or(0);
    let height = images.iter().map(RgbImage::height).max().unwrap_or(0);
    let mut sheet = ContactSheet::new(images.len(), columns, [width, height])?;
    for (i, image) in images.iter().enumerate() {
        sheet.place(i, image);
    }
    Some(sheet.into_image())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_order() {
        let dot = |level| RgbImage::from_pixel(1, 1, Rgb([level; 3]));
        let page = contact_sheet(&[dot(1), dot(2), dot(3)], 2).unwrap();
        assert_eq!(page.dimensions(), (8, 8));
        for ((x, y), level) in [((2, 2), 1), ((5, 2), 2), ((2, 5), 3), ((5, 5), 255)] {
            assert_eq!(page.get_pixel(x, y), &Rgb([level; 3]));
        }
    }

    #[test]
    fn a_sheet_is_bounded() {
        assert_eq!(ContactSheet::size(6, 3, [32, 16]), Some([104, 38]));
        for (count, columns, size) in [
            (30_000, 1, [512, 512]),
            (usize::MAX, 1, [1, 1]),
            (usize::MAX, usize::MAX, [u32::MAX, u32::MAX]),
            (1, 1, [u32::MAX, 1]),
        ] {
            assert_eq!(ContactSheet::size(count, columns, size), None, "{count}");
        }
    }
}
