//! Ranges of the numbers people choose, and one error for those outside their range.

use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
};

/// A number outside its range, or a rule between several that is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {rule}")]
pub struct OutOfRange {
    /// The key at fault: a path of names and indices, joined by dots.
    pub key: String,
    /// The rule, with the values that break it.
    pub rule: String,
}

impl OutOfRange {
    /// A rule that `key` breaks.
    pub fn new(key: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            rule: rule.into(),
        }
    }

    /// The same, seen from the value that holds the key as its field `parent`.
    #[must_use]
    pub fn inside(self, parent: &str) -> Self {
        Self {
            key: format!("{parent}.{}", self.key),
            ..self
        }
    }
}

/// Checks that `value` lies in `range`. NaN lies in no range, infinity only in one without an end.
///
/// ```
/// use microdit::range::{above, within};
/// assert!(within("batch", 1, 1..).is_ok());
/// assert_eq!(
///     within("ratio", f64::NAN, 0.0..1.0).unwrap_err().to_string(),
///     "ratio: must be at least 0 and below 1, not NaN"
/// );
/// assert_eq!(
///     within("eps", 0.0, above(0.0, 1.0)).unwrap_err().to_string(),
///     "eps: must be above 0 and at most 1, not 0"
/// );
/// ```
///
/// # Errors
/// The range and the value.
pub fn within<T: PartialOrd + Debug>(
    key: &str,
    value: T,
    range: impl RangeBounds<T>,
) -> Result<(), OutOfRange> {
    if range.contains(&value) {
        return Ok(());
    }
    let low = match range.start_bound() {
        Bound::Included(low) => Some(format!("at least {}", shown(low))),
        Bound::Excluded(low) => Some(format!("above {}", shown(low))),
        Bound::Unbounded => None,
    };
    let high = match range.end_bound() {
        Bound::Included(high) => Some(format!("at most {}", shown(high))),
        Bound::Excluded(high) => Some(format!("below {}", shown(high))),
        Bound::Unbounded => None,
    };
    let bounds: Vec<String> = low.into_iter().chain(high).collect();
    let rule = format!("must be {}, not {}", bounds.join(" and "), shown(&value));
    Err(OutOfRange::new(key, rule))
}

/// The range above `low`, up to and including `high`.
pub fn above<T>(low: T, high: T) -> (Bound<T>, Bound<T>) {
    (Bound::Excluded(low), Bound::Included(high))
}

/// Checks a rule that is more than a range; `rule` says it with the values.
///
/// # Errors
/// The rule, where it does not hold.
pub fn require(holds: bool, key: &str, rule: impl FnOnce() -> String) -> Result<(), OutOfRange> {
    match holds {
        true => Ok(()),
        false => Err(OutOfRange::new(key, rule())),
    }
}

/// A number as people write it: 1 instead of 1.0, and 1e308 instead of 309 digits.
fn shown(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_inside_are_taken() {
        let taken = |value: f64| within("x", value, above(0.0, 1.0)).is_ok();
        assert!(taken(1.0) && taken(1e-308));
        for value in [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!taken(value), "{value}");
        }
        assert!(within("x", u64::MAX, 1..).is_ok() && within("x", 0, 1..).is_err());
    }

    #[test]
    fn messages_hold_key_range_and_value() {
        let error = within("lr", 1e308, 0.0..=100.0)
            .unwrap_err()
            .inside("optimizer");
        let text = error.to_string();
        assert_eq!(
            text,
            "optimizer.lr: must be at least 0 and at most 100, not 1e308"
        );
        let text = within("every", 0, 1..).unwrap_err().to_string();
        assert_eq!(text, "every: must be at least 1, not 0");
    }
}
