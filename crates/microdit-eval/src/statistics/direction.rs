//! Which way a metric improves.

use serde::{Deserialize, Serialize};

/// Which way a metric improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Lower is better: losses, distances.
    Lower,
    /// Higher is better: accuracies, scores.
    Higher,
}

impl Direction {
    /// By how much `a` is better than `b`; negative where it is worse.
    ///
    /// ```
    /// use microdit_eval::statistics::Direction;
    /// assert_eq!(Direction::Lower.gain(2.0, 5.0), 3.0);
    /// assert_eq!(Direction::Higher.gain(2.0, 5.0), -3.0);
    /// ```
    pub fn gain(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Lower => b - a,
            Self::Higher => a - b,
        }
    }
}
