//! What an image of the shapes data shows, in words and in geometry.

use image::{Rgb, RgbImage};

/// Figures of a pair are smaller by this factor, so that both find room.
const PAIR: f32 = 0.6;

/// Sub-pixels along one side of a pixel.
pub(super) const SUBPIXELS: u32 = 4;

/// An enum of which each variant has a word and a value.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $value:ty, $of:ident, { $($variant:ident $word:literal $is:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All of them, in the order in which they are drawn from random numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word in captions.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The one whose word begins `text`, and what follows behind a space.
            fn read(text: &str) -> Option<(Self, &str)> {
                Self::ALL.iter().find_map(|&one| {
                    let rest = text.strip_prefix(one.word())?;
                    Some((one, rest.strip_prefix(' ').unwrap_or(rest)))
                })
            }

            pub(super) fn $of(self) -> $value {
                match self { $(Self::$variant => $is),+ }
            }
        }
    };
}

words! {
    /// Color of a figure.
    Color: [u8; 3], rgb, {
        Red "red" [220, 40, 40],
        Green "green" [40, 170, 60],
        Blue "blue" [50, 80, 220],
        Yellow "yellow" [240, 210, 50],
        Purple "purple" [150, 60, 190],
        Orange "orange" [245, 140, 30],
    }
}

words! {
    /// Color around the figures.
    Background: [u8; 3], rgb, {
        White "white" [245, 245, 245],
        Black "black" [15, 15, 15],
        Gray "gray" [128, 128, 128],
    }
}

words! {
    /// Shape of a figure; the value is the largest coordinate of a point in it, in units of the radius.
    Kind: f32, reach, {
        Circle "circle" 1.0,
        Square "square" 0.9,
        Triangle "triangle" 1.0,
        Cross "cross" 1.0,
    }
}

words! {
    /// Size of a figure; the value is the radius of one that is alone, in units of the image's side.
    Size: f32, radius, {
        Small "small" 0.2,
        Large "large" 0.36,
    }
}

words! {
    /// Where the first figure of a pair is, seen from the second; the value is its offset, in units of the image's side.
    Relation: [f32; 2], offset, {
        Above "above" [0.0, -0.5],
        Below "below" [0.0, 0.5],
        LeftOf "left of" [-0.5, 0.0],
        RightOf "right of" [0.5, 0.0],
    }
}

/// A figure in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its size.
    pub size: Size,
    /// Its color.
    pub color: Color,
    /// Its shape.
    pub kind: Kind,
    /// Its center from the upper left corner, right and down, in units of the image's side.
    pub center: [f32; 2],
}

impl Figure {
    fn words(&self) -> String {
        let [size, color, kind] = [self.size.word(), self.color.word(), self.kind.word()];
        format!("{size} {color} {kind}")
    }

    fn read(text: &str, center: [f32; 2]) -> Option<(Self, &str)> {
        let (size, text) = Size::read(text)?;
        let (color, text) = Color::read(text)?;
        let (kind, text) = Kind::read(text)?;
        let figure = Self {
            size,
            color,
            kind,
            center,
        };
        Some((figure, text))
    }
}

/// Radius of a figure of `size` in a scene of `count` figures, in units of the image's side.
pub(super) fn radius(size: Size, count: usize) -> f32 {
    match count {
        1 => size.radius(),
        _ => size.radius() * PAIR,
    }
}

/// Whether a point, right and down from the center in units of the radius, lies in a figure.
pub(super) fn contains(kind: Kind, [x, y]: [f32; 2]) -> bool {
    match kind {
        Kind::Circle => x * x + y * y <= 1.0,
        Kind::Square => x.abs().max(y.abs()) <= kind.reach(),
        // From the tip at y = -1 down to the base at y = 1.
        Kind::Triangle => (-1.0..=1.0).contains(&y) && x.abs() <= (y + 1.0) / 2.0,
        Kind::Cross => x.abs().max(y.abs()) <= 1.0 && x.abs().min(y.abs()) <= 0.33,
    }
}

/// What an image shows: one figure, or a pair.
///
/// ```
/// use microdit_data::shapes::{Relation, Scene};
/// let caption = "a small red circle above a large blue cross on a gray background";
/// let scene = Scene::read(caption).unwrap();
/// assert_eq!(scene.relation, Some(Relation::Above));
/// assert_eq!(scene.caption(), caption);
/// assert!(Scene::read("a photograph of a cat").is_none());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Color around the figures.
    pub background: Background,
    /// One or two.
    pub figures: Vec<Figure>,
    /// Of a pair, where the first is, seen from the second.
    pub relation: Option<Relation>,
}

impl Scene {
    /// Where figures lie, but for their jitter.
    pub(super) fn places(relation: Option<Relation>) -> Vec<[f32; 2]> {
        match relation.map(Relation::offset) {
            None => vec![[0.5, 0.5]],
            Some([x, y]) => vec![
                [0.5 + x / 2.0, 0.5 + y / 2.0],
                [0.5 - x / 2.0, 0.5 - y / 2.0],
            ],
        }
    }

    /// What the generator says of it.
    pub fn caption(&self) -> String {
        let background = self.background.word();
        match (&self.figures[..], self.relation) {
            ([first, second], Some(relation)) => format!(
                "a {} {} a {} on a {background} background",
                first.words(),
                relation.word(),
                second.words()
            ),
            (figures, _) => {
                let words: Vec<String> = figures.iter().map(Figure::words).collect();
                format!("a {} on a {background} background", words.join(" and a "))
            }
        }
    }

    /// The scene a caption of the generator speaks of, whose figures lie exactly at their places; none for other texts.
    pub fn read(caption: &str) -> Option<Self> {
        let text = caption.strip_prefix("a ")?;
        let (mut first, text) = Figure::read(text, [0.5; 2])?;
        let (relation, text) = match Relation::read(text) {
            Some((relation, text)) => (Some(relation), text),
            None => (None, text),
        };
        let places = Self::places(relation);
        first.center = places[0];
        let mut figures = vec![first];
        let text = match relation {
            Some(_) => {
                let (second, text) = Figure::read(text.strip_prefix("a ")?, places[1])?;
                figures.push(second);
                text
            }
            None => text,
        };
        let (background, text) = Background::read(text.strip_prefix("on a ")?)?;
        let scene = Self {
            background,
            figures,
            relation,
        };
        (text == "background").then_some(scene)
    }

    /// The image, `side` x `side` pixels.
    pub fn paint(&self, side: u32) -> RgbImage {
        let step = 1.0 / (side * SUBPIXELS) as f32;
        let color = |at: [f32; 2]| {
            let hit = self.figures.iter().find(|figure| {
                let radius = radius(figure.size, self.figures.len());
                let from_center = |i: usize| (at[i] - figure.center[i]) / radius;
                contains(figure.kind, [from_center(0), from_center(1)])
            });
            hit.map_or(self.background.rgb(), |figure| figure.color.rgb())
        };
        RgbImage::from_fn(side, side, |x, y| {
            let mut sum = [0u32; 3];
            for sub in 0..SUBPIXELS * SUBPIXELS {
                let at = [
                    ((x * SUBPIXELS + sub % SUBPIXELS) as f32 + 0.5) * step,
                    ((y * SUBPIXELS + sub / SUBPIXELS) as f32 + 0.5) * step,
                ];
                sum.iter_mut()
                    .zip(color(at))
                    .for_each(|(sum, level)| *sum += u32::from(level));
            }
            Rgb(sum.map(|level| (level / (SUBPIXELS * SUBPIXELS)) as u8))
        })
    }
}
