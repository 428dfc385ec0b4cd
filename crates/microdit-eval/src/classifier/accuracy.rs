//! Shares of pictures whose class is seen.

use crate::statistics::wilson;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many of a number of pictures are seen as what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// Pictures whose class is seen.
    pub right: u64,
    /// Pictures in all.
    pub of: u64,
}

impl Accuracy {
    /// The share, 0 to 1; 0 of none.
    pub fn share(self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }

    /// Wilson's 95 % interval of the share; all of it of no picture.
    pub fn interval(self) -> [f64; 2] {
        wilson(self.right, self.of)
    }

    /// Counts one picture more.
    pub(crate) fn count(&mut self, right: bool) {
        self.right += u64::from(right);
        self.of += 1;
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = self.interval().map(|bound| 100.0 * bound);
        let share = 100.0 * self.share();
        write!(f, "{share:.1} % [{low:.1}, {high:.1}] of {}", self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_shown_with_its_interval() {
        // Wilson's interval of 8 of 10.
        assert_eq!(
            Accuracy { right: 8, of: 10 }.to_string(),
            "80.0 % [49.0, 94.3] of 10"
        );
    }
}
