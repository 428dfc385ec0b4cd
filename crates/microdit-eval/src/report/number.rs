//! Numbers as they are read by people.

/// Four significant digits, the powers of ten of very large and very small numbers apart.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..7.0).contains(&magnitude) {
        let text = format!("{value:.3e}");
        return match text.split_once('e') {
            Some((digits, power)) => format!("{}e{power}", trimmed(digits)),
            None => text,
        };
    }
    let decimals = (3.0 - magnitude).max(0.0) as usize;
    trimmed(&format!("{value:.decimals$}"))
}

/// Without zeros after the point.
fn trimmed(digits: &str) -> String {
    match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    }
}

/// With commas between thousands.
pub(super) fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Hours, or minutes and seconds where there are few.
pub(super) fn time(hours: f64) -> String {
    match hours {
        hours if hours >= 1.0 => format!("{} h", short(hours)),
        hours if hours * 60.0 >= 1.0 => format!("{} min", short(hours * 60.0)),
        hours => format!("{} s", short(hours * 3600.0)),
    }
}

/// An amount of money.
pub(super) fn dollars(usd: f64) -> String {
    match usd {
        usd if usd == 0.0 || usd >= 0.01 => format!("${usd:.2}"),
        usd => format!("${}", short(usd)),
    }
}

/// A moment given in seconds since 1970, in universal time.
pub(super) fn date(seconds: u64) -> String {
    let moment = i64::try_from(seconds).map(jiff::Timestamp::from_second);
    match moment {
        Ok(Ok(moment)) => moment.to_string().replace('T', " ").replace('Z', " UTC"),
        _ => format!("{seconds} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.215_12, "0.2151"),
            (-0.000_412_345, "-0.0004123"),
            (12.0, "12"),
            (1234.56, "1235"),
            (99_999.6, "100000"),
            (1.234_56e15, "1.235e15"),
            (3e-9, "3e-9"),
            (100.0, "100"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(whole(123), "123");
        assert_eq!(time(0.02), "1.2 min");
        assert_eq!(dollars(1890.004), "$1890.00");
        assert_eq!(dollars(0.0012), "$0.0012");
    }

    /// As `date -u -d @SECONDS` prints them.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_941_296, "2026-11-29 08:34:56 UTC"),
            (u64::MAX, "18446744073709551615 s after 1970"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
