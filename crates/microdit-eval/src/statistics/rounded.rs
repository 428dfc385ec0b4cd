//! Numbers with as many digits as they have.

/// An uncertainty below this share of the value is rounding.
const ROUNDING: f64 = 1e-12;

/// A value and its uncertainty, both rounded to the uncertainty's first digit, or to its first two where the first is a 1;
/// without a usable uncertainty to four digits.
///
/// ```
/// use microdit_eval::statistics::rounded;
/// assert_eq!(rounded(4.0817, 0.6204), ("4.1".into(), "0.6".into()));
/// assert_eq!(rounded(0.01062, 0.00142), ("0.0106".into(), "0.0014".into()));
/// assert_eq!(rounded(1234.5, 30.2), ("1230".into(), "30".into()));
/// ```
pub fn rounded(value: f64, uncertainty: f64) -> (String, String) {
    // What rounding leaves of no uncertainty at all is none.
    let usable = uncertainty.is_finite() && uncertainty > ROUNDING * value.abs();
    let unit = match usable {
        true => unit(uncertainty),
        false if value != 0.0 && value.is_finite() => magnitude(value) - 3,
        false => 0,
    };
    (at(value, unit), at(uncertainty, unit))
}

/// The power of ten of the last digit shown of an uncertainty. 0.19 has two digits; 0.196 is rounded to 0.2, which has one.
fn unit(uncertainty: f64) -> i32 {
    let first = magnitude(uncertainty);
    match uncertainty / 10f64.powi(first) < 1.95 {
        true => first - 1,
        false => first,
    }
}

/// The power of ten of a number's first digit.
fn magnitude(value: f64) -> i32 {
    value.abs().log10().floor() as i32
}

/// A number rounded to a multiple of ten to the power of `unit`.
fn at(value: f64, unit: i32) -> String {
    let scale = 10f64.powi(unit.max(0));
    let rounded = (value / scale).round_ties_even() * scale;
    let value = if unit > 0 { rounded } else { value };
    format!("{value:.*}", usize::try_from(-unit).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_end_where_the_uncertainty_begins() {
        for (value, uncertainty, expected) in [
            (0.2151, 0.0106, ("0.215", "0.011")),
            (0.2151, 0.0196, ("0.22", "0.02")),
            (9.96, 0.096, ("9.96", "0.10")),
            (-3.0, 2.0, ("-3", "2")),
            (0.0, 0.5, ("0.0", "0.5")),
            (98765.0, 1234.0, ("98800", "1200")),
            (1.5, 1.0, ("1.5", "1.0")),
        ] {
            let (shown, around) = rounded(value, uncertainty);
            assert_eq!((shown.as_str(), around.as_str()), expected);
        }
    }

    #[test]
    fn without_an_uncertainty_four_digits_are_shown() {
        for (value, expected) in [
            (0.215149, "0.2151"),
            (1234.56, "1235"),
            (0.0, "0"),
            (2e-9, "0.000000002000"),
        ] {
            assert_eq!(rounded(value, 0.0).0, expected);
            assert_eq!(rounded(value, f64::NAN).0, expected);
            assert_eq!(rounded(value, 1e-17 * value.abs()).0, expected);
        }
    }
}
