//! Aspect-ratio buckets: the sizes that pictures are cropped to, so that those of a batch have one shape.

use microdit::range::{OutOfRange, require, within};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How buckets are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BucketConfig {
    /// All sizes with sides that are multiples of a step and no more pixels than the square: those of which neither side could be a step longer.
    Step {
        /// Pixels between two sides, 1 to 2^16.
        step: u32,
        /// How many times longer than wide a size may be, and the reverse, 1 to 64.
        #[serde(default = "twice")]
        max_aspect: f64,
    },
    /// These sizes, each with no more pixels than the square.
    Sizes(Vec<BucketSize>),
}

/// A size of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSize {
    /// Pixels across, 1 to 2^16.
    pub width: u32,
    /// Pixels down, 1 to 2^16.
    pub height: u32,
}

fn twice() -> f64 {
    BucketConfig::MAX_ASPECT
}

/// Sizes of pictures, none twice, from the highest to the widest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<[u32; 2]>);

impl BucketConfig {
    /// How many times longer than wide a size of [`Step`](Self::Step) may be, unless something else is said.
    pub const MAX_ASPECT: f64 = 2.0;

    /// The buckets of pictures that take no more pixels than a square of `side`. (The algorithm is that of NovelAI's and SDXL's
    /// buckets, arXiv 2307.01952, appendix I.)
    ///
    /// # Errors
    /// A number outside of its range, a size that is listed twice or has more pixels than the square, or no size at all.
    pub fn of(&self, side: u32) -> Result<Buckets, OutOfRange> {
        let most = u64::from(side) * u64::from(side);
        let mut sizes: Vec<[u32; 2]> = Vec::new();
        match *self {
            Self::Step { step, max_aspect } => {
                within("step", step, 1..=1 << 16)?;
                within("max_aspect", max_aspect, 1.0..=64.0)?;
                // What is wider is narrower than the narrowest that may be.
                let widest = f64::from(side) * max_aspect;
                for width in (1..=(widest / f64::from(step)) as u32).map(|i| i * step) {
                    let height = most / u64::from(width) / u64::from(step) * u64::from(step);
                    let Ok(height) = u32::try_from(height) else {
                        continue;
                    };
                    let (short, long) = (width.min(height), width.max(height));
                    // A wider one of this height is better: so there is a high size for each wide one.
                    let widest = u64::from(width + step) * u64::from(height) > most;
                    if short > 0 && widest && f64::from(long) <= max_aspect * f64::from(short) {
                        sizes.push([width, height]);
                    }
                }
                require(!sizes.is_empty(), "step", || {
                    format!(
                        "no size of multiples of {step} within {side} x {side} pixels has an aspect of at most {max_aspect}"
                    )
                })?;
            }
            Self::Sizes(ref listed) => {
                require(!listed.is_empty(), "0", || "no size is listed".into())?;
                for (i, &BucketSize { width, height }) in listed.iter().enumerate() {
                    within(&format!("{i}.width"), width, 1..=1 << 16)?;
                    within(&format!("{i}.height"), height, 1..=1 << 16)?;
                    let (key, pixels) = (i.to_string(), u64::from(width) * u64::from(height));
                    require(pixels <= most, &key, || {
                        format!(
                            "a width of {width} and a height of {height} are {pixels} pixels, more than the {most} of {side} x {side} (image_size)"
                        )
                    })?;
                    require(!sizes.contains(&[width, height]), &key, || {
                        format!("a width of {width} and a height of {height} are listed twice")
                    })?;
                    sizes.push([width, height]);
                }
            }
        }
        let aspect = |[width, height]: &[u32; 2]| f64::from(*width) / f64::from(*height);
        sizes.sort_by(|a, b| aspect(a).total_cmp(&aspect(b)).then(a.cmp(b)));
        Ok(Buckets(sizes))
    }
}

/// `64`, a step in pixels, or `320x192,256x256`, sizes.
impl FromStr for BucketConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|side| (1..=1 << 16).contains(side))
        };
        if let Some(step) = side(text) {
            let max_aspect = Self::MAX_ASPECT;
            return Ok(Self::Step { step, max_aspect });
        }
        let size = |text: &str| {
            let (width, height) = text.split_once('x')?;
            Some(BucketSize {
                width: side(width)?,
                height: side(height)?,
            })
        };
        let sizes: Option<Vec<BucketSize>> = text.split(',').map(size).collect();
        sizes.map(Self::Sizes).ok_or_else(|| {
            "expected a step in pixels, such as 64, or sizes, such as 320x192,256x256, with sides of 1 to 65536".into()
        })
    }
}

impl Buckets {
    /// Width and height of each.
    pub fn sizes(&self) -> &[[u32; 2]] {
        &self.0
    }

    /// The one whose shape is nearest to that of a picture, by the ratio of their aspect ratios; of two the higher.
    pub fn nearest(&self, width: u32, height: u32) -> usize {
        let log = |[width, height]: [u32; 2]| f64::from(width).ln() - f64::from(height).ln();
        let own = log([width, height]);
        let distance = |size: &[u32; 2]| (log(*size) - own).abs();
        let nearest = self.0.iter().enumerate();
        let nearest = nearest.min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
        nearest.map_or(0, |(place, _)| place)
    }

    /// How many of pictures of these sizes belong to each.
    pub fn histogram<'a>(
        &self,
        pictures: impl IntoIterator<Item = (&'a [u32; 2], &'a u64)>,
    ) -> Vec<([u32; 2], u64)> {
        let mut counts = vec![0; self.0.len()];
        for (&[width, height], count) in pictures {
            counts[self.nearest(width, height)] += count;
        }
        self.0.iter().copied().zip(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stepped(side: u32, step: u32, max_aspect: f64) -> Vec<[u32; 2]> {
        let buckets = BucketConfig::Step { step, max_aspect }.of(side).unwrap();
        buckets.sizes().to_vec()
    }

    #[test]
    fn steps_give_every_size_within_the_budget() {
        assert_eq!(stepped(256, 64, 2.0), [[192, 320], [256, 256], [320, 192]]);
        // Laws, for many numbers.
        for (side, step, aspect) in [
            (512, 64, 2.0),
            (1024, 64, 4.0),
            (256, 16, 3.0),
            (100, 8, 1.5),
            (32, 8, 2.0),
        ] {
            let sizes = stepped(side, step, aspect);
            assert!(sizes.len() > 2, "{side}, {step}");
            for &[width, height] in &sizes {
                assert!(width % step == 0 && height % step == 0);
                assert!(u64::from(width) * u64::from(height) <= u64::from(side).pow(2));
                let (short, long) = (width.min(height), width.max(height));
                assert!(f64::from(long) <= aspect * f64::from(short));
                // A step more would not fit.
                assert!(u64::from(width) * u64::from(height + step) > u64::from(side).pow(2));
            }
            if side % step == 0 {
                assert!(sizes.contains(&[side, side]), "{sizes:?}");
            }
            // On its side, every size is one too.
            let turned = |&[width, height]: &[u32; 2]| sizes.contains(&[height, width]);
            assert!(sizes.iter().all(turned), "{sizes:?}");
            assert!(sizes.is_sorted_by(|a, b| a[0] * b[1] <= b[0] * a[1]));
        }
    }

    #[test]
    fn the_nearest_shape_is_taken() {
        let buckets: BucketConfig = "192x320,256x256,320x192".parse().unwrap();
        let buckets = buckets.of(256).unwrap();
        for (width, height, place) in [
            (100, 100, 1),
            (1000, 100, 2),
            (10, 4000, 0),
            (640, 480, 2),
            (480, 640, 0),
            (500, 400, 1),
            (400, 500, 1),
        ] {
            assert_eq!(buckets.nearest(width, height), place, "{width} x {height}");
        }
        // A picture and the picture on its side go to mirrored buckets.
        for (width, height) in [(3, 2), (16, 9), (5, 4), (21, 9)] {
            let [a, b] = [(width, height), (height, width)]
                .map(|(w, h)| buckets.sizes()[buckets.nearest(w, h)]);
            assert_eq!([a[1], a[0]], b);
        }
        let pictures =
            std::collections::BTreeMap::from([([10, 10], 3), ([20, 10], 2), ([11, 10], 1)]);
        assert_eq!(
            buckets.histogram(&pictures),
            [([192, 320], 0), ([256, 256], 4), ([320, 192], 2)]
        );
    }

    #[test]
    fn what_gives_no_buckets_is_named() {
        for (text, part) in [
            ("300", "no size of multiples of 300"),
            ("300x256", "more than the 65536 of 256 x 256"),
            ("128x128,128x128", "listed twice"),
        ] {
            let config: BucketConfig = text.parse().unwrap();
            let error = config.of(256).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        for text in ["", "x", "12x", "a,b", "-1", "1.5", "0", "0x5", "65537"] {
            assert!(text.parse::<BucketConfig>().is_err(), "{text}");
        }
    }
}
