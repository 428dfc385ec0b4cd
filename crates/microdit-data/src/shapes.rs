//! An unlimited synthetic dataset: colored shapes, and sentences that say what is where.

use crate::sample::{Image, Sample};
use image::{Rgb, RgbImage};
use microdit::rng::{Purpose, Stream};

const COLORS: [(&str, [u8; 3]); 6] = [
    ("red", [220, 40, 40]),
    ("green", [40, 170, 60]),
    ("blue", [50, 80, 220]),
    ("yellow", [240, 210, 50]),
    ("purple", [150, 60, 190]),
    ("orange", [245, 140, 30]),
];
const BACKGROUNDS: [(&str, [u8; 3]); 3] = [
    ("white", [245, 245, 245]),
    ("black", [15, 15, 15]),
    ("gray", [128, 128, 128]),
];
const SHAPES: [&str; 4] = ["circle", "square", "triangle", "cross"];
/// Words, and the radius of a shape that is alone, as a fraction of the image's side.
const SIZES: [(&str, f32); 2] = [("small", 0.2), ("large", 0.36)];
/// Shapes in a pair are smaller by this factor, so that both find room.
const PAIR: f32 = 0.6;
/// Words, and the first shape's offset from the second.
const RELATIONS: [(&str, f32, f32); 4] = [
    ("above", 0.0, -0.5),
    ("below", 0.0, 0.5),
    ("left of", -0.5, 0.0),
    ("right of", 0.5, 0.0),
];
/// How far a shape's center may lie from its place, as a fraction of the image's side.
const JITTER: f32 = 0.03;
/// Sub-pixels along one side of a pixel.
const SUBPIXELS: u32 = 4;

/// A generator of images of `size` pixels with one shape or, one time in four, a pair; sample i is a pure function
/// of (seed, i).
///
/// ```
/// use microdit_data::Shapes;
/// let sample = Shapes { size: 32 }.sample(0, 7);
/// assert_eq!(sample.caption, Shapes { size: 64 }.sample(0, 7).caption);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// Side of the images in pixels.
    pub size: u32,
}

/// One shape, in units of the image's side.
struct Shape {
    kind: usize,
    color: [u8; 3],
    center: [f32; 2],
    radius: f32,
}

impl Shapes {
    /// Sample `index` of the stream of `seed`.
    pub fn sample(&self, seed: u64, index: u64) -> Sample {
        let mut random = Stream::new(seed, Purpose::Synthetic, 0, index);
        let (background, ground) = BACKGROUNDS[random.below(BACKGROUNDS.len())];
        let jitter = |random: &mut Stream| JITTER * (2.0 * random.uniform(1)[0] - 1.0);
        let mut shape = |center: [f32; 2], scale: f32| {
            let (color, paint) = COLORS[random.below(COLORS.len())];
            let (size, radius) = SIZES[random.below(SIZES.len())];
            let kind = random.below(SHAPES.len());
            let center = center.map(|c| c + jitter(&mut random));
            let words = format!("{size} {color} {}", SHAPES[kind]);
            let shape = Shape {
                kind,
                color: paint,
                center,
                radius: radius * scale,
            };
            (words, shape)
        };
        let choice = Stream::new(seed, Purpose::Synthetic, 1, index).below(4 * RELATIONS.len());
        let (caption, shapes) = match RELATIONS.get(choice) {
            Some(&(relation, dx, dy)) => {
                let (first, a) = shape([0.5 + dx / 2.0, 0.5 + dy / 2.0], PAIR);
                let (second, b) = shape([0.5 - dx / 2.0, 0.5 - dy / 2.0], PAIR);
                let caption =
                    format!("a {first} {relation} a {second} on a {background} background");
                (caption, vec![a, b])
            }
            None => {
                let (words, only) = shape([0.5, 0.5], 1.0);
                (
                    format!("a {words} on a {background} background"),
                    vec![only],
                )
            }
        };
        Sample {
            key: format!("shapes-{seed}-{index}"),
            caption,
            image: Image::Decoded(self.paint(ground, &shapes)),
            damage: None,
        }
    }

    fn paint(&self, ground: [u8; 3], shapes: &[Shape]) -> RgbImage {
        let step = 1.0 / (self.size * SUBPIXELS) as f32;
        RgbImage::from_fn(self.size, self.size, |x, y| {
            let mut sum = [0u32; 3];
            for sub in 0..SUBPIXELS * SUBPIXELS {
                let at = [
                    ((x * SUBPIXELS + sub % SUBPIXELS) as f32 + 0.5) * step,
                    ((y * SUBPIXELS + sub / SUBPIXELS) as f32 + 0.5) * step,
                ];
                let hit = shapes.iter().find(|shape| shape.contains(at));
                let color = hit.map_or(ground, |shape| shape.color);
                sum.iter_mut()
                    .zip(color)
                    .for_each(|(sum, level)| *sum += u32::from(level));
            }
            Rgb(sum.map(|level| (level / (SUBPIXELS * SUBPIXELS)) as u8))
        })
    }
}

impl Shape {
    fn contains(&self, at: [f32; 2]) -> bool {
        let x = (at[0] - self.center[0]) / self.radius;
        let y = (at[1] - self.center[1]) / self.radius;
        match SHAPES[self.kind] {
            "circle" => x * x + y * y <= 1.0,
            "square" => x.abs().max(y.abs()) <= 0.9,
            // From the tip at y = -1 down to the base at y = 1.
            "triangle" => (-1.0..=1.0).contains(&y) && x.abs() <= (y + 1.0) / 2.0,
            _ => x.abs().max(y.abs()) <= 1.0 && x.abs().min(y.abs()) <= 0.33,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caption_names_the_colors_in_the_picture() {
        for index in 0..200 {
            let sample = Shapes { size: 32 }.sample(3, index);
            let Image::Decoded(image) = sample.image else {
                panic!("shapes are pixels")
            };
            let shown = |color: [u8; 3]| image.pixels().filter(|pixel| pixel.0 == color).count();
            for (word, color) in COLORS {
                let named = sample.caption.split(' ').any(|w| w == word);
                assert_eq!(named, shown(color) > 4, "{}: {word}", sample.caption);
            }
            for (word, color) in BACKGROUNDS {
                assert_eq!(
                    sample.caption.contains(&format!("on a {word} ")),
                    shown(color) > 100
                );
            }
        }
    }

    #[test]
    fn the_first_shape_lies_where_the_caption_says() {
        let center = |image: &RgbImage, color: [u8; 3]| {
            let hits: Vec<_> = image
                .enumerate_pixels()
                .filter(|(_, _, p)| p.0 == color)
                .collect();
            let mean = |of: fn(&(u32, u32, &Rgb<u8>)) -> u32| {
                hits.iter().map(of).sum::<u32>() as f32 / hits.len() as f32
            };
            (mean(|hit| hit.0), mean(|hit| hit.1))
        };
        for index in 0..200 {
            let sample = Shapes { size: 64 }.sample(5, index);
            let words: Vec<&str> = sample.caption.split(' ').collect();
            let Some(relation) = words
                .iter()
                .find(|w| ["above", "below", "left", "right"].contains(w))
            else {
                continue;
            };
            let named: Vec<[u8; 3]> = words
                .iter()
                .filter_map(|word| COLORS.iter().find(|(name, _)| name == word))
                .map(|(_, color)| *color)
                .collect();
            if named[0] == named[1] {
                continue;
            }
            let Image::Decoded(image) = &sample.image else {
                panic!("shapes are pixels")
            };
            let (a, b) = (center(image, named[0]), center(image, named[1]));
            let holds = match *relation {
                "above" => a.1 < b.1,
                "below" => a.1 > b.1,
                "left" => a.0 < b.0,
                _ => a.0 > b.0,
            };
            assert!(holds, "{}", sample.caption);
        }
    }
}
