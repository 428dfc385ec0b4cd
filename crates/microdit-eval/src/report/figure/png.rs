//! A figure as a picture of pixels.

use super::Figure;
use epaint_default_fonts::UBUNTU_LIGHT;
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb::Database},
};
use std::sync::Arc;

/// Pixels of a unit of length.
const SCALE: f32 = 2.0;

/// A figure that could not be made a picture.
#[derive(Debug, thiserror::Error)]
#[error("{figure}: {message}")]
pub struct PngError {
    /// Name of the figure.
    figure: String,
    /// What the renderer says.
    message: String,
}

impl Figure {
    /// As a PNG of 1,040 pixels in width, with a font of its own: it looks the same on every machine.
    ///
    /// # Errors
    /// What the renderer says; figures drawn here give it no reason.
    pub fn to_png(&self) -> Result<Vec<u8>, PngError> {
        let problem = |message: String| PngError {
            figure: self.name.clone(),
            message,
        };
        let mut fonts = Database::new();
        fonts.load_font_data(UBUNTU_LIGHT.to_vec());
        let options = Options {
            font_family: "Ubuntu".into(),
            fontdb: Arc::new(fonts),
            ..Options::default()
        };
        let tree =
            Tree::from_str(&self.to_svg(), &options).map_err(|error| problem(error.to_string()))?;
        let size = tree.size().to_int_size();
        let pixels = |length: u32| (length as f32 * SCALE).ceil() as u32;
        let mut picture = Pixmap::new(pixels(size.width()), pixels(size.height()))
            .ok_or_else(|| problem("it has no size".into()))?;
        let larger = Transform::from_scale(SCALE, SCALE);
        resvg::render(&tree, larger, &mut picture.as_mut());
        picture
            .encode_png()
            .map_err(|error| problem(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use crate::report::figure::{Axis, Color, Curves, Line, Stroke};
    use resvg::tiny_skia::Pixmap;

    #[test]
    fn a_picture_shows_curve_and_text() {
        let curves = Curves {
            name: "loss".into(),
            title: "loss".into(),
            x: Axis::linear("steps"),
            y: Axis::linear("loss"),
            lines: vec![Line {
                label: "\u{7}<run & more>".into(),
                color: Color::Run(0),
                stroke: Stroke::Solid,
                points: vec![(0.0, 0.0), (1.0, 0.0), (2.0, 1.0)],
            }],
        };
        let png = curves.draw().unwrap().to_png().unwrap();
        let picture = Pixmap::decode_png(&png).unwrap();
        assert_eq!(picture.width(), 1040);
        let at = |x: u32, y: u32| {
            let pixel = picture.pixel(x, y).unwrap().demultiply();
            [pixel.red(), pixel.green(), pixel.blue()]
        };
        assert_eq!(at(0, 0), [255; 3]);
        // The curve begins at its least value, 4 % above the lower end, and is horizontal at first.
        let room = 0.04 / 1.08 * 210.0;
        let y = ((232.0 - room) * 2.0) as u32;
        assert_eq!(at(300, y), [0x1f, 0x6f, 0xd0]);
        // Ink of the legend, which only a font makes.
        let legend = (0..1040).flat_map(|x| (540..566).map(move |y| (x, y)));
        let dark = legend.filter(|&(x, y)| at(x, y).iter().all(|part| *part < 120));
        assert!(dark.count() > 50);
    }
}
