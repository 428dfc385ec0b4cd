//! Collects the error of every compared tensor.

use crate::golden::Array;
use std::fmt;

/// One comparison.
#[derive(Debug)]
struct Line {
    what: String,
    error: f64,
    limit: f64,
}

/// All comparisons of a golden file.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    /// Multiplies every floating-point limit: 1 in f32, more where products run in TF32.
    pub slack: f64,
}

impl Report {
    /// A report whose floating-point limits are multiplied by `slack`.
    pub fn new(slack: f64) -> Self {
        Self {
            lines: Vec::new(),
            slack,
        }
    }

    /// Largest absolute difference, at most `limit`.
    pub fn close(&mut self, what: impl Into<String>, found: &[f64], expected: &Array, limit: f64) {
        let what = what.into();
        assert_eq!(found.len(), expected.data.len(), "{what}: number of values");
        let error = found
            .iter()
            .zip(&expected.data)
            .map(|(a, b)| (a - b).abs())
            // NaN must fail, and f64::max drops it.
            .fold(0.0, |max, e| {
                if e.is_nan() {
                    f64::INFINITY
                } else {
                    e.max(max)
                }
            });
        let limit = limit * self.slack;
        self.lines.push(Line { what, error, limit });
    }

    /// A scalar error, at most `limit`.
    pub fn at_most(&mut self, what: impl Into<String>, error: f64, limit: f64) {
        let limit = limit * self.slack;
        let error = if error.is_nan() { f64::INFINITY } else { error };
        self.lines.push(Line {
            what: what.into(),
            error,
            limit,
        });
    }

    /// The same values exactly, whatever the slack.
    pub fn equal(&mut self, what: impl Into<String>, found: &[f64], expected: &[f64]) {
        let differing = if found.len() == expected.len() {
            found.iter().zip(expected).filter(|(a, b)| a != b).count()
        } else {
            found.len().max(expected.len())
        };
        self.lines.push(Line {
            what: what.into(),
            error: differing as f64,
            limit: 0.0,
        });
    }

    /// Number of comparisons.
    pub fn compared(&self) -> usize {
        self.lines.len()
    }

    /// Comparisons beyond their limit.
    pub fn failures(&self) -> Vec<String> {
        self.lines
            .iter()
            .filter(|line| line.error > line.limit)
            .map(Line::to_string)
            .collect()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.error <= self.limit {
            "ok  "
        } else {
            "FAIL"
        };
        write!(
            f,
            "{verdict} {:<60} error {:>10.3e}  limit {:>10.3e}",
            self.what, self.error, self.limit
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|line| writeln!(f, "  {line}"))
    }
}
