//! Numbers on the command line, each with its range.

use clap::builder::RangedU64ValueParser;
use microdit::range::within;
use std::ops::RangeInclusive;

/// A whole number in `range`.
pub(crate) fn whole(range: RangeInclusive<usize>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(*range.start() as u64..=*range.end() as u64)
}

/// A number in `range`.
pub(crate) fn real(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync {
    move |text| {
        let value = text.parse().map_err(|_| "expected a number")?;
        let inside = within("", value, range.clone());
        inside.map_err(|error| error.rule).map(|()| value)
    }
}
