//! A curve of any length in bounded memory.

/// Buckets a curve is kept in; even, since neighbours are merged when it is full.
const BUCKETS: usize = 1000;

/// Share of the old mean in the moving one: a mean over about fifty points.
const KEPT: f64 = 0.98;

/// A curve that is added to point by point, kept as the least and the greatest value of each of at most 1,000 stretches
/// of equally many points, so that no peak is lost; and the first and the last point. Up to 1,000 points it is exact.
#[derive(Clone, Debug, Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Points a full bucket has.
    width: u64,
    /// Points in the last bucket.
    filled: u64,
    first: Option<(f64, f64)>,
    last: Option<(f64, f64)>,
    least: f64,
    greatest: f64,
}

/// The lowest and the highest point of a stretch.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    low: (f64, f64),
    high: (f64, f64),
}

impl Bucket {
    fn merge(self, other: Self) -> Self {
        Self {
            low: if other.low.1 < self.low.1 {
                other.low
            } else {
                self.low
            },
            high: if other.high.1 > self.high.1 {
                other.high
            } else {
                self.high
            },
        }
    }
}

impl Series {
    /// Adds a point; `x` does not fall. What is not finite is left out.
    pub fn push(&mut self, x: f64, y: f64) {
        if !x.is_finite() || !y.is_finite() {
            return;
        }
        let point = (x, y);
        if self.first.is_none() {
            self.first = Some(point);
            (self.least, self.greatest, self.width) = (y, y, 1);
        }
        self.last = Some(point);
        self.least = self.least.min(y);
        self.greatest = self.greatest.max(y);
        let bucket = Bucket {
            low: point,
            high: point,
        };
        if self.filled < self.width
            && let Some(last) = self.buckets.last_mut()
        {
            *last = last.merge(bucket);
            self.filled += 1;
            return;
        }
        if self.buckets.len() == BUCKETS {
            let pairs = self.buckets.chunks(2);
            self.buckets = pairs.map(|pair| pair[0].merge(pair[1])).collect();
            self.width *= 2;
        }
        self.buckets.push(bucket);
        self.filled = 1;
    }

    /// Whether it has no point.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The last point.
    pub fn last(&self) -> Option<(f64, f64)> {
        self.last
    }

    /// The points to draw, at most 2,002 of them, in order.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = self.first.into_iter().collect();
        for bucket in &self.buckets {
            let (mut one, mut other) = (bucket.low, bucket.high);
            if other.0 < one.0 {
                (one, other) = (other, one);
            }
            points.extend([one, other]);
        }
        points.extend(self.last);
        points.dedup();
        points
    }
}

/// A moving mean that does not lean towards its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MovingMean {
    sum: f64,
    weight: f64,
}

impl MovingMean {
    /// The mean after a further value; what is not finite is left out.
    pub(super) fn push(&mut self, value: f64) -> f64 {
        if value.is_finite() {
            self.sum = KEPT * self.sum + (1.0 - KEPT) * value;
            self.weight = KEPT * self.weight + (1.0 - KEPT);
        }
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_curves_are_exact() {
        let mut series = Series::default();
        let all: Vec<(f64, f64)> = (0..BUCKETS)
            .map(|i| (i as f64, (i * i % 7) as f64))
            .collect();
        for &(x, y) in &all {
            series.push(x, y);
        }
        assert_eq!(series.points(), all);
    }

    #[test]
    fn long_curves_keep_their_peaks_and_ends() {
        let mut series = Series::default();
        let y = |i: u64| match i {
            654_321 => 99.0,
            123_456 => -99.0,
            i => (i as f64).sin(),
        };
        for i in 0..1_000_003 {
            series.push(i as f64, y(i));
            series.push(i as f64, f64::NAN);
        }
        let points = series.points();
        assert!(points.len() > BUCKETS / 2, "{}", points.len());
        assert!(points.len() <= 2 * BUCKETS + 2, "{}", points.len());
        assert!(points.is_sorted_by(|one, other| one.0 <= other.0));
        for point in [
            (0.0, y(0)),
            (654_321.0, 99.0),
            (123_456.0, -99.0),
            (1_000_002.0, y(1_000_002)),
        ] {
            assert!(points.contains(&point), "{point:?}");
        }
        // Every drawn point is one that was added.
        assert!(points.iter().all(|point| y(point.0 as u64) == point.1));
    }

    #[test]
    fn the_moving_mean_begins_at_the_first_value() {
        let mut mean = MovingMean::default();
        assert!(mean.push(f64::NAN).is_nan());
        assert!((mean.push(5.0) - 5.0).abs() < 1e-12);
        for _ in 0..1000 {
            mean.push(2.0);
        }
        assert!((mean.push(2.0) - 2.0).abs() < 1e-6);
    }
}
