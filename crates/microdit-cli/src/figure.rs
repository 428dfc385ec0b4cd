//! Numbers as they are printed: short, in a unit that fits.

/// A number of hours or dollars, with separated thousands.
pub(crate) fn count(value: f64) -> String {
    if value < 100.0 {
        return short(value);
    }
    let digits = format!("{value:.0}");
    let mut separated = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

/// A number to three digits, or to two with a power of ten where that would be long.
pub(crate) fn short(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        _ if !(1e-3..1e5).contains(&value) => format!("{value:.1e}"),
        _ => {
            let decimals = 2.0 - value.log10().floor();
            format!("{value:.*}", decimals.max(0.0) as usize)
        }
    }
}

/// A time in hours as a number and its unit: hours, or the smaller unit in which it is at least 1, down to seconds.
pub(crate) fn time(hours: f64) -> String {
    // What rounds to 60 of a unit is 1 of the next.
    match hours * 3600.0 {
        seconds if seconds < 59.95 => format!("{} s", short(seconds)),
        seconds if seconds < 3597.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{} h", count(seconds / 3600.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_fits() {
        let times = [0.0, 1e-4, 0.0166, 0.01666, 0.5, 0.9999, 1.0, 62.4, 4321.0].map(time);
        let expected = [
            "0 s", "0.360 s", "59.8 s", "1.0 min", "30.0 min", "1.000 h", "1.00 h", "62.4 h",
            "4,321 h",
        ];
        assert_eq!(times, expected);
    }

    #[test]
    fn numbers_are_short_and_say_their_size() {
        let counts = [0.0, 1.64e-5, 0.0214, 9.5, 499.0, 16_200.0, 1_234_567.4].map(count);
        let expected = [
            "0",
            "1.6e-5",
            "0.0214",
            "9.50",
            "499",
            "16,200",
            "1,234,567",
        ];
        assert_eq!(counts, expected);
        let ratios = [1e-7, 0.0085, 0.99996, 1.0, 9.994, 94.73, 4321.2, 3e9].map(short);
        let expected = [
            "1.0e-7", "0.00850", "1.000", "1.00", "9.99", "94.7", "4321", "3.0e9",
        ];
        assert_eq!(ratios, expected);
    }
}
