//! What an image of the shapes data shows, seen again in its pixels: the ground truth by which drawn pictures are judged.

use super::scene::{
    Background, Color, Figure, Kind, Relation, SUBPIXELS, Scene, Size, contains, radius,
};
use image::RgbImage;

/// Share of the image below which a spot is a speck, and no figure: a third of the smallest figure there is.
const SPECK: f32 = 0.01;

/// Overlap (intersection over union) with the best figure below which a spot is none.
const MIN_OVERLAP: f32 = 0.6;

/// Steps, in pixels, in which a figure's center is looked for.
const STEP: f32 = 0.25;

/// What a square image shows: as the generator would describe it, if it had painted it. Spots that are no figure of the
/// generator are left out, so that there may be any number of figures; the relation is that of two. Two figures of one color
/// that touch are seen as one, which large ones of a pair may do in small images.
///
/// ```
/// use microdit_data::shapes::{Scene, detect};
/// let caption = "a small red circle on a gray background";
/// let image = Scene::read(caption).unwrap().paint(64);
/// assert_eq!(detect(&image).caption(), caption);
/// ```
pub fn detect(image: &RgbImage) -> Scene {
    let background = background(image);
    let spots = spots(image, background);
    let fit = |spot: &Spot| spot.figure(spots.len(), image, background);
    let figures: Vec<Figure> = spots.iter().filter_map(fit).collect();
    let relation = match &figures[..] {
        [first, second] => Some(relation(first, second)),
        _ => None,
    };
    Scene {
        background,
        figures,
        relation,
    }
}

/// The background most of the border resembles.
fn background(image: &RgbImage) -> Background {
    let (width, height) = image.dimensions();
    let border = image
        .enumerate_pixels()
        .filter(|(x, y, _)| *x == 0 || *y == 0 || *x + 1 == width || *y + 1 == height);
    let mut votes = [0; Background::ALL.len()];
    for (.., pixel) in border {
        let distance = |ground: Background| squared(&sub(pixel.0, ground.rgb()));
        let nearest = (0..votes.len())
            .min_by(|&a, &b| distance(Background::ALL[a]).total_cmp(&distance(Background::ALL[b])));
        votes[nearest.unwrap_or(0)] += 1;
    }
    let most = (0..votes.len()).max_by_key(|&i| votes[i]).unwrap_or(0);
    Background::ALL[most]
}

fn sub(a: [u8; 3], b: [u8; 3]) -> [f32; 3] {
    std::array::from_fn(|i| f32::from(a[i]) - f32::from(b[i]))
}

fn squared(v: &[f32; 3]) -> f32 {
    v.iter().map(|x| x * x).sum()
}

/// How much of a pixel is painted in `color`, 0 to 1, and how far it is from any mixture with the background.
fn share(pixel: [u8; 3], background: Background, color: Color) -> (f32, f32) {
    let paint = sub(color.rgb(), background.rgb());
    let from_ground = sub(pixel, background.rgb());
    let along: f32 = paint.iter().zip(&from_ground).map(|(a, b)| a * b).sum();
    let share = (along / squared(&paint)).clamp(0.0, 1.0);
    let rest: [f32; 3] = std::array::from_fn(|i| from_ground[i] - share * paint[i]);
    (share, squared(&rest))
}

/// The color a pixel is painted with, if more than half of it is: on an edge, colors mix with the background.
fn paint(pixel: [u8; 3], background: Background) -> Option<Color> {
    let mixed = Color::ALL
        .iter()
        .map(|&color| (color, share(pixel, background, color)));
    let (color, (share, _)) = mixed.min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1))?;
    (share >= 0.5).then_some(color)
}

/// Pixels of one color that touch.
struct Spot {
    pixels: Vec<[u32; 2]>,
    color: Color,
}

/// All spots but specks, by their uppermost pixels.
fn spots(image: &RgbImage, background: Background) -> Vec<Spot> {
    let (width, height) = image.dimensions();
    let mut left: Vec<Option<Color>> = image
        .pixels()
        .map(|pixel| paint(pixel.0, background))
        .collect();
    let index = |[x, y]: [u32; 2]| (y * width + x) as usize;
    let mut spots = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let Some(color) = left[index([x, y])] else {
                continue;
            };
            let (mut pixels, mut stack) = (Vec::new(), vec![[x, y]]);
            while let Some(at) = stack.pop() {
                let Some(_) = left[index(at)].take_if(|own| *own == color) else {
                    continue;
                };
                pixels.push(at);
                let [x, y] = at;
                let sides = [
                    (x > 0).then(|| [x - 1, y]),
                    (y > 0).then(|| [x, y - 1]),
                    (x + 1 < width).then_some([x + 1, y]),
                    (y + 1 < height).then_some([x, y + 1]),
                ];
                stack.extend(sides.into_iter().flatten());
            }
            if pixels.len() as f32 >= SPECK * (width * height) as f32 {
                spots.push(Spot { pixels, color });
            }
        }
    }
    spots
}

impl Spot {
    /// The figure it overlaps with best, in an image of `count` figures, unless that is little.
    fn figure(&self, count: usize, image: &RgbImage, background: Background) -> Option<Figure> {
        let side = image.width() as f32;
        let shares = self.shares(image, background);
        let mut best = (MIN_OVERLAP, None);
        for &size in Size::ALL {
            for &kind in Kind::ALL {
                let radius = radius(size, count) * side;
                let (overlap, center) = shares.climb(kind, self.middle(), radius);
                if overlap > best.0 {
                    let figure = Figure {
                        size,
                        color: self.color,
                        kind,
                        center: center.map(|at| at / side),
                    };
                    best = (overlap, Some(figure));
                }
            }
        }
        best.1
    }

    /// First and last pixel along an axis.
    fn bounds(&self, axis: usize) -> [u32; 2] {
        let along = || self.pixels.iter().map(move |pixel| pixel[axis]);
        [along().min().unwrap_or(0), along().max().unwrap_or(0)]
    }

    /// The middle of its box, which is that of any figure.
    fn middle(&self) -> [f32; 2] {
        [0, 1].map(|axis| {
            let [first, last] = self.bounds(axis);
            (first + last + 1) as f32 / 2.0
        })
    }

    /// How much of each pixel is painted, in its box and one pixel around.
    fn shares(&self, image: &RgbImage, background: Background) -> Shares {
        let range = |axis: usize, sides: u32| {
            let [first, last] = self.bounds(axis);
            first.saturating_sub(1)..(last + 2).min(sides)
        };
        let (columns, rows) = (range(0, image.width()), range(1, image.height()));
        let pixels = rows.flat_map(|y| columns.clone().map(move |x| [x, y]));
        let of = |[x, y]: [u32; 2]| {
            let (share, _) = share(image.get_pixel(x, y).0, background, self.color);
            ([x, y], share)
        };
        Shares(pixels.map(of).collect())
    }
}

/// How much of each pixel is painted, 0 to 1.
struct Shares(Vec<([u32; 2], f32)>);

impl Shares {
    /// The best overlap with a figure that steps from `center` lead to, and its center.
    fn climb(&self, kind: Kind, center: [f32; 2], radius: f32) -> (f32, [f32; 2]) {
        let at = |center| (self.overlap(kind, center, radius), center);
        let mut best = at(center);
        loop {
            let next = around(best.1).map(at);
            match next.max_by(|a, b| a.0.total_cmp(&b.0)) {
                Some(next) if next.0 > best.0 => best = next,
                _ => return best,
            }
        }
    }

    /// Intersection over union with a figure, both by shares of pixels.
    fn overlap(&self, kind: Kind, center: [f32; 2], radius: f32) -> f32 {
        let (mut both, mut either) = (0.0, 0.0);
        for &(pixel, share) in &self.0 {
            let covered = coverage(kind, center, radius, pixel);
            both += share.min(covered);
            either += share.max(covered);
        }
        both / either.max(1.0)
    }
}

/// How much of a pixel a figure covers.
fn coverage(kind: Kind, center: [f32; 2], radius: f32, pixel: [u32; 2]) -> f32 {
    let at = |axis: usize, sub: u32| {
        let place = pixel[axis] as f32 + (sub as f32 + 0.5) / SUBPIXELS as f32;
        (place - center[axis]) / radius
    };
    let points = (0..SUBPIXELS).flat_map(|i| (0..SUBPIXELS).map(move |j| (i, j)));
    let hits = points
        .filter(|&(i, j)| contains(kind, [at(0, i), at(1, j)]))
        .count();
    hits as f32 / (SUBPIXELS * SUBPIXELS) as f32
}

/// A point and its eight neighbors a step away.
fn around([x, y]: [f32; 2]) -> impl Iterator<Item = [f32; 2]> {
    let offsets = [-STEP, 0.0, STEP];
    offsets
        .into_iter()
        .flat_map(move |i| offsets.map(|j| [x + i, y + j]))
}

/// Where `first` is, seen from `second`.
pub(super) fn relation(first: &Figure, second: &Figure) -> Relation {
    let [x, y] = [0, 1].map(|axis| first.center[axis] - second.center[axis]);
    match (x.abs() > y.abs(), x < 0.0, y < 0.0) {
        (true, true, _) => Relation::LeftOf,
        (true, false, _) => Relation::RightOf,
        (false, _, true) => Relation::Above,
        (false, _, false) => Relation::Below,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shapes, shapes::Accuracy};

    #[test]
    fn what_the_generator_painted_is_seen_again() {
        for (side, count) in [(32, 1000), (48, 200), (64, 200)] {
            for index in 0..count {
                let asked = Shapes::scene(11, index);
                let seen = detect(&asked.paint(side));
                let judged = Accuracy::of(&seen, &asked);
                assert!(judged.all, "{side} px, {}: {seen:?}", asked.caption());
            }
        }
    }

    #[test]
    fn noise_is_no_figure_and_hides_none() {
        use microdit::rng::{Purpose, Stream};
        for index in 0..200 {
            let asked = Shapes::scene(5, index);
            let mut image = asked.paint(64);
            let noise = Stream::new(1, Purpose::Noise, 0, index).normal(3 * 64 * 64);
            for (value, noise) in image.iter_mut().zip(noise) {
                *value = (f32::from(*value) + 12.0 * noise).clamp(0.0, 255.0) as u8;
            }
            assert!(
                Accuracy::of(&detect(&image), &asked).all,
                "{}",
                asked.caption()
            );
        }
    }
}
