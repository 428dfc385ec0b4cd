//! An unlimited synthetic dataset: colored shapes, sentences that say what is where, and a detector that sees it again.

mod accuracy;
mod detect;
mod scene;

pub use accuracy::Accuracy;
pub use detect::detect;
pub use scene::{Background, Color, Figure, Kind, Relation, Scene, Size};

use crate::sample::{Image, Sample};
use microdit::rng::{Purpose, Stream};

/// How far a figure's center may lie from its place, in units of the image's side.
const JITTER: f32 = 0.03;

/// A generator of images of `size` pixels with one figure or, one time in four, a pair; sample i is a pure function
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

impl Shapes {
    /// Sample `index` of the stream of `seed`.
    pub fn sample(&self, seed: u64, index: u64) -> Sample {
        let scene = Self::scene(seed, index);
        let image = Image::Decoded(scene.paint(self.size));
        Sample::new(&format!("shapes-{seed}-{index}"), &scene.caption(), image)
    }

    /// What that sample shows.
    pub fn scene(seed: u64, index: u64) -> Scene {
        fn one<T: Copy>(all: &[T], random: &mut Stream) -> T {
            all[random.below(all.len())]
        }
        let mut random = Stream::new(seed, Purpose::Synthetic, 0, index);
        let background = one(Background::ALL, &mut random);
        let choice = Stream::new(seed, Purpose::Synthetic, 1, index).below(4 * Relation::ALL.len());
        let relation = Relation::ALL.get(choice).copied();
        let figure = |place: [f32; 2]| {
            let color = one(Color::ALL, &mut random);
            let size = one(Size::ALL, &mut random);
            let kind = one(Kind::ALL, &mut random);
            let jitter = |at| at + JITTER * (2.0 * random.uniform(1)[0] - 1.0);
            Figure {
                size,
                color,
                kind,
                center: place.map(jitter),
            }
        };
        Scene {
            background,
            figures: Scene::places(relation).into_iter().map(figure).collect(),
            relation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    #[test]
    fn the_caption_names_the_colors_in_the_picture() {
        for index in 0..200 {
            let sample = Shapes { size: 32 }.sample(3, index);
            let Image::Decoded(image) = sample.image else {
                panic!("shapes are pixels")
            };
            let shown = |color: [u8; 3]| image.pixels().filter(|pixel| pixel.0 == color).count();
            for (word, color) in Color::ALL.iter().map(|color| (color.word(), color.rgb())) {
                let named = sample.caption.split(' ').any(|w| w == word);
                assert_eq!(named, shown(color) > 4, "{}: {word}", sample.caption);
            }
            let backgrounds = Background::ALL.iter();
            for (word, color) in backgrounds.map(|ground| (ground.word(), ground.rgb())) {
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
                .filter_map(|word| Color::ALL.iter().find(|color| color.word() == *word))
                .map(|color| color.rgb())
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
