//! How much of what a prompt asks for a picture shows.

use super::{
    detect::relation,
    scene::{Figure, Scene},
};

/// How much of what a prompt asks for is in a picture. Shares are over the prompt's figures; one that is missing has
/// nothing right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Whether everything is as asked for, and nothing is there besides.
    pub all: bool,
    /// Whether there are as many figures.
    pub count: bool,
    /// Share of the figures of the right shape.
    pub kind: f64,
    /// Share of the right color.
    pub color: f64,
    /// Share of the right size.
    pub size: f64,
    /// Whether the background is right.
    pub background: bool,
    /// Whether a pair stands as asked for; none of a single figure.
    pub relation: Option<bool>,
}

impl Accuracy {
    /// Judges what is `seen` by what was `asked` for. Of two figures, either may be the first.
    pub fn of(seen: &Scene, asked: &Scene) -> Self {
        let straight = Self::in_order(seen, asked);
        let [first, second] = seen.figures[..] else {
            return straight;
        };
        let swapped = Scene {
            figures: vec![second, first],
            relation: Some(relation(&second, &first)),
            ..seen.clone()
        };
        let swapped = Self::in_order(&swapped, asked);
        let right = |judged: &Self| {
            let relation = f64::from(u8::from(judged.relation == Some(true)));
            judged.kind + judged.color + judged.size + relation / 2.0
        };
        match right(&swapped) > right(&straight) {
            true => swapped,
            false => straight,
        }
    }

    fn in_order(seen: &Scene, asked: &Scene) -> Self {
        let count = seen.figures.len() == asked.figures.len();
        let share = |right: fn(&Figure, &Figure) -> bool| {
            let pairs = seen.figures.iter().zip(&asked.figures);
            let right = pairs.filter(|(seen, asked)| right(seen, asked)).count();
            right as f64 / asked.figures.len().max(1) as f64
        };
        let judged = Self {
            all: false,
            count,
            kind: share(|seen, asked| seen.kind == asked.kind),
            color: share(|seen, asked| seen.color == asked.color),
            size: share(|seen, asked| seen.size == asked.size),
            background: seen.background == asked.background,
            relation: asked.relation.map(|asked| seen.relation == Some(asked)),
        };
        Self {
            all: count
                && [judged.kind, judged.color, judged.size] == [1.0; 3]
                && judged.background
                && judged.relation != Some(false),
            ..judged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Background, detect};
    use image::RgbImage;

    #[test]
    fn each_mistake_costs_its_own_share() {
        let read = |text: &str| Scene::read(text).unwrap();
        let asked = read("a small red circle above a large blue cross on a gray background");
        let judge = |shown: &str| Accuracy::of(&detect(&read(shown).paint(64)), &asked);
        let right = Accuracy {
            all: true,
            count: true,
            kind: 1.0,
            color: 1.0,
            size: 1.0,
            background: true,
            relation: Some(true),
        };
        let wrong = Accuracy {
            all: false,
            ..right
        };
        for (shown, expected) in [
            (
                "a small red circle above a large blue cross on a gray background",
                right,
            ),
            (
                "a large blue cross below a small red circle on a gray background",
                right,
            ),
            (
                "a small red circle below a large blue cross on a gray background",
                Accuracy {
                    relation: Some(false),
                    ..wrong
                },
            ),
            (
                "a small red square above a large blue cross on a gray background",
                Accuracy { kind: 0.5, ..wrong },
            ),
            (
                "a small red circle above a large purple cross on a gray background",
                Accuracy {
                    color: 0.5,
                    ..wrong
                },
            ),
            (
                "a large red circle above a large blue cross on a gray background",
                Accuracy { size: 0.5, ..wrong },
            ),
            (
                "a small red circle above a large blue cross on a black background",
                Accuracy {
                    background: false,
                    ..wrong
                },
            ),
            (
                "a small red circle on a gray background",
                Accuracy {
                    count: false,
                    kind: 0.5,
                    color: 0.5,
                    size: 0.5,
                    relation: Some(false),
                    ..wrong
                },
            ),
        ] {
            assert_eq!(judge(shown), expected, "{shown}");
        }
        let nothing = detect(&RgbImage::from_pixel(32, 32, image::Rgb([130, 125, 128])));
        assert_eq!(
            (nothing.background, nothing.figures.len()),
            (Background::Gray, 0)
        );
    }
}
